"""The table of docs/remote.md says what kube-apiserver hears, and the other side tells, when two ends do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import HOUR, Authority, Issued
from tests.remote.conftest import TENANTS, Manager, well

PAGE = (Path(__file__).parents[2] / "docs" / "remote.md").read_text()
ROWS = {
    row[0]: row
    for row in re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE.partition("## When something")[2], re.MULTILINE
    )
}
GOOD = "DNS:n.cluster-a.test"
BOTH = TENANTS.replace('"DNS:*.cluster-b.test"', '"DNS:*.cluster-b.test", "DNS:n.cluster-a.test"')


@dataclass
class Ends:
    """What a row makes of the two ends. mine: the proxy's certificate. trusted: its CA."""

    mine: Issued
    trusted: Authority
    flags: tuple[str, ...] = ()
    tenants: str = TENANTS


def _ends(ca: Authority, other: Authority) -> dict[str, Callable[[], Ends]]:
    def issued(san: str = GOOD, **how: object) -> Issued:
        return ca.issue("x", san, **how)  # type: ignore[arg-type]

    return {
        "the node's certificate has ended": lambda: Ends(issued(begins=-2 * HOUR, ends=-HOUR), ca),
        "it has not begun, or a clock is off": lambda: Ends(issued(begins=HOUR), ca),
        "it is of another CA": lambda: Ends(other.issue("x", GOOD), ca),
        "it is one for servers": lambda: Ends(issued(server=True), ca),
        "it fits no tenant": lambda: Ends(issued("DNS:n.cluster-c.test"), ca),
        "it fits two tenants": lambda: Ends(issued(), ca, tenants=BOTH),
        "the key manager's certificate is of another CA": lambda: Ends(issued(), other),
        "it is for another name": lambda: Ends(issued(), ca, ("--server-name=another.test",)),
    }


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "Another CA")


def _quoted(cell: str) -> list[str]:
    return [each for each in re.findall(r"`([^`]+)`", cell) if not each.startswith("kmsctl") and "." not in each]


def test_each_row_says_what_is_heard_and_told(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority, other: Authority
) -> None:
    manager = make_manager()
    manager.kmsd.wait_ok()
    for number, (title, make) in enumerate(_ends(ca, other).items()):
        ends = make()
        if ends.tenants != TENANTS:
            manager.reload(ends.tenants)
        proxy = make_proxy(ends.mine, ends.trusted, manager, name=f"p{number}", flags=ends.flags)
        _hears(title, proxy, manager)
        if ends.tenants != TENANTS:
            manager.reload(TENANTS)
        proxy.stop()


def _hears(title: str, proxy: Kmsd, manager: Manager) -> None:
    """Status has the words of the second column; the log or the problems of either end those of the third."""
    _, hears, tells = ROWS[title]
    (words,) = _quoted(hears)
    try:
        wait_for(lambda: words in proxy.v2("Status").healthz, 10)
    except AssertionError:
        raise AssertionError(f"{title}: {proxy.v2('Status').healthz}") from None
    for each in _quoted(tells):
        try:
            wait_for(lambda each=each: each in _told(manager.kmsd, proxy), 10)
        except AssertionError:
            raise AssertionError(f"{title}: {each!r} is not in {_told(manager.kmsd, proxy)[-3000:]}") from None


def _told(manager: Kmsd, proxy: Kmsd) -> str:
    return f"{manager.log_text()}{manager.status().problems}{proxy.status().problems}"


def test_a_certificate_that_is_taken_back_and_a_key_manager_that_goes(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority, tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked"
    revoked.touch()
    manager = make_manager(f"--tls-revoked={revoked}")
    mine = ca.issue("mine", GOOD)
    proxy = well(make_proxy(mine, ca, manager))
    revoked.write_text(f"{mine.serial}\n")
    _hears("it is revoked", proxy, manager)
    revoked.write_text("")
    well(proxy)
    manager.reload(TENANTS.replace("kek-a", "kek-x"))
    _hears("the tenant's entry names another key, or the token is another", proxy, manager)
    manager.reload(TENANTS)
    well(proxy)
    manager.kmsd.stop()
    wait_for(lambda: "cannot be reached" in proxy.v2("Status").healthz)
    assert _quoted(ROWS["no key manager is reached"][1]) == ["cannot be reached"]


def test_a_key_that_is_missing_and_a_certificate_of_a_key_manager_that_has_ended(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    manager = make_manager("--no-auto-create")
    proxy = make_proxy(ca.issue("mine", GOOD), ca, manager)
    _hears("the tenant's key is missing", proxy, manager)
    ended = ca.issue("ended", "DNS:manager.test", "IP:127.0.0.1", server=True, begins=-2 * HOUR, ends=-HOUR)
    ended.key.replace(manager.shown.key)
    ended.certificate.replace(manager.shown.certificate)
    wait_for(lambda: manager.kmsd.status().certificate.serial == Issued(manager.shown.certificate, ended.key).serial)
    fresh = make_proxy(ca.issue("another", GOOD), ca, manager, name="q")
    _hears("it has ended", fresh, manager)
