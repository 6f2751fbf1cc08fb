"""What the canned server answers to the calls that look and watch: written down once, for the golden files."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kmsd.api.admin.v1 import admin_pb2 as pb

WRITE_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OLD_ID = "0x00ff10"
RETIRED_ID = "018539a4-6a00-7000-8000-000000000001"
CREATED = 1687956465814
"""What a version 7 UUID as WRITE_ID carries: 2023-06-28T12:47:45.814Z."""
USED = CREATED + 3_600_000


def sha256(key_id: str) -> str:
    return hashlib.sha256(key_id.encode()).hexdigest() if key_id else ""


def key(label: str, key_id: str, state: pb.KeyState, **fields: Any) -> pb.Key:
    defaults: dict[str, Any] = {
        "type": pb.KEY_TYPE_AES,
        "bits": 256,
        "can_encrypt": True,
        "can_decrypt": True,
        "sensitive": True,
        "private": True,
        "token_label": "prod",
        "token": "main",
    }
    return pb.Key(label=label, key_id=key_id, key_id_sha256=sha256(key_id), state=state, **(defaults | fields))


def write_key() -> pb.Key:
    return key(
        "k8s-kek",
        WRITE_ID,
        pb.KEY_STATE_WRITE,
        created_unix_ms=CREATED,
        encrypts=12,
        decrypts=3456,
        last_used_unix_ms=USED,
        enc="A256GCM",
    )


def keys() -> list[pb.Key]:
    """One of each state, with labels that a terminal should not meet."""
    return [
        write_key(),
        key(
            "k8s-kek@2022-01-01T00:00:00Z", OLD_ID, pb.KEY_STATE_READABLE, bits=128, decrypts=1, last_used_unix_ms=USED
        ),
        key("鍵-ключ", "id-wide", pb.KEY_STATE_PENDING, token="old", token_label="old HSM"),
        key("k8s-kek@2021-01-01T00:00:00Z.retired", RETIRED_ID, pb.KEY_STATE_ARCHIVED, created_unix_ms=CREATED),
        key(
            "k8s-kek.hmac",
            WRITE_ID,
            pb.KEY_STATE_COMPANION,
            type=pb.KEY_TYPE_HMAC,
            can_encrypt=False,
            can_decrypt=False,
            can_sign=True,
            can_verify=True,
        ),
        key(
            "evil\x1b[2J\u202elabel\n",
            "",
            pb.KEY_STATE_UNUSABLE,
            type=pb.KEY_TYPE_OTHER,
            bits=0,
            can_encrypt=False,
            can_decrypt=False,
            sensitive=False,
            extractable=True,
            unusable_reason="it has no CKA_ID",
            unusable_hint="give it one: kmsctl keys adopt LABEL",
        ),
    ]


def serving() -> pb.GetStatusResponse:
    """As a kmsd answers that knows one token and nothing of followers."""
    return pb.GetStatusResponse(
        version="0.1.0",
        state=pb.SERVING_STATE_SERVING,
        healthz="ok",
        started_unix_ms=CREATED,
        write_label="k8s-kek",
        write_key=write_key(),
        token=_prod(),
        sessions=pb.GetStatusResponse.Sessions(open=4, configured=4, busy=1),
        probe=pb.GetStatusResponse.HealthProbe(last_success_unix_ms=CREATED + 1000, round_trip_ms=0.5),
        listeners=[
            pb.GetStatusResponse.Listener(socket="/run/kmsd/kms.sock", apis=["v2", "v1beta1"]),
            pb.GetStatusResponse.Listener(socket="/run/kmsd-admin/admin.sock", apis=["admin"]),
        ],
        keys=6,
        write_format="native",
    )


def _prod() -> pb.GetStatusResponse.Token:
    return pb.GetStatusResponse.Token(
        module="/usr/lib/softhsm/libsofthsm2.so",
        label="prod",
        serial="0011223344556677",
        model="SoftHSM v2",
        manufacturer="SoftHSM project",
        slot_id=1234567,
        up=True,
    )


def degraded() -> pb.GetStatusResponse:
    status = serving()
    status.state = pb.SERVING_STATE_DEGRADED
    status.problems.append(
        pb.Problem(message="two keys hold the label k8s-kek", hint="kmsctl keys list shows both; relabel one")
    )
    return status


def two_tokens() -> pb.GetStatusResponse:
    """In the middle of a move from one HSM to another, the old one unplugged."""
    status = degraded()
    status.tokens.extend(
        [
            pb.GetStatusResponse.TokenStatus(name="main", token=_prod(), sessions=status.sessions, write=True, keys=5),
            pb.GetStatusResponse.TokenStatus(
                name="old",
                token=pb.GetStatusResponse.Token(module="/usr/lib/old.so", label="old HSM", serial="42", model="Old"),
                sessions=pb.GetStatusResponse.Sessions(configured=4),
                reason="its slot is empty",
                hint="plug it in",
                keys=1,
            ),
        ]
    )
    status.following.CopyFrom(
        pb.GetStatusResponse.Following(
            since_unix_ms=CREATED,
            first_status_unix_ms=CREATED + 12_000,
            last_status_unix_ms=CREATED + 60_000,
            first_encrypt_unix_ms=CREATED + 61_000,
            last_encrypt_unix_ms=CREATED + 62_000,
            previous_key_id=OLD_ID,
            previous_key_id_sha256=sha256(OLD_ID),
        )
    )
    return status


def down() -> pb.GetStatusResponse:
    """Started without any key: no write key, and no round trip yet."""
    status = serving()
    status.state = pb.SERVING_STATE_DOWN
    status.healthz = "no key with the label k8s-kek"
    status.hint = "make one: kmsctl keygen k8s-kek"
    status.keys = 0
    status.ClearField("write_key")
    status.ClearField("probe")
    status.problems.append(
        pb.Problem(message="no key with the label k8s-kek", hint="make one: kmsctl keygen k8s-kek", fatal=True)
    )
    return status


def tenants() -> list[pb.GetStatusResponse.TenantStatus]:
    tenant = pb.GetStatusResponse.TenantStatus
    gone = "there is no key labelled 'kek-b' on token 'prod'"
    return [
        tenant(
            name="cluster-a",
            write_label="kek-a",
            state=pb.SERVING_STATE_SERVING,
            healthz="ok",
            write_key=keys()[0],
            in_flight=2,
            requests_per_second=12.5,
            p99_ms=3.25,
            requests=90210,
            errors=3,
            peers=3,
            first_end_unix_ms=4102444800000,
        ),
        tenant(
            name="cluster-b",
            write_label="kek-b",
            state=pb.SERVING_STATE_DOWN,
            healthz=gone,
            hint="kmsctl keygen kek-b",
            first_end_unix_ms=1767225600000,
            problems=[pb.Problem(message=gone, hint="kmsctl keygen kek-b", fatal=True)],
        ),
    ]


def peers() -> list[pb.ListPeersResponse.Peer]:
    peer = pb.ListPeersResponse.Peer
    return [
        peer(
            name="DNS:node-1.cluster-a.test",
            tenant="cluster-a",
            role="tenant",
            address="192.0.2.7:40112",
            serial="6f21",
            not_before_unix_ms=1735689600000,
            not_after_unix_ms=4102444800000,
            tls_version="TLSv1.3",
            cipher="TLS_AES_256_GCM_SHA384",
            group="X25519MLKEM768",
            last_seen_unix_ms=1767225600000,
            connections=1,
            calls=4711,
        ),
        peer(name="URI:spiffe://ops/\x1b[2J", role="viewer", address="192.0.2.9:5000", serial="a", last_seen_unix_ms=1),
    ]


def slots() -> list[pb.ListSlotsResponse.Slot]:
    slot = pb.ListSlotsResponse.Slot
    return [
        slot(
            slot_id=1234567,
            description="SoftHSM slot ID 0x12d687",
            manufacturer="SoftHSM project",
            token_present=True,
            token_label="prod",
            token_serial="0011223344556677",
            token_model="SoftHSM v2",
            token_manufacturer="SoftHSM project",
            flags=["login required", "rng", "token initialized"],
            pin_warnings=["one wrong PIN more locks the token"],
            in_use=True,
            module="/usr/lib/softhsm/libsofthsm2.so",
            name="main",
            sessions=5,
            sessions_max=1024,
            rw_sessions=1,
            rw_sessions_max=0,
        ),
        slot(slot_id=8, description="empty reader", manufacturer="Acme", module="/usr/lib/softhsm/libsofthsm2.so"),
    ]


def mechanisms() -> list[pb.ListMechanismsResponse.Mechanism]:
    mechanism = pb.ListMechanismsResponse.Mechanism
    return [
        mechanism(
            name="CKM_AES_KEY_GEN", type=0x1080, min_key=16, max_key=32, flags=["generate"], used_for="makes keys"
        ),
        mechanism(
            name="CKM_AES_GCM",
            type=0x1087,
            min_key=16,
            max_key=32,
            flags=["hw", "encrypt", "decrypt"],
            used_for="encrypts and decrypts",
        ),
        mechanism(name="CKM 0x80000001", type=0x80000001),
    ]


def diagnosis() -> pb.DiagnoseResponse:
    """Of a token with which nothing is wrong."""
    check = pb.DiagnoseResponse.Check
    return pb.DiagnoseResponse(
        token="main",
        token_label="prod",
        up=True,
        module="/usr/lib/softhsm/libsofthsm2.so",
        library="SoftHSM: Implementation of PKCS11 2.6",
        provider="softhsm",
        provider_title="SoftHSM 2",
        outcome="ok",
        checks=[
            check(name="module", title="PKCS#11 module", outcome="ok", seen="SoftHSM: Implementation of PKCS11 2.6"),
            check(name="gcm_12", title="AES-GCM, IV of 12 bytes", outcome="ok", seen="back and forth"),
            check(name="oaep_sha256", title="RSA-OAEP", outcome="not applicable", seen="CKR_ARGUMENTS_BAD"),
            check(name="verdict", title="Verdict", outcome="ok", seen="A256GCM: AES-GCM works"),
        ],
        verdict=pb.DiagnoseResponse.Verdict(algorithm="aes-gcm", enc="A256GCM", text="AES-GCM works"),
        abilities=pb.DiagnoseResponse.Abilities(
            gcm_iv_sizes=[12, 16], cbc=True, hmac_sha256=True, hmac_longest=65536, sessions=1, foreign_changes="at once"
        ),
        timings=[pb.DiagnoseResponse.Timing(operation="AES-GCM", ms=0.0125, per_second=13933.5, threads=4)],
        seconds=2.5,
    )


def sick() -> pb.DiagnoseResponse:
    """Of a token that is away, and on which somebody has tried PINs."""
    check = pb.DiagnoseResponse.Check
    return pb.DiagnoseResponse(
        token="main",
        module="/usr/lib/other.so",
        provider="generic",
        provider_title="any PKCS#11 module",
        outcome="failed",
        checks=[
            check(
                name="pin",
                title="User PIN",
                outcome="warning",
                seen="one more wrong user PIN locks it",
                fix="find out who tries wrong PINs",
            ),
            check(
                name="connection",
                title="Connection",
                outcome="failed",
                seen="the token refused the PIN",
                fix="correct the PIN",
            ),
            check(name="newer", title="Something newer", outcome="splendid", seen=""),
            check(name="verdict", title="Verdict", outcome="failed", seen="nothing: not tried", fix="mend it first"),
        ],
        verdict=pb.DiagnoseResponse.Verdict(algorithm="none", text="not tried", hint="mend it first"),
        abilities=pb.DiagnoseResponse.Abilities(foreign_changes="unknown"),
    )


def config() -> pb.GetConfigResponse:
    setting = pb.GetConfigResponse.Setting
    return pb.GetConfigResponse(
        file="/etc/kmsd/kmsd.toml",
        settings=[
            setting(name="kms.socket", value="/run/kmsd/kms.sock", origin="default"),
            setting(name="token.label", value="prod", origin="/etc/kmsd/kmsd.toml:3"),
            setting(name="token.pin", value="(set)", origin="P11_PIN", secret=True, reloadable=True),
            setting(name="log.level", value="info", origin="--log-level", reloadable=True),
        ],
        warnings=["P11_PIN: a PIN in the environment can be read by every process of this user"],
    )


def stats_frame() -> pb.WatchStatsResponse:
    """Three seconds of traffic, one of them idle."""
    frame = pb.WatchStatsResponse
    return frame(
        unix_ms=CREATED + 600_000,
        seconds=[
            frame.Second(
                unix_s=CREATED // 1000 + 597, requests=10, encrypts=1, decrypts=8, p50_ms=0.4, p99_ms=1.5, max_ms=1.6
            ),
            frame.Second(unix_s=CREATED // 1000 + 598),
            frame.Second(
                unix_s=CREATED // 1000 + 599,
                requests=30,
                errors=2,
                encrypts=1,
                decrypts=28,
                p50_ms=0.6,
                p99_ms=12.5,
                max_ms=20.25,
            ),
        ],
        calls=[
            frame.Calls(api="v2", method="Status", code="OK", count=20),
            frame.Calls(api="v2", method="Encrypt", code="OK", count=12),
            frame.Calls(api="v2", method="Decrypt", code="OK", count=3456),
            frame.Calls(api="v2", method="Decrypt", code="NOT_FOUND", count=2),
            frame.Calls(api="v1beta1", method="Decrypt", code="UNAVAILABLE", count=1),
        ],
        latencies=[
            frame.Latency(
                api="v2", method="Encrypt", count=12, sum_ms=6, p50_ms=0.5, p90_ms=0.75, p99_ms=1.5, max_ms=1.6
            ),
            frame.Latency(
                api="v2", method="Decrypt", count=3458, sum_ms=1729, p50_ms=0.4, p90_ms=0.5, p99_ms=12.5, max_ms=20.25
            ),
        ],
        operations=[
            frame.Latency(method="decrypt", count=3456, sum_ms=173, p50_ms=0.05, p90_ms=0.06, p99_ms=0.1, max_ms=3)
        ],
        keys=[
            frame.KeyUse(
                key_id=WRITE_ID, key_id_sha256=sha256(WRITE_ID), encrypts=12, decrypts=3456, last_used_unix_ms=USED
            ),
            frame.KeyUse(key_id=OLD_ID, key_id_sha256=sha256(OLD_ID), decrypts=1),
        ],
        sessions=pb.GetStatusResponse.Sessions(open=4, configured=4, busy=1),
        in_flight=1,
        started_unix_ms=CREATED,
        quantile_error=0.05,
    )


def calls() -> list[pb.WatchRequestsResponse.Request]:
    request = pb.WatchRequestsResponse.Request
    return [
        request(unix_ms=CREATED, api="v2", method="Status", code="OK", latency_ms=0.25),
        request(
            unix_ms=CREATED + 1,
            api="v2",
            method="Encrypt",
            uid="5dd5a5b4-0bd4-4d0f-a0b7-8c23ba0e5bd8",
            key_id_sha256=sha256(WRITE_ID),
            code="OK",
            latency_ms=1.5,
        ),
        request(
            unix_ms=CREATED + 2,
            api="v1beta1",
            method="Decrypt",
            uid="",
            key_id_sha256=sha256(OLD_ID),
            code="INVALID_ARGUMENT",
            latency_ms=123.456,
            reason="the ciphertext is empty; the caller sent nothing to decrypt",
        ),
    ]


def audit() -> list[pb.WatchAuditResponse.Record]:
    """Two records whose lines are no real chain: what is shown is what is sent."""
    record = pb.WatchAuditResponse.Record
    made = [
        record(
            seq=41,
            unix_ms=CREATED,
            kind="admin",
            action="GenerateKey",
            caller="kmsctl uid=0 user=root",
            key_id_sha256=sha256(WRITE_ID),
            outcome="OK",
            latency_ms=25.5,
            detail="label k8s-kek",
        ),
        record(seq=42, unix_ms=CREATED + 5, kind="event", action="token up", outcome="OK"),
        record(
            seq=43,
            unix_ms=CREATED + 6,
            kind="admin",
            action="DestroyKey",
            caller="kmsctl uid=0 user=root",
            outcome="FAILED_PRECONDITION",
            latency_ms=0.5,
            detail="dry run, nothing changed",
            reason="'k8s-kek' is the write key; rotate before",
        ),
        record(
            seq=44,
            unix_ms=CREATED + 7,
            kind="event",
            action="audit disturbed",
            outcome="DATA_LOSS",
            detail="audit.jsonl was deleted by another program",
        ),
    ]
    for each in made:
        each.line = json.dumps({"seq": each.seq, "action": each.action})
    return made


def verdict() -> pb.VerifyAuditResponse:
    return pb.VerifyAuditResponse(
        intact=True,
        records=42,
        first_seq=1,
        last_seq=42,
        head=sha256("head"),
        files=["/var/lib/kmsd/audit-1.jsonl", "/var/lib/kmsd/audit.jsonl"],
        chains=[
            pb.VerifyAuditResponse.Chain(
                name="main",
                intact=True,
                records=42,
                first_seq=1,
                last_seq=42,
                head=sha256("head"),
                files=["/var/lib/kmsd/audit-1.jsonl", "/var/lib/kmsd/audit.jsonl"],
            ),
            pb.VerifyAuditResponse.Chain(
                name="kms",
                intact=True,
                records=900,
                first_seq=101,
                last_seq=1000,
                head=sha256("kms"),
                files=["/var/lib/kmsd/audit-kms-101.jsonl", "/var/lib/kmsd/audit-kms.jsonl"],
            ),
        ],
    )


def tampering() -> list[pb.AcknowledgeAuditResponse.Seen]:
    seen = pb.AcknowledgeAuditResponse.Seen
    return [
        seen(unix_ms=CREATED, seq=17, text="/var/lib/kmsd/audit.jsonl was replaced by another program, seen 2026"),
        seen(unix_ms=CREATED + 5000, seq=19, text="/var/lib/kmsd/audit-kms.jsonl was deleted\x1b[2J, seen 2026"),
    ]


def inspection() -> pb.InspectCiphertextResponse:
    return pb.InspectCiphertextResponse(
        format="native",
        summary="an AES-256-GCM ciphertext of this kmsd, in an envelope of kube-apiserver",
        envelope=pb.InspectCiphertextResponse.Envelope(
            prefix="k8s:enc:kms:v2:",
            provider="kmsd",
            key_id=WRITE_ID,
            key_id_sha256=sha256(WRITE_ID),
            source_type="HKDF_SHA256_XNONCE_AES_GCM_SEED",
            encrypted_dek_bytes=190,
            encrypted_data_bytes=412,
            annotations=["kmsd.example.com"],
        ),
        jwe=pb.InspectCiphertextResponse.Jwe(
            alg="dir",
            enc="A256GCM",
            kid=WRITE_ID,
            kid_sha256=sha256(WRITE_ID),
            iv_bytes=12,
            ciphertext_bytes=32,
            tag_bytes=16,
            header=f'{{"alg":"dir","kid":"{WRITE_ID}","enc":"A256GCM"}}',
        ),
        keys=[write_key()],
        findings=[pb.Problem(message="the envelope carries an annotation that kmsd does not write", hint="ignore it")],
        readable=True,
    )


def revert_steps() -> list[pb.RotationStep]:
    return [
        pb.RotationStep(
            action="generate",
            key_id=RETIRED_ID,
            key_id_sha256=sha256(RETIRED_ID),
            to_label="k8s-kek.pending",
            token="old",
            done=True,
            text="made an AES-256 key k8s-kek.pending on token old",
        ),
        pb.RotationStep(
            action="relabel",
            key_id=WRITE_ID,
            key_id_sha256=sha256(WRITE_ID),
            from_label="k8s-kek",
            to_label="k8s-kek@2023-06-28T12:47:45Z",
            token="main",
            done=True,
            text="moved k8s-kek to k8s-kek@2023-06-28T12:47:45Z",
        ),
    ]
