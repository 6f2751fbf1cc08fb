"""The rotation of the key of service account tokens, told from what nodes say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kmsd.client.jwt_rotation import JwtStage, rotation_of
from kmsd.client.model.jwt import Jwt, JwtFetcher, JwtKey

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=2)


def key(kid: str, state: str, **fields: Any) -> JwtKey:
    given: dict[str, Any] = {
        "alg": "ES256", "published": True, "proven": True, "excluded_from_discovery": False, "pem": "", "jwk": "",
        "label": "sa-signer", "key_id": f"jwt.{kid}", "token": "main", "from_outside": False,
        "published_since": LONG_AGO, "stopped": None, "needed_until": None, "trusted": None, "note": "", "signed": 0,
        "last_signed": None, "reason": "", "hint": "",
    }  # fmt: skip
    return JwtKey(kid, state=state, **(given | fields))


def node(*keys: JwtKey, fetchers: tuple[JwtFetcher, ...] = (JwtFetcher("api", NOW, NOW, True),), **fields: Any) -> Jwt:
    given: dict[str, Any] = {
        "state": "ready", "reason": "", "hint": "", "tenant": "", "socket": "/s", "label": "sa-signer", "issuers": (),
        "max_token_expiration": 3600.0, "refresh_hint": 60.0, "changed": LONG_AGO, "now": NOW,
    }  # fmt: skip
    return Jwt(keys=keys, fetchers=fetchers, **(given | fields))


OLD, NEW = key("old", "signing"), key("new", "pending")
STOPPED = key("old", "verifying", stopped=LONG_AGO, needed_until=NOW - timedelta(hours=1))
SIGNS = key("new", "signing")
FRESH = replace(NEW, published_since=NOW - timedelta(seconds=10))
IN_FORCE = replace(STOPPED, needed_until=NOW + timedelta(hours=3))
BEHIND = tuple(JwtFetcher(f"api-{number}", NOW, NOW, False) for number in range(6))


@pytest.mark.parametrize(
    ("nodes", "stage", "waits"),
    [
        ([node(OLD)], JwtStage.PUBLISH, []),
        ([node()], JwtStage.PUBLISH, []),
        ([node(OLD, key("out", "trusted"))], JwtStage.PUBLISH, []),
        ([node(OLD, key("gone", "verifying"))], JwtStage.PUBLISH, []),
        ([node(OLD, NEW)], JwtStage.SIGN, []),
        ([node(OLD, NEW, fetchers=())], JwtStage.SIGN, []),
        ([node(OLD, NEW, fetchers=BEHIND[:1])], JwtStage.FETCH, ["cp-1: api-0 has not fetched it"]),
        (
            [node(OLD, NEW, fetchers=BEHIND)],
            JwtStage.FETCH,
            ["cp-1: api-0, api-1, api-2, api-3 and 2 more have not fetched it"],
        ),
        ([node(OLD, FRESH)], JwtStage.FETCH, ["cp-1: others may keep what they fetched before for 60 s"]),
        ([node(OLD, NEW), node(OLD)], JwtStage.FETCH, ["cp-2 does not publish it yet"]),
        ([node(OLD, NEW), node(OLD, NEW, fetchers=BEHIND[:1])], JwtStage.FETCH, ["cp-2: api-0 has not fetched it"]),
        ([node(OLD, NEW), node(OLD, NEW)], JwtStage.SIGN, []),
        ([node(SIGNS, STOPPED), node(OLD, NEW)], JwtStage.FOLLOW, ["cp-2 signs with another key still"]),
        ([node(SIGNS, IN_FORCE)], JwtStage.WAIT, ["the longest token that the old key signed"]),
        (
            [node(SIGNS, STOPPED), node(SIGNS, IN_FORCE)],
            JwtStage.WAIT,
            ["the longest token that the old key signed"],
        ),
        ([node(SIGNS, STOPPED)], JwtStage.RETIRE, []),
        ([node(SIGNS, replace(STOPPED, published=False))], JwtStage.PUBLISH, []),
    ],
)
def test_a_rotation_is_where_its_nodes_say(nodes: list[Jwt], stage: JwtStage, waits: list[str]) -> None:
    found = rotation_of({f"cp-{number}": each for number, each in enumerate(nodes, 1)})
    assert (found.stage, list(found.waits)) == (stage, waits)
    assert found.finished == (stage is JwtStage.PUBLISH)


def test_the_key_that_stopped_last_is_the_old_one() -> None:
    older = replace(STOPPED, kid="older", stopped=LONG_AGO - timedelta(days=1))
    found = rotation_of({"cp-1": node(SIGNS, older, STOPPED)})
    assert found.old == STOPPED
    assert found.new == SIGNS


def test_it_says_when_it_may_go_on() -> None:
    assert rotation_of({"cp-1": node(OLD, FRESH)}).until == NOW + timedelta(seconds=50)
    nodes = {"cp-1": node(SIGNS, STOPPED), "cp-2": node(SIGNS, IN_FORCE)}
    assert rotation_of(nodes).until == NOW + timedelta(hours=3)
