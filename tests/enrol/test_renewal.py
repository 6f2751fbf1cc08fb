"""A proxy that renews its certificate by itself, from a real EST server, for a real key manager."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd.ca.profile import Profile
from kmsd.store.store import Store
from kmsd.transport.peers import NamePattern
from tests import forkserver
from tests.ca import software
from tests.chaos import clock
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.enrol.site import Served, Site, write_key
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import Manager, make_manager, make_proxy, well

pytestmark = pytest.mark.processes
__all__ = ["make_manager", "make_proxy"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
NODE = "DNS:node-1.cluster-a.test"


@dataclass
class Renewing:
    """A proxy with a certificate that is due, the CA behind it, and the key manager that it asks."""

    site: Site
    served: Served
    manager: Manager
    caller: Issued
    ca: Authority

    def issue(self, lifetime: timedelta, backdate: timedelta = timedelta()) -> x509.Certificate:
        """Give the proxy a certificate that lasts for so long, and began so long ago; those that follow last an
        hour."""
        profile = Profile(tenants={"cluster-a": (NamePattern.parse("DNS:*.cluster-a.test"),)})
        self.served.ca.profile = Profile(**{**vars(profile), "lifetime": lifetime, "backdate": backdate})
        key = software.ec_key()
        made = self.served.ca.issue(software.csr(key, "node-1"), "node-1", "cluster-a")
        self.caller.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        self.caller.key.unlink(missing_ok=True)
        write_key(self.caller.key, key)
        self.served.ca.profile = Profile(**{**vars(profile), "lifetime": timedelta(hours=1)})
        return made

    @property
    def serial(self) -> str:
        return self.caller.serial


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    tmp_path.chmod(0o700)
    made: list[Store] = []

    def make() -> Store:
        made.append(Store("", tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ca(site: Site, tmp_path: Path) -> Authority:
    """The CA of the EST server, which has issued the key manager's certificate, too."""
    made = Authority(tmp_path / "ca")
    made.key, made.certificate, made.name = site.key, site.root, site.root.subject
    made.file.write_bytes(site.root.public_bytes(Encoding.PEM))
    return made


@pytest.fixture
def renewing(site: Site, ca: Authority, make_manager: Callable[..., Manager], tmp_path: Path) -> Renewing:
    manager = make_manager(ca=ca)
    manager.kmsd.wait_ok()
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    folder = tmp_path / "proxy"
    folder.mkdir(0o700)
    own = Authority.__new__(Authority)
    own.file = folder / "ca.crt"
    shutil.copy(ca.file, own.file)
    return Renewing(site, site.serve(), manager, Issued(folder / "tls.crt", folder / "tls.key"), own)


@pytest.fixture
def start(make_proxy: Callable[..., Kmsd], renewing: Renewing) -> Callable[..., Kmsd]:
    def make(*managers: Manager | str, est: str = "", environment: Mapping[str, str] = _NONE, **fields: Any) -> Kmsd:
        url = est or f"https://127.0.0.1:{renewing.served.port}"
        return make_proxy(
            renewing.caller, renewing.ca, *(managers or (renewing.manager,)), flags=("--server-name=manager.test",),
            environment={"KMSD_PROXY__EST_SERVER": url, **environment}, **fields,
        )  # fmt: skip

    return make


def doctor(proxy: Kmsd) -> dict[str, dict[str, str]]:
    """What doctor says, by the name of each check."""
    argv = [KMSCTL, "doctor", "-o", "json", f"--target={proxy.admin_socket}"]
    done = forkserver.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return {each["name"]: each for each in json.loads(done.stdout)["checks"]}


def problems(proxy: Kmsd) -> list[str]:
    return [each.message for each in proxy.status().problems]


def test_a_certificate_that_is_due_is_renewed_and_no_call_is_lost(
    renewing: Renewing, start: Callable[..., Kmsd]
) -> None:
    before = renewing.issue(timedelta(seconds=100), timedelta(seconds=400))
    proxy = well(start())
    first = f"{before.serial_number:x}"

    def renewed() -> bool:
        assert proxy.v2("Status").healthz == "ok"
        return renewing.serial != first

    wait_for(renewed)
    wait_for(lambda: proxy.status().certificate.serial == renewing.serial)
    assert renewing.caller.read.subject == before.subject
    assert renewing.site.records.said[-1][:2] == ("Renew", "OK")
    wait_for(lambda: "certificate renewed" in proxy.log_text())
    assert sorted(each.name for each in renewing.caller.key.parent.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    audit = proxy.folder / "state" / "audit.jsonl"
    wait_for(lambda: audit.read_text().count('"certificate renewed"') == 1)
    assert well(proxy)


def test_a_certificate_that_is_not_due_is_left_alone(renewing: Renewing, start: Callable[..., Kmsd]) -> None:
    before = renewing.issue(timedelta(hours=1))
    proxy = well(start())
    assert not renewing.site.records.said
    assert renewing.serial == f"{before.serial_number:x}"
    assert "not renewed" not in " ".join(problems(proxy))
    found = doctor(proxy)
    assert (found["renewal"]["outcome"], found["est"]["outcome"]) == ("ok", "ok")
    assert "not due since kmsd started, due at 2" in found["renewal"]["seen"]


def test_certificates_that_are_due_when_they_are_issued_are_not_renewed_all_the_time(
    renewing: Renewing, start: Callable[..., Kmsd]
) -> None:
    renewing.issue(timedelta(seconds=100), timedelta(seconds=400))
    renewing.served.ca.profile = replace(
        renewing.served.ca.profile, lifetime=timedelta(seconds=100), backdate=timedelta(seconds=400)
    )
    start()
    wait_for(lambda: renewing.site.records.said)
    time.sleep(7)
    # A twentieth of the 100 seconds lies between two.
    assert len(renewing.site.records.said) == 2


def test_while_the_server_is_away_status_says_so_and_how_long_is_left(
    renewing: Renewing, start: Callable[..., Kmsd]
) -> None:
    before = renewing.issue(timedelta(seconds=100), timedelta(seconds=400))
    proxy = well(start(est="https://127.0.0.1:1"))
    found = wait_for(lambda: [each for each in problems(proxy) if "is not renewed" in each])
    assert "ends in 1 minutes" in found[0] or "seconds" in found[0]
    assert "127.0.0.1:1 does not answer" in found[0]
    assert proxy.v2("Status").healthz == "ok"
    assert renewing.serial == f"{before.serial_number:x}"
    checks = doctor(proxy)
    assert {(checks[name]["outcome"], "does not answer" in checks[name]["seen"]) for name in ("renewal", "est")} == {
        ("failed", True)
    }


def test_the_old_certificate_stays_until_a_key_manager_takes_the_new_one(
    renewing: Renewing, start: Callable[..., Kmsd]
) -> None:
    before = renewing.issue(timedelta(seconds=100), timedelta(seconds=400))
    proxy = start("127.0.0.1:1")
    wait_for(lambda: any("no key manager takes the new certificate" in each for each in problems(proxy)))
    assert renewing.serial == f"{before.serial_number:x}"
    made = len(renewing.served.store.ledger.latest(10))
    wait_for(lambda: proxy.log_text().count("certificate is not renewed") == 1)
    proxy.stop()
    # What was issued is not asked for again.
    proxy = well(start())
    wait_for(lambda: renewing.serial != f"{before.serial_number:x}")
    assert len(renewing.served.store.ledger.latest(10)) == made


def test_a_revoked_certificate_is_not_renewed_and_status_says_why(
    renewing: Renewing, start: Callable[..., Kmsd]
) -> None:
    before = renewing.issue(timedelta(seconds=100), timedelta(seconds=400))
    renewing.served.ca.revoke(before.serial_number, "superseded")
    proxy = start()
    wait_for(lambda: any("is revoked (superseded)" in each for each in problems(proxy)))
    assert renewing.serial == f"{before.serial_number:x}"


@pytest.mark.parametrize(
    ("seconds", "renews", "serves", "told"),
    [
        (3600, True, True, ""),
        (-3540, False, True, ""),
        (86400, False, True, "has ended, and cannot show itself any more"),
        (-86400, False, False, "begins only at"),
    ],
)
def test_a_clock_that_is_an_hour_or_a_day_wrong(
    renewing: Renewing,
    start: Callable[..., Kmsd],
    short_tmp: Path,
    seconds: int,
    renews: bool,
    serves: bool,
    told: str,
) -> None:
    """The certificate is due in less than an hour, and lasts longer."""
    before = renewing.issue(timedelta(minutes=75))
    proxy = start(environment=clock(short_tmp / "clock", seconds), forked=False)
    wait_for(lambda: (proxy.v2("Status").healthz == "ok") is serves)
    if renews:
        wait_for(lambda: renewing.serial != f"{before.serial_number:x}")
        wait_for(lambda: proxy.status().certificate.serial == renewing.serial)
        assert proxy.v2("Status").healthz == "ok"
    if told:
        wait_for(lambda: any(told in each for each in problems(proxy)))
    if not renews:
        assert renewing.serial == f"{before.serial_number:x}"
        assert not renewing.site.records.said
