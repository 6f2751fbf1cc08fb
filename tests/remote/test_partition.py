"""Two key managers on one token, and proxies, in network namespaces: what is parted is left in time, and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from tests.daemons import KMSD, Kmsd, starting, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, TENANTS, well
from tests.remote.network import Host, How, network, permitted
from tests.rpc.refusals import told
from tests.tokens import make_token

pytestmark = pytest.mark.skipif(bool(permitted()), reason=permitted())
DEADLINE = 3.0
"""Seconds that kube-apiserver gives a call."""
CALLERS = 4
PAUSE = 0.05
"""Seconds from an answer to the next call of each caller: more calls would only keep the machine busy."""
PORT = 31400
WAYS: tuple[How, ...] = ("down", "silent", "answers")


@dataclass
class Site:
    """Two key managers, and two proxies of one tenant."""

    hosts: list[Host]
    managers: list[Kmsd]
    proxies: list[Kmsd]

    def settled(self) -> None:
        """Wait until each proxy is well with both key managers."""
        wait_for(lambda: all(up.up and not up.reason for each in self.proxies for up in each.status().upstreams), 30)

    @contextmanager
    def parted(self, number: int, how: How) -> Iterator[None]:
        with self.hosts[number].parted(how, *(each for each in self.hosts if each is not self.hosts[number])):
            yield


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with network(4) as made:
        yield made


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, hosts: list[Host], tmp_path_factory: pytest.TempPathFactory, ca: Authority
) -> Iterator[Site]:
    """One for all tests of a preference: each leaves it well."""
    folder = tmp_path_factory.mktemp("s")
    with starting(folder, make_token(folder / "hsm")) as start_kmsd:
        yield _site(request.param, hosts, start_kmsd, ca)


def _site(prefer: str, hosts: list[Host], start_kmsd: Callable[..., Kmsd], ca: Authority) -> Site:
    managers, proxies = [], []
    for number, host in enumerate(hosts[:2]):
        shown = ca.issue(f"partition-{number}", f"IP:{host.address}", server=True)
        tls = (f"--tls-ca={ca.file}", f"--tls-certificate={shown.certificate}", f"--tls-key={shown.key}")
        config = shown.certificate.with_suffix(".toml")
        config.write_text(TENANTS)
        managers.append(
            start_kmsd(
                *("--auto-create", f"--config={config}", "--enable-server", f"--host={host.address}"),
                *(f"--port={PORT}", *tls), name=f"m{number}", command=(*host.entered, KMSD, "serve"),
            )
        )  # fmt: skip
        wait_for(lambda: managers[-1].log_text().count("tenant is healthy") >= 2)
    for number, host in enumerate(hosts[2:]):
        mine = ca.issue(f"node-{number}", f"DNS:node-{number}.cluster-a.test")
        tls = (f"--tls-ca={ca.file}", f"--tls-certificate={mine.certificate}", f"--tls-key={mine.key}")
        proxies.append(
            start_kmsd(
                *(f"--upstream={each.address}:{PORT}" for each in hosts[:2]), *tls, f"--prefer={prefer}",
                name=f"p{number}", command=(*host.entered, KMSD, "proxy"), default_flags=False,
                environment={"KMSD_HEALTH__INTERVAL": "1"},
            )
        )  # fmt: skip
    made = Site(hosts, managers, proxies)
    made.settled()
    return made


@dataclass
class Counts:
    """Calls by what came of them, and the seconds that the slowest took."""

    codes: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0

    def count(self, code: str, seconds: float) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        self.slowest = max(self.slowest, seconds)


@contextmanager
def load(proxy: Kmsd) -> Iterator[Counts]:
    """Calls from several callers, each with kube-apiserver's deadline."""
    counts, stop = Counts(), threading.Event()

    def caller() -> None:
        while not stop.wait(PAUSE):
            began = time.monotonic()
            try:
                sealed = proxy.v2("Encrypt", SEED, DEADLINE)
                code = "OK" if sealed.key_id else "no key id"
            except grpc.RpcError as error:
                code = f"{told(error).code} {told(error).details}"
            counts.count(code, time.monotonic() - began)

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("site", "how"), [*(("order", each) for each in WAYS), ("spread", "silent")], indirect=["site"]
)
def test_no_call_fails_while_one_key_manager_is_left(site: Site, how: How) -> None:
    with load(site.proxies[0]) as counts:
        for number in (0, 1):
            time.sleep(0.5)
            with site.parted(number, how):
                time.sleep(DEADLINE + 0.5)
                (parted,) = wait_for(lambda: [up for up in site.proxies[0].status().upstreams if not up.up], DEADLINE)
                assert parted.address == f"{site.hosts[number].address}:{PORT}"
            site.settled()
    assert set(counts.codes) == {"OK"}, counts
    assert counts.codes["OK"] > 100
    assert counts.slowest < DEADLINE


@pytest.mark.parametrize("site", ["order"], indirect=True)
def test_a_key_manager_that_swallows_everything_costs_one_call_half_of_its_deadline(site: Site) -> None:
    proxy = site.proxies[0]
    with site.parted(0, "silent"):
        took = []
        for _ in range(6):
            began = time.monotonic()
            proxy.v2("Encrypt", SEED, DEADLINE)
            took.append(time.monotonic() - began)
        assert max(took) < DEADLINE * 0.75, took
        # Asked once, it is left alone.
        assert sorted(took)[-2] < 0.5, took
        assert well(proxy)
    site.settled()


@pytest.mark.parametrize("site", ["order"], indirect=True)
def test_a_node_that_is_parted_from_both_says_so_and_comes_back_while_others_go_on(site: Site) -> None:
    alone, other = site.proxies
    sealed = alone.v2("Encrypt", SEED)
    with load(other) as counts:
        with site.parted(2, "silent"):
            gone = wait_for(lambda: (answer := alone.v2("Status")).healthz != "ok" and answer)
            assert gone.key_id == sealed.key_id
            for each in site.hosts[:2]:
                assert each.address in gone.healthz
            began = time.monotonic()
            with pytest.raises(grpc.RpcError):
                alone.v2("Encrypt", SEED, DEADLINE)
            assert time.monotonic() - began < DEADLINE + 0.5
        began = time.monotonic()
        well(alone)
        assert time.monotonic() - began < 20
    assert set(counts.codes) == {"OK"}, counts
