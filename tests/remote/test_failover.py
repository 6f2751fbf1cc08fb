"""Two key managers on one token: while one is left, no call through a proxy fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2
from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, TENANTS, Manager, decrypt, well
from tests.rpc.refusals import refusal, told

CALLERS = 4
PAUSE = 0.01
"""Seconds from an answer to the next call of each caller: more calls would only keep the machine busy."""


@pytest.fixture
def two(make_manager: Callable[..., Manager]) -> tuple[Manager, Manager]:
    """Key managers that share a token."""
    first = make_manager(name="d")
    wait_for(lambda: first.kmsd.log_text().count("tenant is healthy") >= 2)
    second = make_manager(name="e")
    wait_for(lambda: second.kmsd.log_text().count("tenant is healthy") >= 2)
    return first, second


@contextmanager
def load(proxy: Kmsd) -> Iterator[dict[str, int]]:
    """Round trips. Counts of what came of them; "wrong" for a plaintext that is not the one."""
    counts: dict[str, int] = {}
    stop = threading.Event()

    def caller() -> None:
        while not stop.wait(PAUSE):
            try:
                code = "OK" if decrypt(proxy, proxy.v2("Encrypt", SEED)) == SEED.plaintext else "wrong"
            except grpc.RpcError as error:
                code = f"{told(error).code} {told(error).details}"
            counts[code] = counts.get(code, 0) + 1

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("prefer", ["order", "spread"])
def test_a_key_manager_that_is_killed_stopped_or_restarted_costs_no_call(
    two: tuple[Manager, Manager], make_proxy: Callable[..., Kmsd], ca: Authority, prefer: str
) -> None:
    first, second = two
    proxy = well(
        make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, first, second, flags=(f"--prefer={prefer}",))
    )
    wait_for(lambda: all(each.up for each in proxy.status().upstreams))
    with load(proxy) as counts:
        time.sleep(0.5)
        first.kmsd.stop(signal.SIGKILL)
        time.sleep(1.0)
        first.kmsd.start()
        wait_for(lambda: all(each.up for each in proxy.status().upstreams))
        assert second.kmsd.process is not None
        os.kill(second.kmsd.process.pid, signal.SIGSTOP)
        time.sleep(4.0)
        os.kill(second.kmsd.process.pid, signal.SIGCONT)
        wait_for(lambda: all(each.up for each in proxy.status().upstreams))
        second.kmsd.stop()
        time.sleep(0.5)
    assert set(counts) == {"OK"}, counts
    assert counts["OK"] > 50


def test_a_rotation_by_one_key_manager_is_followed_by_the_proxy(
    two: tuple[Manager, Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    first, second = two
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, first, second))
    sealed = proxy.v2("Encrypt", SEED)
    with load(proxy) as counts:
        first.kmsd.admin("RotateKey", admin_pb2.RotateKeyRequest(label="kek-a"))
        wait_for(lambda: proxy.v2("Status").key_id != sealed.key_id)
        wait_for(lambda: {each.key_id for each in proxy.status().upstreams} == {proxy.v2("Status").key_id})
    assert set(counts) == {"OK"}, counts
    assert decrypt(proxy, sealed) == SEED.plaintext
    assert not [each for each in proxy.status().upstreams if each.reason]


def test_new_certificates_and_a_new_ca_cost_no_call(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority, tmp_path: Path
) -> None:
    """Both CAs are taken at once while one takes the place of the other."""
    old, new = Authority(tmp_path / "old", "Old CA"), Authority(tmp_path / "new", "New CA")
    both = tmp_path / "both.crt"
    both.write_bytes(old.file.read_bytes())
    shared = Authority(tmp_path / "shared")
    shared.file = both
    manager = make_manager(ca=shared, signer=old)
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    mine = old.issue("a1", "DNS:node-1.cluster-a.test")
    proxy = well(make_proxy(mine, shared, manager))
    with load(proxy) as counts:
        both.write_bytes(old.file.read_bytes() + new.file.read_bytes())
        time.sleep(2.5)
        renewed = new.issue("a2", "DNS:node-2.cluster-a.test")
        _replace(renewed.certificate, mine.certificate)
        _replace(renewed.key, mine.key)
        fresh = new.issue("m2", "DNS:manager.test", "IP:127.0.0.1", server=True)
        _replace(fresh.certificate, manager.shown.certificate)
        _replace(fresh.key, manager.shown.key)
        wait_for(lambda: manager.kmsd.status().certificate.serial == fresh.serial)
        time.sleep(1.0)
        both.write_bytes(new.file.read_bytes())
        time.sleep(2.5)
        well(proxy)
    assert set(counts) == {"OK"}, counts


def _replace(source: Path, target: Path) -> None:
    beside = target.with_suffix(".beside")
    beside.touch(0o600)
    beside.write_bytes(source.read_bytes())
    beside.replace(target)


def test_a_proxy_never_goes_over_to_another_tenants_key(
    two: tuple[Manager, Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    first, second = two
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, first, second))
    sealed = proxy.v2("Encrypt", SEED)
    swapped = TENANTS.replace("kek-a", "kek-x").replace("kek-b", "kek-a").replace("kek-x", "kek-b")
    second.reload(swapped)
    wait_for(lambda: "does not know the key that wrote here" in str(proxy.status().problems))
    first.kmsd.stop()
    wait_for(lambda: proxy.v2("Status").healthz != "ok")
    with pytest.raises(grpc.RpcError):
        proxy.v2("Encrypt", SEED)
    assert proxy.v2("Status").key_id == sealed.key_id
    second.reload(TENANTS)
    well(proxy)
    assert decrypt(proxy, sealed) == SEED.plaintext


def test_not_even_the_first_answer_is_another_tenants_key(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    """The key managers are tried once a minute here: what they answer meanwhile is looked at, too."""
    manager = make_manager()
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    caller = ca.issue("a1", "DNS:node-1.cluster-a.test")
    proxy = well(make_proxy(caller, ca, manager, environment={"KMSD_HEALTH__INTERVAL": "60"}))
    sealed = proxy.v2("Encrypt", SEED)
    wait_for(lambda: (proxy.folder / "state" / "canary.json").exists())
    manager.reload(TENANTS.replace("kek-a", "kek-x").replace("kek-b", "kek-a").replace("kek-x", "kek-b"))
    wait_for(lambda: [each.healthz for each in manager.kmsd.status().tenants] == ["ok", "ok"])
    # On a busy machine there may be no answer in time; none is ever one to take.
    wait_for(lambda: "does not know the key that wrote here" in refusal(proxy.v2, "Encrypt", SEED).details)
    assert proxy.v2("Status").key_id == sealed.key_id


def test_a_second_key_manager_is_asked_beside_one_that_is_slow_if_that_is_wanted(
    two: tuple[Manager, Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    first, second = two
    caller = ca.issue("a1", "DNS:node-1.cluster-a.test")
    quick = {"KMSD_PROXY__HEDGE": "0.1", "KMSD_HEALTH__INTERVAL": "30"}
    proxy = well(make_proxy(caller, ca, first, second, environment=quick))
    wait_for(lambda: all(each.up for each in proxy.status().upstreams))
    assert first.kmsd.process is not None
    os.kill(first.kmsd.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        sealed = proxy.v2("Encrypt", SEED)
        assert time.monotonic() - began < 0.8, "half of the time is not waited for"
        assert decrypt(proxy, sealed) == SEED.plaintext
    finally:
        os.kill(first.kmsd.process.pid, signal.SIGCONT)


def test_four_proxies_of_two_tenants_follow_their_own_tenants_rotations(
    two: tuple[Manager, Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    proxies = {
        f"{tenant}{number}": make_proxy(
            ca.issue(f"{tenant}{number}", f"DNS:node-{number}.cluster-{tenant}.test"),
            ca,
            *two,
            name=f"p{tenant}{number}",
        )
        for tenant in "ab"
        for number in (1, 2)
    }
    for proxy in proxies.values():
        well(proxy)
    before = {name: proxy.v2("Encrypt", SEED) for name, proxy in proxies.items()}
    assert before["a1"].key_id == before["a2"].key_id != before["b1"].key_id == before["b2"].key_id
    two[1].kmsd.admin("RotateKey", admin_pb2.RotateKeyRequest(label="kek-a"))
    wait_for(lambda: all(proxies[name].v2("Status").key_id != before[name].key_id for name in ("a1", "a2")))
    for name, proxy in proxies.items():
        assert (proxy.v2("Encrypt", SEED).key_id == before[name].key_id) == name.startswith("b")
        assert decrypt(proxy, before[f"{name[0]}{3 - int(name[1])}"]) == SEED.plaintext
        with pytest.raises(grpc.RpcError) as caught:
            decrypt(proxy, before["b1" if name.startswith("a") else "a1"])
        assert told(caught.value).code == "NOT_FOUND"
