"""What docs/remote.md says is typed as it stands there, on machines whose paths are moved, and does what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.daemons import KMSCTL, KMSD, wait_for
from tests.e2e.apiserver import SimulatedApiServer
from tests.e2e.conftest import shared_etcd
from tests.e2e.etcd import Etcd
from tests.remote.conftest import free_port
from tests.remote.machine import BECOME, Machine
from tests.strangers import needs_root
from tests.tokens import PIN, SO_PIN, clean_environment

__all__ = ["shared_etcd"]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "remote.md").read_text()
USER = 10001
NAMED = {"the CA's machine": "ca", "the key manager": "manager", "the node": "node"}
PLACES = ("/etc/kmsd", "/run/kmsd", "/run/kmsd-admin", "/var/lib/kmsd", "/etc/systemd/system", "/etc/kubernetes")
STAND_INS = {
    "useradd": "",
    "kmsd": 'exec {KMSD} "$@"',
    "kmsctl": 'exec {KMSCTL} --target unix://{root}/run/kmsd-admin/admin.sock "$@"',
    "runuser": 'shift 3; exec {become} "$@"',
    "softhsm2-util": 'exec /usr/bin/softhsm2-util "$@" --so-pin {SO_PIN} --pin {PIN}',
    # What the operator types: the PIN, and in the proxy's file where its key manager is.
    "edit": """
case "$1" in
  */pin) echo {PIN} > "$1" ;;
  */proxy.toml)
    sed -i 's/^upstreams = .*/upstreams = ["127.0.0.1:{port}"]\\nserver_name = "keys-1.ops.test"/' "$1"
    ;;
esac""",
    # It starts a unit as its ExecStart says, as its user and with its credentials, and reloads it.
    "systemctl": """
[ "$1" = daemon-reload ] && exit 0
eval unit=\\$$#
file={root}/etc/systemd/system/$unit.service
[ "$1" = reload ] && exec kill -HUP "$(cat {root}/$unit.pid)"
mkdir -p {root}/run/kmsd {root}/run/kmsd-admin {root}/var/lib/kmsd
become=
if grep -q ^User= "$file"; then
  install -d -m 500 -o {user} {root}/credentials
  install -m 400 -o {user} {root}/etc/kmsd/pin {root}/credentials/pin
  chown {user} {root}/run/kmsd {root}/run/kmsd-admin {root}/var/lib/kmsd
  become="{become}"
fi
cd /
HOME=/ CREDENTIALS_DIRECTORY={root}/credentials SOFTHSM2_CONF={root}/etc/kmsd/softhsm2.conf \\
  setsid $become $(sed -n 's/^ExecStart=//p' "$file") >> {root}/log 2>&1 < /dev/null &
echo $! > {root}/$unit.pid""",
}


def blocks(*headings: str) -> Iterator[tuple[str, str]]:
    """The blocks of these parts of the page: (where it is typed, what)."""
    texts: dict[str, str] = {}
    in_code, heading = False, ""
    for line in PAGE.splitlines():
        in_code ^= line.startswith("```")
        if not in_code and re.match(r"#{2,3} ", line):
            heading = line.lstrip("# ")
        texts[heading] = texts.get(heading, "") + line + "\n"
    for each in headings:
        for block in re.findall(r"^```sh\n# (?:on|in) (.*?)\n(.*?)^```$", texts[each], re.MULTILINE | re.DOTALL):
            yield block[0], block[1]


class Site:
    """The three machines of the page. Files that it says are brought from one to another are brought."""

    def __init__(self, make_machine: Callable[..., Machine]) -> None:
        self.port = free_port()
        self.machines = {name: self._machine(make_machine, name) for name in NAMED.values()}
        self.places = {name: each.root / "home" for name, each in self.machines.items()}

    def _machine(self, make_machine: Callable[..., Machine], name: str) -> Machine:
        machine = make_machine(name, {"31400": str(self.port), "/usr/bin/kmsd": KMSD, "kmsd-user": str(USER)})
        for path in PLACES:
            machine.moved[path] = str(machine.root / path.lstrip("/"))
        for path in ("etc/systemd/system", "etc/kubernetes/manifests", "run", "var/lib", "bin"):
            (machine.root / path).mkdir(parents=True)
        home = machine.root / "home"
        shutil.copytree(ROOT / "k8s", home / "k8s")
        for file in home.rglob("*.*"):
            if file.is_file():
                file.write_text(machine.here(file.read_text()))
        become = " ".join([*BECOME, f"--reuid={USER}", f"--regid={USER}"])
        words = {"KMSD": KMSD, "KMSCTL": KMSCTL, "PIN": PIN, "SO_PIN": SO_PIN, "become": become, "user": USER}
        for tool, text in STAND_INS.items():
            program = machine.root / "bin" / tool
            for key, value in {**words, "root": machine.root, "port": self.port}.items():
                text = text.replace(f"{{{key}}}", str(value))
            program.write_text(f"#!/bin/sh\nset -e\n{text}\n")
            program.chmod(0o755)
        return machine

    def type(self, where: str, text: str) -> str:
        """Type a block. Returns what it printed; fails if a command of it fails."""
        name = NAMED[where]
        machine = self.machines[name]
        text = re.sub(r"(-[go]) kmsd\b", rf"\1 {USER}", machine.here(text))
        environment = clean_environment() | {"PATH": f"{machine.root}/bin:{os.environ['PATH']}", "EDITOR": "edit"}
        done = subprocess.run(
            ["bash", "-eu", "-c", f"{text}\npwd > {machine.root}/cwd"],
            cwd=self.places[name], env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        log = machine.root / "log"
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}"
        self.places[name] = Path((machine.root / "cwd").read_text().strip())
        if name == "ca":
            for other in ("manager", "node"):
                for file in self.places["ca"].glob("*.*"):
                    shutil.copy(file, self.places[other])
        return done.stdout

    def close(self) -> None:
        for machine in self.machines.values():
            for file in machine.root.glob("*.pid"):
                os.kill(int(file.read_text()), signal.SIGTERM)
                wait_for(lambda file=file: not Path(f"/proc/{file.read_text().strip()}").exists())


@pytest.fixture
def site(make_machine: Callable[..., Machine]) -> Iterator[Site]:
    made = Site(make_machine)
    yield made
    made.close()


FROM_NOTHING = ("1. A small CA", "2. The key manager", "3. The nodes", "4. kube-apiserver")


@needs_root
def test_from_nothing_to_an_encrypted_secret_and_on(site: Site, shared_etcd: Etcd) -> None:
    for where, text in blocks(*FROM_NOTHING):
        if not where.endswith("instead of the unit"):
            site.type(where, text)
    manager, node = site.machines["manager"].root, site.machines["node"].root
    assert stat.S_IMODE((manager / "etc/kmsd/tls/tls.key").stat().st_mode) == 0o640
    apiserver = SimulatedApiServer(shared_etcd)
    apiserver.start(yaml.safe_load((node / "etc/kubernetes/encryption-config.yaml").read_text()))
    wait_for(lambda: apiserver.readyz()[0])
    apiserver.create_secret("remote", {"a": b"b"})
    assert apiserver.raw_stored("remote").startswith(b"k8s:enc:kms:v2:kmsd:")
    assert apiserver.read_secret("remote") == {"a": b"b"}

    old = (node / "etc/kmsd/tls/tls.crt").read_bytes()
    for where, text in blocks("Tenants"):
        assert "kek-b" in site.type(where, text)
    renew, install, *revoke = blocks("Certificates")
    site.type(*renew)
    site.type(*install)
    assert (node / "etc/kmsd/tls/tls.crt").read_bytes() != old
    assert apiserver.read_secret("remote") == {"a": b"b"}
    serial = site.type(*revoke[0]).strip()
    where, text = revoke[1]
    site.type(where, text.replace("SERIAL", serial))
    wait_for(lambda: "is revoked" in apiserver.readyz()[1])
    apiserver.stop()


def test_the_secrets_of_the_other_way_have_what_the_deployment_mounts(tmp_path: Path) -> None:
    ((_, text),) = blocks("In another cluster")
    for name in ("pin", "ca.crt", "keys-1.crt", "keys-1.key"):
        (tmp_path / name).write_text("x")
    made: dict[str, set[str]] = {}
    for line in text.splitlines():
        if " create secret " in line:
            argv = [*line.split(), "--dry-run=client", "-o", "yaml"]
            done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
            secret = yaml.safe_load(done.stdout)
            made[secret["metadata"]["name"]] = set(secret["data"])
            assert secret["metadata"]["namespace"] == "kmsd"
        elif " -f " in line or " -k " in line:
            assert (ROOT / line.split()[-1]).exists()
    spec = yaml.safe_load((ROOT / "k8s/key-manager/deployment.yaml").read_text())["spec"]["template"]["spec"]
    (volume,) = [each for each in spec["volumes"] if "projected" in each]
    mounted = [each["secret"] for each in volume["projected"]["sources"] if "secret" in each]
    assert {each["name"]: {item["key"] for item in each["items"]} for each in mounted} == made
