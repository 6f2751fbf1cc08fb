"""The other targets, a token that was tried out, and a value that was inspected."""

from __future__ import annotations

from dataclasses import replace

from kmsd.client import (
    Abilities,
    Check,
    Diagnosis,
    Envelope,
    Inspection,
    JweReport,
    Outcome,
    Problem,
    ServingState,
    Status,
    Unreachable,
    Verdict,
)
from kmsd.client.clientconfig import Target
from kmsd.client.fleet import Member
from kmsd.client.printed import PrintedValue as Value
from kmstui.view import Inspected, Reading
from tests.tui.scenes.daemon import BUSY, OLD, WRITE
from tests.tui.scenes.when import STEADY, TARGETS, before

EAST = "east-1"
AWAY = "east-2"


def member(target: str, status: Status, rate: float, p99_ms: float, skew: float) -> Member:
    return Member(Target(target, target), before(seconds=1), status, None, rate, p99_ms, skew, 0.0021)


def fleet(*, odd: bool = False) -> dict[str, Reading[Member]]:
    """Three nodes that agree; odd: one that has not followed, and one that is away."""
    alike = {
        target: Reading(member(target, BUSY, 204.0 + 7 * at, 2.0 + 0.2 * at, 0.0), STEADY - 1)
        for at, target in enumerate(TARGETS)
    }
    if not odd:
        return alike
    late = replace(
        BUSY,
        write_key=OLD,
        state=ServingState.DEGRADED,
        version="0.1.9",
        following=replace(BUSY.following, since=before(days=41)),
    )
    gone = Unreachable(
        "kmsd does not run: nothing listens on /run/kmsd/east-2.sock",
        "start it with `systemctl start kmsd`, or `kmsd serve`, or `kmsd dev` to try it out",
        "UNAVAILABLE",
        retryable=True,
    )
    was = Reading(member(AWAY, BUSY, 198.0, 2.2, -0.1), STEADY - 240)
    return {
        **alike,
        EAST: Reading(member(EAST, late, 212.0, 3.1, 7.2), STEADY - 1),
        AWAY: was.failed(gone),
    }


DIAGNOSIS = Diagnosis(
    token="main",
    token_label="prod-hsm",
    up=True,
    module="/usr/lib/libCryptoki2_64.so",
    library="SafeNet 10.4",
    provider="luna",
    provider_title="Thales Luna",
    outcome=Outcome.FAILED,
    checks=(
        Check("login", "Login", Outcome.OK, "logged in as user, 8 sessions", ""),
        Check(
            "gcm",
            "AES-GCM",
            Outcome.FAILED,
            "listed, but C_EncryptInit gives CKR_MECHANISM_PARAM_INVALID",
            "update the firmware to 7.7 or later, or write with --algorithm aes-cbc",
        ),
        Check("cbc", "AES-CBC", Outcome.OK, "encrypts and decrypts, 0.41 ms", ""),
        Check("hmac", "HMAC-SHA256", Outcome.OK, "signs and verifies", ""),
        Check("random", "Random bytes", Outcome.OK, "32 bytes, none repeated", ""),
        Check(
            "sessions",
            "Sessions",
            Outcome.WARNING,
            "16 of 24 could be opened",
            "raise the limit of the partition, or lower hsm.sessions",
        ),
        Check("tpm", "TPM resource manager", Outcome.NOT_APPLICABLE, "no TPM", ""),
        Check("verdict", "kmsd writes with", Outcome.OK, "A256CBC-HS512, a pair of keys", ""),
    ),
    verdict=Verdict("aes-cbc", "A256CBC-HS512", "AES-GCM does not work", "", False),
    abilities=Abilities((), False, True, True, True, True, True, True, 1024, False, True, True, True, 16, "at once"),
    speeds=(),
    seconds=4.2,
)
INSPECTED = Inspected(
    "~/secret.b64",
    Value(b"", "base64"),
    Inspection(
        "native",
        "what kmsd wrote, in JWE compact serialization, in kube-apiserver's envelope",
        Envelope(
            "k8s:enc:kms:v2:",
            "kmsd",
            WRITE.key_id,
            WRITE.key_id_sha256,
            "EncryptedDEKSource AES-GCM",
            1_204,
            312,
            ("version.encryption.example.org",),
        ),
        JweReport("dir", "A256GCM", WRITE.key_id, WRITE.key_id_sha256, 12, 32, 16, '{"alg":"dir","enc":"A256GCM"}'),
        (WRITE,),
        (Problem("the key has 70 % of its encryptions left", "rotate within the year", False),),
        True,
    ),
    ("inspect", "~/secret.b64"),
    STEADY - 12,
)
