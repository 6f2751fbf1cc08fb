"""A node and a key manager whose clocks are 90 seconds apart: what works all the same, and what is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import forkserver
from tests.chaos import clock
from tests.daemons import KMSCTL, KMSD, Kmsd, wait_for
from tests.enrol.soak import KeyManager, Site
from tests.remote.certificates import Issued
from tests.remote.conftest import Client

pytestmark = pytest.mark.processes


@dataclass
class Apart:
    """A key manager, and the folder of its nodes."""

    manager: KeyManager
    folder: Path
    ahead: dict[str, str]

    def restart(self, *, ahead: bool) -> None:
        """Have the clock of the key manager be ahead from now on, or right."""
        kmsd = self.manager.kmsd
        kmsd.stop()
        kmsd.log_file.write_bytes(b"")
        kmsd.environment = self.ahead if ahead else {}
        kmsd.start().wait_ok()
        wait_for(lambda: self.manager.serves)

    def enrol(self, *flags: str, ahead: bool = False, node: str = "node-1") -> subprocess.CompletedProcess[str]:
        """Run `kmsctl enrol`. ahead: by a clock that is ahead."""
        environment = {**os.environ, **(self.ahead if ahead else {})}
        return forkserver.run(
            [KMSCTL, "enrol", "--server", f"https://127.0.0.1:{self.manager.est_port}", "--ca-fingerprint",
             self.manager.fingerprint, "--node", node, "--out", str(self.folder / node), *flags],
            capture_output=True, text=True, timeout=60, check=False, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def token(self, node: str = "node-1") -> str:
        """The flag that names a file with a new token."""
        file = self.folder / f"{node}.token"
        file.write_text(self.manager.ctl("enrol", "token", node, "--tenant", "cluster-a"))
        return f"--token-file={file}"

    def issued(self, node: str = "node-1") -> Issued:
        return Issued(self.folder / node / "tls.crt", self.folder / node / "tls.key")

    def proxy(self, name: str, environment: dict[str, str]) -> Kmsd:
        issued, home = self.issued(), self.folder / name
        home.mkdir()
        flags = (
            f"--upstream=127.0.0.1:{self.manager.port}", f"--tls-ca={issued.key.with_name('ca.crt')}",
            f"--tls-certificate={issued.certificate}", f"--tls-key={issued.key}",
        )  # fmt: skip
        environment = {
            "KMSD_PROXY__EST_SERVER": f"https://127.0.0.1:{self.manager.est_port}", "KMSD_HEALTH__INTERVAL": "0.5",
            **environment,
        }  # fmt: skip
        return Kmsd(
            home, self.manager.kmsd.token, flags, environment, default_flags=False, command=(KMSD, "proxy"),
        )  # fmt: skip


@pytest.fixture
def apart(short_tmp: Path, ahead: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Apart]:
    """One whose CA and own certificate were made by the right clock; the parameter is `ca.backdate`."""
    with Site(short_tmp, request.param, lifetime=600, names=("a",)) as site:
        yield Apart(site.managers[0], short_tmp, ahead)


@pytest.mark.parametrize("apart", [300], indirect=True)
def test_with_the_usual_backdate_nodes_enrol_serve_and_renew_whichever_clock_is_ahead(apart: Apart) -> None:
    node = apart.enrol(apart.token(), ahead=True)
    assert node.returncode == 0, node.stderr
    with apart.manager.channel(apart.issued()) as channel:
        assert Client(channel).status().healthz == "ok"
    apart.restart(ahead=True)
    # By a clock that is a day ahead its certificate has ended, and it says so.
    apart.ahead = clock(apart.folder / "clock-of-the-node", 86400)
    ended = apart.enrol("--if-needed", ahead=True)
    assert (ended.returncode, "by the clock of this machine, where it is 2" in ended.stderr) == (4, True), ended.stderr
    behind = apart.enrol(apart.token("node-2"), node="node-2")
    assert (behind.returncode, "begins only" in behind.stderr) == (0, False), behind.stderr
    for name in ("node-1", "node-2"):
        with apart.manager.channel(apart.issued(name)) as channel:
            assert Client(channel).status().healthz == "ok"


@pytest.mark.parametrize("apart", [0], indirect=True)
def test_a_certificate_that_has_not_begun_is_told_kept_and_serves_when_it_has(apart: Apart) -> None:
    clocks = apart.folder / "clock", apart.folder / "clock-of-the-node"
    apart.restart(ahead=True)
    done = apart.enrol(apart.token())
    assert done.returncode == 0, done.stderr
    assert "warning: it begins only at" in done.stderr
    assert "the clock of this machine is behind" in done.stderr
    first = apart.issued().serial
    # A boot script that runs again needs no second token.
    again = apart.enrol("--if-needed")
    assert (again.returncode, "is good" in again.stderr, "begins only" in again.stderr) == (0, True, True), again.stderr
    assert apart.issued().serial == first
    with apart.proxy("p", clock(clocks[1], 0)).start() as proxy:
        # A key manager that is ahead, too, takes it; the proxy says what is odd by its own clock.
        proxy.wait_ok()
        assert any("begins only at" in each.message for each in proxy.status().problems)
        clock(clocks[0], 0)
        apart.restart(ahead=True)
        refused = wait_for(lambda: [each.message for each in proxy.status().problems if each.fatal], 40)
        assert refused
        wait_for(lambda: "not yet valid" in apart.manager.kmsd.log_text())
        for each in clocks:
            clock(each, 120)
        wait_for(lambda: proxy.v2("Status").healthz == "ok", 40)


def test_a_ca_that_has_not_begun_here_is_told_with_the_time_and_asked_again(
    short_tmp: Path, ahead: dict[str, str]
) -> None:
    with Site(short_tmp, 0, names=("a",), environment=ahead) as site:
        apart = Apart(site.managers[0], short_tmp, ahead)
        token = apart.token()
        done = apart.enrol(token)
        assert done.returncode == 3, done.stderr
        assert "has not begun by the clock of this machine, where it is 2" in done.stderr
        assert "set the clock (NTP)" in done.stderr
        # The token was not used up.
        assert apart.enrol(token, ahead=True).returncode == 0
