"""The Debian package in a Debian of its own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from kmsd import __version__
from tests.daemons import wait_for
from tests.packages.root import Debian, clean
from tests.pages import ROOT
from tests.walk import EDITOR, page, walk

PIN = "1234-user"
PROGRAMS = ("kmsd", "kmsctl", "kmstui", "k8s-kms-plugin")
UNITS = ("kmsd", "kmsd-proxy", "kmsd-key-manager")
CREDENTIALS = {"CREDENTIALS_DIRECTORY": "/run/credentials", "SOFTHSM2_CONF": "/etc/kmsd/softhsm2.conf"}
KEPT = {"/etc/kmsd/pin", "/var/lib/kmsd/audit.jsonl", "/var/lib/kmsd/audit-kms.jsonl"}
"""What a purge leaves beside the token, whose files have names of their own."""
FAST = {"DEB_OPTIONS": "-Zgzip -z1"}


def check_package(folder: Path, step: Callable[[str], None]) -> None:
    """Raise AssertionError at the first thing that is not as it should be. step: told what has been shown."""
    deb = build()
    digest = hashlib.sha256(deb.read_bytes()).digest()
    build()
    assert hashlib.sha256(deb.read_bytes()).digest() == digest
    step("two builds of the package are the same bytes")
    lintian = subprocess.run(["lintian", "--fail-on=error,warning", deb], capture_output=True, text=True, check=False)
    assert lintian.returncode == 0, lintian.stdout
    step("lintian finds no error and no warning that is not argued")
    debian = Debian(folder / "debian")
    debian.unpack()
    shutil.copy(deb, debian.folder / "old.deb")
    newer(folder, deb, debian.folder / "new.deb")
    before = debian.files("/usr", "/etc", "/lib", "/var/lib/kmsd")

    debian.run("dpkg", "--install", "/old.deb")
    assert debian.run("kmsd", "--version") == f"kmsd {__version__}\n"
    for program in PROGRAMS:
        debian.run(program, "--help")
    assert "nologin" in debian.run("getent", "passwd", "kmsd")
    assert debian.run("stat", "-c", "%a %U", "/run/kmsd", "/run/kmsd-admin", "/var/lib/kmsd").split("\n")[:3] == [
        "711 root", "711 root", "700 root",
    ]  # fmt: skip
    debian.run("systemd-analyze", "verify", "--man=no", *(f"/lib/systemd/system/{unit}.service" for unit in UNITS))
    assert not re.findall("linked|enabled", debian.run("ls", "/etc/systemd/system"))
    settings = debian.run("kmsd", "check-config")
    assert "/etc/kmsd/kmsd.toml" in settings
    step("it installs, its programs run, its units are sound, and nothing is started")

    seconds = quick_start(debian)
    step(f"a new user walks docs/quickstart.md in {seconds:.1f} s")

    prepare(debian)
    kmsd = serve(debian, folder)
    debian.run("kmsctl", "keygen", "k8s-kek", "--wait")
    debian.run("kmsctl", "health", "--wait")
    sealed = debian.run("kmsctl", "encrypt", "-", text="a data key")
    assert debian.run("kmsctl", "decrypt", "-", text=sealed) == "a data key"
    keys = debian.run("kmsctl", "keys", "list", "-o", "json")
    step("kmsd serves from SoftHSM as the user kmsd, and a value comes back")

    conf = debian.folder / "etc/kmsd/kmsd.toml"
    conf.write_text(edited := conf.read_text() + "# this machine's own\n")
    debian.run("dpkg", "--force-confdef", "--install", "/new.deb")
    assert conf.read_text() == edited
    assert "a new default" in conf.with_suffix(".toml.dpkg-dist").read_text()
    assert kmsd.poll() is None
    assert debian.run("kmsctl", "decrypt", "-", text=sealed) == "a data key"
    stop(kmsd)
    kmsd = serve(debian, folder)
    debian.run("kmsctl", "health", "--wait")
    assert debian.run("kmsctl", "decrypt", "-", text=sealed) == "a data key"
    same = re.compile(r'"key_id": "([^"]+)"')
    assert same.findall(debian.run("kmsctl", "keys", "list", "-o", "json")) == same.findall(keys)
    assert debian.run("dpkg-query", "-W", "-f=${Version}", "kmsd").endswith("+next")
    step("it is upgraded while kmsd serves: calls go on, the edited configuration and the state stay")
    stop(kmsd)

    debian.run("dpkg", "--remove", "kmsd")
    left = debian.files("/usr", "/etc", "/lib", "/var/lib/kmsd") - before
    assert not {each for each in left if each.startswith(("/usr/", "/lib/"))}, left
    assert {"/etc/kmsd/kmsd.toml", "/etc/kmsd/softhsm2.conf", *KEPT} <= left
    debian.run("dpkg", "--install", "/new.deb")
    kmsd = serve(debian, folder)
    debian.run("kmsctl", "health", "--wait")
    assert debian.run("kmsctl", "decrypt", "-", text=sealed) == "a data key"
    stop(kmsd)
    step("removed, it leaves configuration, state and keys; installed again, it opens what it sealed before")

    said = debian.run("dpkg", "--purge", "kmsd")
    left = debian.files("/usr", "/etc/kmsd", "/lib", "/var/lib/kmsd") - before
    tokens = {each for each in left if each.startswith("/var/lib/kmsd/tokens/")}
    assert len(tokens) > 2
    assert "/var/lib/kmsd stays" in said
    assert {each for each in left - tokens if not each.endswith(".lock")} == KEPT, left
    debian.run("softhsm2-util", "--show-slots", environment={"SOFTHSM2_CONF": "/dev/null"})
    step(f"purged, it leaves the token ({len(tokens)} files) and {', '.join(sorted(left - tokens))}")

    booted = Debian(folder / "booted")
    booted.unpack()
    for name in ("old.deb", "new.deb"):
        shutil.copy(debian.folder / name, booted.folder)
    with booted.booted() as run:
        check_with_systemd(booted, run, step)


def check_with_systemd(debian: Debian, run: Callable[..., str], step: Callable[[str], None]) -> None:
    """Install, serve, upgrade and remove where systemd is the first process, with all that the unit hardens."""
    run("dpkg", "--install", "/old.deb")
    assert run("sh", "-c", "systemctl is-enabled kmsd; systemctl is-active kmsd; true").split() == [
        "disabled",
        "inactive",
    ]
    run("install", "-m", "600", "/dev/stdin", "/etc/kmsd/pin", text=f"{PIN}\n")
    run("install", "-d", "-m", "700", "/var/lib/kmsd/tokens")
    words = ("softhsm2-util", "--init-token", "--free", "--label", "kmsd", "--so-pin", "1234-so", "--pin", PIN)
    run("env", "SOFTHSM2_CONF=/etc/kmsd/softhsm2.conf", *words)
    run("systemctl", "enable", "--now", "kmsd")
    run("kmsctl", "keygen", "k8s-kek", "--wait")
    run("kmsctl", "health", "--wait")
    sealed = run("kmsctl", "encrypt", "-", text="a data key")
    exposure = run("systemd-analyze", "security", "--no-pager", "kmsd").splitlines()[-1]
    step(f"under systemd the unit serves with its PIN as a credential; {exposure.strip('→ :-)')}")
    before = run("systemctl", "show", "--property=MainPID", "kmsd")
    run("dpkg", "--force-confdef", "--install", "/new.deb")
    assert run("systemctl", "show", "--property=MainPID", "kmsd") != before
    run("kmsctl", "health", "--wait")
    assert run("kmsctl", "decrypt", "-", text=sealed) == "a data key"
    assert run("systemctl", "is-enabled", "kmsd").strip() == "enabled"
    step("an upgrade restarts it, enabled as before, and it opens what it sealed")
    run("dpkg", "--remove", "kmsd")
    assert run("sh", "-c", "systemctl is-active kmsd; true").strip() in ("inactive", "failed")
    run("sh", "-c", "! pgrep -f ^/usr/lib/kmsd")
    step("removing it ends it")


def build() -> Path:
    """Build the package, compressed lightly, and return it."""
    argv = ["sh", "packaging/debian/build.sh"]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **FAST}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[-1])


def newer(folder: Path, deb: Path, to: Path) -> None:
    """Make the package of a higher version, with another configuration, of this one."""
    tree = folder / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+next", control.read_text(), flags=re.MULTILINE))
    conf = tree / "etc/kmsd/kmsd.toml"
    conf.write_text(conf.read_text() + "# a new default\n")
    argv: list[str | Path] = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, to]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(tree)


def quick_start(debian: Debian) -> float:
    """Have a new user of this Debian type docs/quickstart.md, and return how many seconds that took."""
    debian.run("useradd", "--create-home", "--shell", "/bin/bash", "somebody")
    editor = debian.folder / "usr/local/bin/edit"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    shell = ["env", "-i", "HOME=/home/somebody", "PATH=/usr/local/bin:/usr/bin:/bin", "EDITOR=edit", "TERM=dumb"]
    done = walk(debian.argv(*shell, "bash", "--norc", "-euc", user="somebody"), clean(), f"cd\n{page()}")
    assert done.code == 0, done.text
    assert {"opened", "still opened"} <= set(done.text.splitlines())
    editor.unlink()
    debian.run("userdel", "--remove", "somebody")
    return done.seconds


def prepare(debian: Debian) -> None:
    """Do what the operator does, a token and a PIN, and what systemd does for a unit with `User=kmsd`."""
    debian.run("install", "-m", "600", "/dev/stdin", "/etc/kmsd/pin", text=f"{PIN}\n")
    debian.run("install", "-d", "-m", "500", "-o", "kmsd", "/run/credentials")
    debian.run("install", "-m", "400", "-o", "kmsd", "/etc/kmsd/pin", "/run/credentials/pin")
    debian.run("chown", "kmsd:kmsd", "/run/kmsd", "/run/kmsd-admin", "/var/lib/kmsd")
    debian.run("install", "-d", "-m", "700", "-o", "kmsd", "-g", "kmsd", "/var/lib/kmsd/tokens")
    words = ("softhsm2-util", "--init-token", "--free", "--label", "kmsd", "--so-pin", "1234-so", "--pin", PIN)
    debian.run(*words, user="kmsd", environment=CREDENTIALS)


def serve(debian: Debian, folder: Path) -> subprocess.Popen[bytes]:
    """Start kmsd as the unit does."""
    unit = (debian.folder / "lib/systemd/system/kmsd.service").read_text()
    words = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0].split()
    environment: Mapping[str, str] = {**CREDENTIALS, "HOME": "/"}
    process = debian.start(*words, user="kmsd", environment=environment, log=folder / "log")
    wait_for((debian.folder / "run/kmsd-admin/admin.sock").exists)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
