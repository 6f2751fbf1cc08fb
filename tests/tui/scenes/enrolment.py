"""A key manager that is a CA and enrols nodes."""

from __future__ import annotations

from dataclasses import replace

from kmsd.client import Ca, CaCertificate, EnrolmentRequest, EnrolmentToken, Setting
from tests.tui.scenes.daemon import CONFIG
from tests.tui.scenes.when import before

_OWN = CaCertificate(
    "CN=Nodes CA,O=Example",
    "CN=Nodes CA,O=Example",
    "5fac1c40881f9bb174c60573aaebed657d30abcb",
    "9d1e" * 16,
    before(days=200),
    before(days=-3450),
    "",
)


def _issued(number: int, node: str, tenant: str, age: float, **fields: object) -> CaCertificate:
    base = CaCertificate(
        f"CN={node}",
        _OWN.subject,
        f"{number:02x}2c40881f9bb574c60573aaebed657d30abcb{number:02x}",
        f"{number:02x}" * 32,
        before(days=age),
        before(days=age - 30),
        "",
        node,
        tenant,
        (f"DNS:{node}.{tenant}.test",),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


ISSUED = (
    _issued(17, "node-1", "cluster-a", 1),
    *(_issued(20 + at, f"node-{at}", "cluster-a", 2.0 + at) for at in range(2, 9)),
    _issued(41, "node-1", "cluster-b", 24.5),
    _issued(42, "node-2", "cluster-b", 12, revoked=before(days=3), reason="keyCompromise"),
    _issued(16, "node-1", "cluster-a", 21.2),
    _issued(15, "node-1", "cluster-a", 41),
)
CA = Ca(
    "ready", None, _OWN, None, "", (_OWN,), ISSUED, before(hours=9), before(days=-6), 1, 30 * 86400.0,
    ("ec-p256", "rsa-3072"), (), "",
)  # fmt: skip
REQUESTS = (
    EnrolmentRequest(
        "71d0a4c2e85b9f13", "71d0a4c2e85b9f13" * 4, "CN=node-9", "cluster-a", "10.1.0.29", before(minutes=4),
        before(days=-7), "waiting", "", "", "", None, "",
    ),
    EnrolmentRequest(
        "0c93b7e1f6a2d854", "0c93b7e1f6a2d854" * 4, "CN=node-77", "", "10.9.8.7", before(hours=3), before(days=-6),
        "denied", "", "", "uid=0", before(hours=2), "no such node",
    ),
)  # fmt: skip
TOKENS = (
    EnrolmentToken(
        "b41c07d2e9f8a653", "node-10", "cluster-a", before(minutes=9), before(minutes=-51), None, 1, 1, "uid=0", True
    ),
    EnrolmentToken(
        "9e2f64a1c05d7b38", "node-8", "cluster-a", before(days=10), before(days=9.9), None, 1, 0, "uid=0", False
    ),
    EnrolmentToken(
        "37d8e5b0f1a9c264", "node-11", "cluster-b", before(hours=5), before(hours=4), before(hours=4.5), 3, 3, "uid=0",
        False,
    ),
)  # fmt: skip
CONFIGURED = replace(
    CONFIG,
    settings=(
        *CONFIG.settings,
        *(
            Setting(name, value, "/etc/kmsd/kmsd.toml", False, False)
            for name, value in (("ca.enabled", "true"), ("est.listen", "0.0.0.0:31443"), ("est.approval", "manual"))
        ),
    ),
)
