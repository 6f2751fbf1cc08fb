"""A key manager with tenants, and a proxy with key managers."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from kmsd.client import (
    Certificate,
    Following,
    KeyState,
    Listener,
    Peer,
    Probe,
    Problem,
    ServingState,
    Sessions,
    TenantStatus,
    Token,
    Upstream,
)
from kmstui.view import Reading
from tests.tui.scenes.beside import EAST, fleet, member
from tests.tui.scenes.daemon import BUSY, LISTENERS, key
from tests.tui.scenes.when import STEADY, TARGETS, before

A = key("kek-a", 21, before(minutes=12), KeyState.WRITE, encrypts=40, last_used=before(seconds=1))
A_BEFORE = key("kek-a@20261123T115430Z", 22, before(days=80))
B = key("kek-b", 23, before(days=160), KeyState.WRITE, encrypts=12, last_used=before(minutes=3))
_ENDING = Problem(
    "the certificate of DNS:n1.cluster-b.test (serial 5fac1c40881f9bb5) ends in 5 days",
    "give that machine a new one: its kmsd proxy reads the files anew when they change",
    False,
)
_MISSING = Problem("there is no key labelled 'kek-c' on token 'prod-hsm'", "make one with `kmsctl keygen kek-c`", True)


def _followed(since: object, rotated: str = "") -> Following:
    return Following(
        since,  # type: ignore[arg-type]
        before(minutes=11, seconds=14),
        before(seconds=21),
        before(minutes=11, seconds=2),
        before(seconds=40),
        rotated,
        A_BEFORE.key_id_sha256 if rotated else "",
    )


CLUSTER_A = TenantStatus(
    "cluster-a",
    "kek-a",
    ServingState.SERVING,
    "ok",
    "",
    A,
    _followed(before(minutes=12), A_BEFORE.key_id),
    2,
    120.4,
    2.4,
    1_204_118,
    0,
    3,
    before(days=-61),
)
TENANTS = (
    CLUSTER_A,
    TenantStatus(
        "cluster-b",
        "kek-b",
        ServingState.DEGRADED,
        "ok",
        "",
        B,
        _followed(before(hours=30)),
        17,
        998.0,
        2.6,
        88_130_441,
        1_204,
        3,
        before(days=-5),
        (_ENDING,),
    ),
    TenantStatus(
        "cluster-c",
        "kek-c",
        ServingState.DOWN,
        _MISSING.message,
        _MISSING.hint,
        None,
        Following(),
        0,
        problems=(_MISSING,),
    ),
    replace(
        CLUSTER_A,
        name="edge-7",
        write_label="kek-edge-7",
        write_key=key("kek-edge-7", 24, before(minutes=1), KeyState.WRITE),
        following=Following(before(seconds=40), previous_key_id="x", previous_key_id_sha256=B.key_id_sha256),
        requests_per_second=0.3,
        in_flight=0,
        peers=1,
        first_end=before(hours=-19),
    ),
)
CALLERS = MappingProxyType(
    {
        "cluster-a": Reading(
            tuple(
                Peer(
                    f"DNS:n{at}.cluster-a.test",
                    "cluster-a",
                    "tenant",
                    f"10.1.0.{10 + at}:{41000 + at}",
                    f"5fac1c40881f9bb{at}74c60573aaebed657d30abcb",
                    before(days=29),
                    before(days=-61 + at),
                    "TLSv1.3",
                    "TLS_AES_256_GCM_SHA384",
                    "X25519MLKEM768" if at == 1 else "x25519",
                    before(seconds=at),
                    1,
                    400_000 + at,
                )
                for at in (1, 2, 3)
            ),
            STEADY - 1,
        )
    }
)
_SHOWN = Certificate(
    "CN=keys-1.ops.test",
    ("DNS:keys-1.ops.test",),
    "1d2c40881f9bb574c60573aaebed657d30abcb11",
    before(days=20),
    before(days=-70),
)
MANAGER = replace(
    BUSY,
    state=ServingState.DEGRADED,
    listeners=(*LISTENERS, Listener("tls://0.0.0.0:31400", ("v2", "v1beta1", "admin"))),
    tenants=TENANTS,
    certificate=_SHOWN,
    problems=(
        replace(_MISSING, message=f"tenant cluster-c: {_MISSING.message}", fatal=False),
        replace(_ENDING, message=f"tenant cluster-b: {_ENDING.message}"),
    ),
)
_AWAY = "key manager keys-2.ops.test:31400 cannot be reached: Connection refused"
UPSTREAMS = (
    Upstream(
        "keys-1.ops.test:31400",
        True,
        "",
        "",
        before(hours=30),
        before(seconds=2),
        A.key_id,
        A.key_id_sha256,
        "ok",
        2.7,
        1_204_118,
        3,
        1,
        True,
    ),
    Upstream(
        "keys-2.ops.test:31400",
        False,
        _AWAY,
        "check it, the network to it, and both sides' certificates: kmsctl doctor",
        before(minutes=6),
        before(minutes=6, seconds=4),
        A.key_id,
        A.key_id_sha256,
        "ok",
        3.1,
        41_204,
        24,
        0,
        False,
    ),
)
PROXY = replace(
    BUSY,
    state=ServingState.DEGRADED,
    write_label="",
    write_key=key(
        "",
        21,
        before(minutes=12),
        KeyState.WRITE,
        created=None,
        bits=0,
        token="",
        token_label="",
        enc="",
        can_encrypt=False,
        can_decrypt=False,
    ),
    token=Token("", "", "", "", "", 0, up=False),
    sessions=Sessions(0, 0, 0, 0, 0),
    tokens=(),
    keys=0,
    probe=Probe(before(seconds=2), 2.7),
    problems=(Problem(_AWAY, UPSTREAMS[1].hint, False),),
    following=_followed(before(minutes=12), A_BEFORE.key_id),
    upstreams=UPSTREAMS,
    certificate=replace(_SHOWN, subject="CN=n1", names=("DNS:n1.cluster-a.test",), not_after=before(days=-9)),
)


def mixed() -> dict[str, Reading]:  # type: ignore[type-arg]
    """Local ones, a proxy and its key manager side by side."""
    return {
        **{target: reading for target, reading in fleet(odd=True).items() if target != TARGETS[2]},
        TARGETS[2]: Reading(member(TARGETS[2], MANAGER, 1118.0, 2.6, 0.1), STEADY - 1),
        "node-1": Reading(member("node-1", PROXY, 41.0, 3.9, -0.1), STEADY - 1),
        EAST: fleet(odd=True)[EAST],
    }
