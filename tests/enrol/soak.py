"""Two key managers with one CA, and nodes that renew under load while the CA is rolled: `make soak ARGS=renewal`.

All is as docs/enrolment.md has it: the CA's key on the token, the store on PostgreSQL, the port of the key managers
with the certificate that their own CA issued, and proxies with what `kmsctl enrol` wrote. SOAK_SECONDS is read from
the environment. Prints a line for each minute, and JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import grpc

from tests import forkserver, postgresql
from tests.chaos.load import Load
from tests.daemons import KMSCTL, KMSD, Kmsd, wait_for
from tests.postgresql import PostgreSQL
from tests.remote.certificates import Issued
from tests.remote.conftest import Client, free_port
from tests.tokens import SoftToken, make_token

SECONDS: Final = 600.0
LIFETIME: Final = 60
"""Seconds that a certificate lasts: the least that kmsd issues."""
_KEPT: Final = 1000
"""Values of each node that are read back at the end."""
_OWN: Final = (("grpc.use_local_subchannel_pool", 1),)
_REVOCATIONS: Final = 8
_STATED: Final = 5.0
"""Seconds after which a revocation counts at every key manager, as docs/enrolment.md has it."""


@dataclass
class Soaked:
    """What came of it. renewals: for each node. rolled: whether certificates of the second key are out at the end.
    revoked: seconds from a revocation at one key manager until the other refused an open connection."""

    seconds: float
    calls: dict[str, int] = field(default_factory=dict)
    failed: dict[str, dict[str, int]] = field(default_factory=dict)
    wrong: int = 0
    lost: int = 0
    renewals: dict[str, int] = field(default_factory=dict)
    rolled: bool = False
    problems: list[str] = field(default_factory=list)
    revoked: list[float] = field(default_factory=list)


@dataclass
class KeyManager:
    """port: for nodes; est_port: of EST."""

    kmsd: Kmsd
    port: int
    est_port: int

    def ctl(self, *words: str, stdin: str = "") -> str:
        """What kmsctl prints. Fails if it does."""
        done = forkserver.run(
            [KMSCTL, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "KMSCTL_TARGET": str(self.kmsd.admin_socket)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def fingerprint(self) -> str:
        found: str = json.loads(self.ctl("ca", "show", "-o", "json"))["certificate"]["sha256"]
        return found

    @property
    def serves(self) -> bool:
        """Whether it has opened the ports for nodes since it was started last."""
        log = self.kmsd.log_text()
        return log.count("serving EST") == log.count("serving on TCP") > 0

    def channel(self, caller: Issued) -> grpc.Channel:
        """A connection of a node, which trusts what was written when it enrolled."""
        trusted = caller.key.with_name("ca.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(trusted, caller.key.read_bytes(), caller.certificate.read_bytes())
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, _OWN)

    def enrol(self, folder: Path, node: str) -> Issued:
        """Enrol a node, whose files lie in a folder of its name then."""
        token = self.ctl("enrol", "token", node, "--tenant", "cluster-a")
        self.ctl(
            "enrol", "--server", f"https://127.0.0.1:{self.est_port}", "--ca-fingerprint", self.fingerprint,
            "--node", node, "--out", str(folder / node), "--token-file", "-", stdin=token,
        )  # fmt: skip
        return Issued(folder / node / "tls.crt", folder / node / "tls.key")


class Site:
    """Key managers of these names, on one token and one store. backdate: seconds that certificates begin earlier; the
    more, the sooner they are renewed. lifetime: seconds that they last. environment: of the key managers."""

    def __init__(
        self,
        folder: Path,
        backdate: int,
        lifetime: int = LIFETIME,
        names: tuple[str, ...] = ("a", "b"),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._environment = environment
        self._folder = folder
        self._backdate = backdate
        self._lifetime = lifetime
        self._names = names
        self._stack = contextlib.ExitStack()
        self.managers: list[KeyManager] = []

    def __enter__(self) -> Site:
        with self._stack:
            database = postgresql.start()
            self._stack.callback(database.close)
            url, token = database.database(), make_token(self._folder / "hsm")
            self.managers = [self._manager(name, token, database, url) for name in self._names]
            self.managers[0].ctl("ca", "init")
            for each in self.managers:
                wait_for(lambda each=each: each.serves, 40)
            assert len({each.fingerprint for each in self.managers}) == 1
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _manager(self, name: str, token: SoftToken, database: PostgreSQL, url: str) -> KeyManager:
        home, port, est_port = self._folder / name, free_port(), free_port()
        home.mkdir()
        state, config = home / "state", home / "config.toml"
        config.write_text(
            f'[server]\nenabled = true\nhost = "127.0.0.1"\nport = {port}\ntls_ca = "{state}/ca.pem"\n'
            f'tls_certificate = "{state}/est.crt"\ntls_key = "{state}/est.key"\n'
            f"[ca]\nenabled = true\nlifetime = {self._lifetime}\nbackdate = {self._backdate}\n"
            f'[est]\nlisten = "127.0.0.1:{est_port}"\nnames = ["manager.test", "127.0.0.1"]\n'
            f'[store]\nurl = "{url}"\npassword_file = "{database.password_file}"\n'
            '[[tenants]]\nname = "cluster-a"\nsan = ["DNS:*.cluster-a.test"]\nkey_label = "kek-a"\nmax_rate = 10000\n'
        )
        flags = "--auto-create", f"--config={config}"
        kmsd = Kmsd(home, token, flags, self._environment)
        self._stack.enter_context(kmsd.start().wait_ok())
        wait_for(lambda: "tenant is healthy" in kmsd.log_text())
        return KeyManager(kmsd, port, est_port)

    @contextlib.contextmanager
    def node(self, name: str, at: KeyManager) -> Iterator[Kmsd]:
        """A node that enrols and renews at one key manager, and serves with both."""
        issued = at.enrol(self._folder, name)
        home = self._folder / f"p-{name}"
        home.mkdir()
        files = f"--tls-ca={issued.key.with_name('ca.crt')}", f"--tls-certificate={issued.certificate}"
        upstreams = (f"--upstream=127.0.0.1:{each.port}" for each in self.managers)
        environment = {
            "KMSD_PROXY__EST_SERVER": f"https://127.0.0.1:{at.est_port}",
            "KMSD_HEALTH__INTERVAL": "0.5",
        }
        proxy = Kmsd(
            home, at.kmsd.token, (*upstreams, *files, f"--tls-key={issued.key}"), environment, default_flags=False,
            command=(KMSD, "proxy"),
        )  # fmt: skip
        with proxy.start().wait_ok():
            yield proxy

    def revocation(self, name: str) -> float:
        """Seconds from the revocation of a node at the first key manager until the second refuses it, on a connection
        that is open."""
        first, second = self.managers
        issued = first.enrol(self._folder, name)
        with second.channel(issued) as channel:
            client = Client(channel)
            assert client.status().healthz == "ok"
            first.ctl("ca", "revoke", issued.serial, "--yes")
            began = time.monotonic()
            wait_for(lambda: _is_refused(client), 30)
            return time.monotonic() - began


def _is_refused(client: Client) -> bool:
    try:
        client.status()
    except grpc.RpcError:
        return True
    return False


class _Serials:
    """How often the certificate of each node was another one than before."""

    def __init__(self, folder: Path, nodes: tuple[str, ...]) -> None:
        self._files = {node: Issued(folder / node / "tls.crt", folder / node / "tls.key") for node in nodes}
        self._seen = {node: each.serial for node, each in self._files.items()}
        self.renewals = dict.fromkeys(nodes, 0)

    def look(self) -> None:
        for node, each in self._files.items():
            serial = each.serial
            if serial != self._seen[node]:
                self._seen[node] = serial
                self.renewals[node] += 1


def soak(
    folder: Path, seconds: float, backdate: int = 0, revocations: int = _REVOCATIONS, pause: float = 0.02
) -> Soaked:
    """Run it. Leaves nothing running. pause: seconds between the calls of one thread of the load."""
    result = Soaked(seconds)
    nodes = "node-1", "node-2"
    with Site(folder, backdate) as site, contextlib.ExitStack() as stack:
        before = site.managers[0].fingerprint
        proxies = [stack.enter_context(site.node(node, at)) for node, at in zip(nodes, site.managers, strict=True)]
        loads = [Load(each, pause, most=_KEPT) for each in proxies]
        with contextlib.ExitStack() as running:
            for load in loads:
                running.enter_context(load.running())
            _watch(site, _Serials(folder, nodes), loads, result)
        for node, load in zip(nodes, loads, strict=True):
            result.calls[node], result.failed[node] = load.codes.total(), load.failed
            result.wrong += load.wrong
            result.lost += load.lost(60.0)
        result.rolled = site.managers[0].fingerprint != before
        result.problems = [problem.message for each in proxies for problem in each.status().problems]
        result.revoked = [round(site.revocation(f"gone-{number}"), 2) for number in range(revocations)]
    return result


def _watch(site: Site, serials: _Serials, loads: list[Load], result: Soaked) -> None:
    began = time.monotonic()
    minute, roll = began, began + result.seconds * 0.4
    while (now := time.monotonic()) < began + result.seconds:
        if roll and now > roll:
            roll = 0.0
            site.managers[0].ctl("ca", "roll", "--yes")
        if now > minute:
            minute += 60
            counted = sum(each.codes.total() for each in loads)
            print(f"{now - began:6.0f} s, {counted} calls, renewals {serials.renewals}", file=sys.stderr)  # noqa: T201
        serials.look()
        time.sleep(0.2)
    result.renewals = serials.renewals


def failures(result: Soaked, renewals: int) -> list[str]:
    """What is not as it has to be. renewals: of each node at the least."""
    found = {
        f"calls failed: {result.failed}": any(result.failed.values()),
        f"{result.wrong} wrong plaintexts": result.wrong,
        f"{result.lost} values lost": result.lost,
        f"renewals {result.renewals}": min(result.renewals.values()) < renewals,
        "the CA was not rolled": not result.rolled,
        f"revocations took {result.revoked} s": max(result.revoked) > _STATED,
        f"certificates are not renewed: {result.problems}": any("not renewed" in each for each in result.problems),
    }
    return [what for what, failed in found.items() if failed]


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS", SECONDS))
    with tempfile.TemporaryDirectory(prefix="k") as folder:
        result = soak(Path(folder), seconds)
    print(json.dumps(asdict(result)))  # noqa: T201  its answer
    # Two thirds of the time, a twentieth of it more, and some seconds for the renewal itself.
    for failure in (failed := failures(result, int(seconds // (LIFETIME * 0.72 + 3)))):
        print(failure, file=sys.stderr)  # noqa: T201
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
