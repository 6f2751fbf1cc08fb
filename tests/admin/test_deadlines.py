"""A change that nobody waits for any more is not begun: not behind a token that hangs, not behind another change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import ask, fresh, keys, make, state
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.raw import unary

PATIENCE = 2.5
"""Seconds that the callers here wait: what they ask for has to get into the module by then, on a busy machine too."""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> ChaosToken:
    return make_chaos(tmp_path_factory.mktemp("k") / "hsm")


@pytest.fixture(scope="module")
def kmsd(token: ChaosToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """On a token that can hang; looks at it only when it has to."""
    shape: Any = token  # has the shape of a SoftToken
    flags, environ = (*token.flags, "--auto-create"), {"KMSD_KEYS__REFRESH": "3600"}
    with Kmsd(tmp_path_factory.mktemp("k"), shape, flags, environ, default_flags=False).start() as kmsd:
        yield kmsd.wait_ok()


def audited(kmsd: Kmsd, method: str) -> list[dict[str, Any]]:
    lines = (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["action"] == method]


def abandon(kmsd: Kmsd, method: str, **fields: object) -> None:
    """Call, and wait for the answer no longer than PATIENCE."""
    with pytest.raises(grpc.RpcError) as caught:
        kmsd.admin(method, getattr(admin, f"{method}Request")(**fields), timeout=PATIENCE)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "method", ["RotateKey", "RevertKey", "GenerateKey", "RelabelKey", "DestroyKey", "RetireKey", "AdoptKey"]
)
def test_what_nobody_waits_for_is_not_begun_when_a_hung_token_comes_back(
    kmsd: Kmsd, token: ChaosToken, method: str
) -> None:
    made = make(kmsd)
    token.behind.import_aes("bare", b"k" * 32, None) if method == "AdoptKey" else None
    every: dict[str, dict[str, str]] = {
        "RotateKey": {},
        "RevertKey": {},
        "GenerateKey": {"label": fresh()},
        "RelabelKey": {"key": made.key_id, "label": fresh(), "confirm_label": made.label},
        "DestroyKey": {"key": made.key_id, "confirm_label": made.label},
        "RetireKey": {"key": made.key_id, "confirm_label": made.label},
        "AdoptKey": {"label": "bare"},
    }
    fields = every[method]
    if method == "RevertKey":
        ask(kmsd, "RotateKey")
    before, records = state(kmsd), len(audited(kmsd, method))
    with token.hanging():
        abandon(kmsd, method, **fields)
        (record,) = wait_for(lambda: audited(kmsd, method)[records:])
    assert record["outcome"] == "DEADLINE_EXCEEDED"
    assert "nothing was changed" in record["reason"]
    kmsd.wait_ok()
    assert state(kmsd) == before


def test_what_nobody_waits_for_is_not_begun_behind_a_change_that_hangs_and_that_one_is_carried_through(
    kmsd: Kmsd, token: ChaosToken
) -> None:
    """The first is inside the module when the token stops answering, the second has not come so far."""
    first, second = fresh(), fresh()
    records = len(audited(kmsd, "GenerateKey"))
    token.forget_calls()
    with token.told("C_GenerateKey hang"):
        channel = kmsd.channel(kmsd.admin_socket)
        generate = unary(channel, "/kmsd.admin.v1.Admin/GenerateKey")
        call = generate.future(admin.GenerateKeyRequest(label=first).SerializeToString(), timeout=PATIENCE)
        wait_for(lambda: token.calls()["C_GenerateKey"])
        abandon(kmsd, "GenerateKey", label=second)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: audited(kmsd, "GenerateKey")[records:])
    done = wait_for(lambda: len(audited(kmsd, "GenerateKey")) == records + 2 and audited(kmsd, "GenerateKey")[records:])
    assert [each["outcome"] for each in done] == ["DEADLINE_EXCEEDED", "OK"]
    labels = {each.label for each in keys(kmsd)}
    assert (first in labels, second in labels) == (True, False)


@pytest.mark.parametrize("method", ["RotateKey", "GenerateKey", "DestroyKey"])
def test_a_change_that_gets_its_session_too_late_is_not_begun(kmsd: Kmsd, token: ChaosToken, method: str) -> None:
    """The keys were looked at in time; then the token stops answering."""
    made = make(kmsd)
    every: dict[str, dict[str, str]] = {
        "RotateKey": {},
        "GenerateKey": {"label": fresh()},
        "DestroyKey": {"key": made.key_id, "confirm_label": made.label},
    }
    fields = every[method]
    before, records, later = state(kmsd), len(audited(kmsd, method)), len(audited(kmsd, "AdoptKey"))
    with token.told("C_OpenSession hang"):
        abandon(kmsd, method, **fields)
        # Behind it, and so given up later.
        abandon(kmsd, "AdoptKey", label=made.label)
        wait_for(lambda: audited(kmsd, "AdoptKey")[later:])
        assert audited(kmsd, method)[records:] == []
    (record,) = wait_for(lambda: audited(kmsd, method)[records:])
    assert record["outcome"] == "DEADLINE_EXCEEDED"
    assert state(kmsd) == before
