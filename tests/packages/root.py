"""A Debian 12 of its own below a folder, from the machine's own apt sources, and commands in it: by chroot, or booted,
with systemd as the first process of namespaces of its own.

Made once, and kept as an archive in build/.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.daemons import wait_for
from tests.pages import ROOT

ARCHIVE = ROOT / "build" / "debian-bookworm.tar"
PACKAGES = ("python3", "procps", "systemd", "softhsm2", "ca-certificates")
"""What the package depends on, and a token. ca-certificates: sources of apt may be reached by TLS."""
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources")


def make_archive() -> None:
    """Make the archive, which takes a minute or two, unless it is there. Raises CalledProcessError."""
    install = '. scripts/apt.sh; apt_install "$@"'
    subprocess.run(["sh", "-euc", install, "sh", "mmdebstrap", "lintian"], cwd=ROOT, check=True)
    if ARCHIVE.exists():
        return
    ARCHIVE.parent.mkdir(exist_ok=True)
    half = ARCHIVE.with_suffix(".new")
    sources = [path for path in SOURCES if Path(path).exists()]
    argv = ["mmdebstrap", "--format=tar", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    subprocess.run([*argv, "bookworm", half, *sources], check=True)
    half.rename(ARCHIVE)


BOOT = """
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t sysfs -o ro sysfs "$0/sys"
mount -t tmpfs -o mode=755 tmpfs "$0/sys/fs/cgroup"
mkdir "$0/sys/fs/cgroup/systemd"
mount -t cgroup -o none,name=systemd cgroup "$0/sys/fs/cgroup/systemd" 2>/dev/null ||
  { umount "$0/sys/fs/cgroup"; mount -t cgroup2 cgroup2 "$0/sys/fs/cgroup"; }
mount -t tmpfs tmpfs "$0/run"
mount --rbind /dev "$0/dev"
mount --make-rslave "$0/dev"
cd "$0"
pivot_root . mnt
umount -l /mnt
# As systemd itself has it where it is no container's: credentials of units come by mounts that spread.
mount --make-rshared /
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
"""
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc")


@dataclass(frozen=True)
class Debian:
    """A Debian below `folder`."""

    folder: Path

    def unpack(self) -> None:
        self.folder.mkdir()
        subprocess.run(["tar", "-xf", ARCHIVE, "-C", self.folder], check=True)
        # To reach what this machine reaches, as this machine does.
        for path in ("etc/resolv.conf", TRUSTED.lstrip("/")):
            (self.folder / path).write_bytes(Path("/", path).read_bytes())

    def argv(self, *words: str, user: str = "") -> list[str]:
        """Return the command that runs these words there, with /proc and /dev; as root, or as this user of its own."""
        mounts = 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"'
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return ["unshare", "--mount", "sh", "-euc", mounts, str(self.folder), *become, *words]

    def run(
        self, *words: str, user: str = "", environment: Mapping[str, str] | None = None, text: str = "", code: int = 0
    ) -> str:
        """Run a command there, without this machine's environment, and return what it says. Fails if it exits with
        another code."""
        done = subprocess.run(
            self.argv(*words, user=user), env=clean(environment), input=text, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(self, *words: str, user: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program there that goes on; signals to the process reach it."""
        with log.open("ab") as out:
            return subprocess.Popen(self.argv(*words, user=user), env=clean(environment), stdout=out, stderr=out)

    @contextmanager
    def booted(self) -> Iterator[Callable[..., str]]:
        """Boot it, and give what runs commands there as `run` does. All its processes end with it."""
        argv = ["unshare", "--fork", "--kill-child", "--cgroup", *NAMESPACES, "sh", "-euc", BOOT, str(self.folder)]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as it:
            first = wait_for(lambda: Path(f"/proc/{it.pid}/task/{it.pid}/children").read_text().strip())

            def run(*words: str, text: str = "", code: int = 0) -> str:
                enter = ["nsenter", f"--target={first}", "--root", *NAMESPACES, "env", "-C", "/", *words]
                done = subprocess.run(
                    enter, env=clean(), input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    timeout=120, check=False,
                )  # fmt: skip
                assert done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
                return done.stdout

            try:
                wait_for(lambda: (self.folder / "bin").exists() and _is_up(run), 60, 0.5)
                yield run
            finally:
                os.kill(int(first), signal.SIGKILL)

    def files(self, *folders: str) -> set[str]:
        """Return what lies in these folders."""
        found = (each for folder in folders for each in (self.folder / folder.lstrip("/")).rglob("*"))
        return {f"/{each.relative_to(self.folder)}" for each in found if not each.is_dir()}


def _is_up(run: Callable[..., str]) -> bool:
    """Return whether systemd has started all that it starts. Units that containers cannot have may have failed."""
    try:
        return run("sh", "-c", "systemctl is-system-running || true").strip() in ("running", "degraded")
    except AssertionError:
        return False  # it has not come so far


def clean(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a program sees: proxies of this machine, and no more of it."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.lower().endswith("_proxy") or name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST")
    }
    usual = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    return passed | usual | {"PIP_CERT": TRUSTED} | dict(environment or {})
