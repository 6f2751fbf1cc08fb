"""The callers that are remembered: by tenant, at most so many, the latest first."""

from __future__ import annotations

import pytest

from kmsd.transport import seen_peers
from kmsd.transport.peers import Peer
from kmsd.transport.seen_peers import SeenPeers


def peer(serial: str, name: str = "DNS:n", not_after: float = 4e9) -> Peer:
    return Peer("192.0.2.1:1", (name,), serial, b"ca", 0.0, not_after, "TLSv1.3", "c", "x25519")


def test_each_tenant_has_its_own_and_a_certificate_moves_with_its_tenant() -> None:
    seen = SeenPeers()
    for serial, tenant in (("1", "a"), ("2", "b"), ("3", "a"), ("1", "a"), ("9", "")):
        seen.called(peer(serial), tenant, "tenant")
    assert [each.peer.serial for each in seen.of("a")] == ["1", "3"]
    assert [each.peer.serial for each in seen.of()] == ["9", "1", "3", "2"]
    assert [each.calls for each in seen.of("a")] == [2, 1]
    seen.called(peer("1"), "b", "tenant")
    assert [each.peer.serial for each in seen.of("a")] == ["3"]
    assert [each.peer.serial for each in seen.of("b")] == ["1", "2"]
    assert seen.of("c") == []


def test_the_one_that_called_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_peers, "_MOST", 2)
    seen = SeenPeers()
    for serial in ("1", "2", "1", "3"):
        seen.called(peer(serial), f"t{serial}", "tenant")
    assert [each.peer.serial for each in seen.of()] == ["3", "1"]
    assert seen.of("t2") == []
    assert seen.first_end("t2") == (0, None)


def test_of_each_name_the_certificate_counts_that_was_shown_last() -> None:
    seen = SeenPeers()
    seen.called(peer("old", "DNS:n1", 100.0), "a", "tenant")
    seen.called(peer("n2", "DNS:n2", 300.0), "a", "tenant")
    seen.called(peer("new", "DNS:n1", 400.0), "a", "tenant")
    names, first = seen.first_end("a")
    assert names == 2
    assert first is not None
    assert first.serial == "n2"
