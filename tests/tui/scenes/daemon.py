"""What a kmsd tells of itself: its keys, tokens, slots and mechanisms, its state, its configuration."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime

from kmsd.client import (
    Config,
    Following,
    Key,
    KeyState,
    KeyType,
    Listener,
    Mechanism,
    Probe,
    Problem,
    ServingState,
    Sessions,
    Setting,
    Slot,
    Status,
    Token,
    TokenStatus,
)
from tests.tui.scenes.when import STARTED, before, key_id


def key(label: str, number: int, made: datetime, state: KeyState = KeyState.READABLE, **fields: object) -> Key:
    identity = key_id(number, made)
    base = Key(
        label=label,
        key_id=identity,
        key_id_sha256=hashlib.sha256(identity.encode()).hexdigest(),
        type=KeyType.AES,
        bits=256,
        state=state,
        unusable_reason="",
        unusable_hint="",
        can_encrypt=True,
        can_decrypt=True,
        can_sign=False,
        can_verify=False,
        sensitive=True,
        extractable=False,
        private=True,
        local=True,
        always_sensitive=True,
        never_extractable=True,
        created=made,
        token_label="prod-hsm",
        token="main",
        enc="A256GCM",
        purpose="kek",
    )
    return replace(base, **fields)  # type: ignore[arg-type]


WRITE = key(
    "k8s-kek",
    1,
    before(minutes=2, seconds=19),
    KeyState.WRITE,
    encrypts=1_284,
    decrypts=96_410,
    last_used=before(seconds=1),
)
OLD = key(
    "k8s-kek@20261123T120411Z", 2, before(days=41), encrypts=1_402, decrypts=1_283_008, last_used=before(seconds=2)
)
KEYS = (
    WRITE,
    OLD,
    key("k8s-kek@20261012T090000Z", 3, before(days=132), decrypts=12_380, last_used=before(days=3)),
    key("k8s-kek@20260714T090000Z", 4, before(days=222), KeyState.ARCHIVED),
    key("k8s-kek.pending", 5, before(days=222), KeyState.PENDING),
    key(
        "legacy",
        6,
        before(days=700),
        KeyState.UNUSABLE,
        key_id="",
        key_id_sha256="",
        created=None,
        bits=128,
        enc="",
        unusable_reason="it has no CKA_ID, so nothing stored can name it",
        unusable_hint="give it one with `kmsctl keys adopt legacy`",
    ),
    key("payments", 7, before(days=12), decrypts=88, encrypts=4, last_used=before(hours=5)),
    key(
        "payments.hmac",
        7,
        before(days=12),
        KeyState.COMPANION,
        type=KeyType.HMAC,
        bits=512,
        can_encrypt=False,
        can_decrypt=False,
        can_sign=True,
        can_verify=True,
        enc="",
        purpose="hmac",
    ),
    key("日本語-鍵", 8, before(days=90)),
    key("bell\x07\x1b[31m", 9, before(days=91)),
)
TOKEN = Token("/usr/lib/libCryptoki2_64.so", "prod-hsm", "1327856214", "LunaSA 7.4", "SafeNet", 3, up=True)
SESSIONS = Sessions(open=8, configured=8, busy=3, stuck=0, queued=0)
LISTENERS = (
    Listener("/run/kmsd/kms.sock", ("v2", "v1beta1")),
    Listener("/run/kmsd-admin/admin.sock", ("admin",)),
)
SPARE = TokenStatus(
    "spare",
    replace(TOKEN, label="spare-hsm", serial="1327850001", slot_id=4),
    replace(SESSIONS, busy=0),
    write=False,
    reason="",
    hint="",
    keys=1,
)
BUSY = Status(
    version="0.2.0",
    state=ServingState.SERVING,
    healthz="ok",
    hint="",
    started=STARTED,
    write_label="k8s-kek",
    write_key=WRITE,
    token=TOKEN,
    sessions=SESSIONS,
    probe=Probe(before(seconds=4), 0.94),
    listeners=LISTENERS,
    problems=(),
    keys=len(KEYS),
    write_format="native",
    tokens=(TokenStatus("main", TOKEN, SESSIONS, True, "", "", len(KEYS)), SPARE),
    following=Following(
        before(minutes=2, seconds=19),
        before(minutes=2),
        before(seconds=12),
        before(minutes=1, seconds=28),
        before(seconds=1),
        OLD.key_id,
        OLD.key_id_sha256,
    ),
)
EMPTY = replace(
    BUSY,
    state=ServingState.DOWN,
    healthz="there is no key labelled 'k8s-kek' on token 'prod-hsm'",
    hint="make one with `kmsctl keygen k8s-kek`, or name the label that your key has in keys.label",
    write_key=None,
    probe=Probe(None, 0.0),
    keys=0,
    started=before(seconds=40),
    tokens=(TokenStatus("main", TOKEN, SESSIONS, True, "", "", 0),),
    following=Following(),
)
DEGRADED = replace(
    BUSY,
    state=ServingState.DEGRADED,
    sessions=replace(SESSIONS, open=7, stuck=1, queued=12),
    problems=(
        Problem(
            "1 of 8 sessions of token 'prod-hsm' has been in one call for 42 s",
            "look at the HSM: it may hang; kmsd goes on with the others",
            False,
        ),
        Problem(
            "2 keys on token 'prod-hsm' are labelled 'k8s-kek'",
            "relabel the older ones (`kmsctl keys relabel`); the newest writes",
            False,
        ),
        Problem(
            "the PIN of token 'prod-hsm' was wrong once: count low",
            "log in once with the right PIN: restart kmsd",
            False,
        ),
    ),
)
SLOTS = (
    Slot(
        3,
        "Net Token Slot",
        "SafeNet",
        True,
        "prod-hsm",
        "1327856214",
        "LunaSA 7.4",
        "SafeNet",
        ("RNG", "login required", "user PIN initialized", "token initialized"),
        (),
        True,
        "/usr/lib/libCryptoki2_64.so",
        "main",
        12,
        500,
        2,
        500,
    ),
    Slot(
        4,
        "Net Token Slot",
        "SafeNet",
        True,
        "spare-hsm",
        "1327850001",
        "LunaSA 7.4",
        "SafeNet",
        ("RNG", "login required", "user PIN initialized", "token initialized"),
        ("user PIN count low: at least one wrong PIN was given",),
        True,
        "/usr/lib/libCryptoki2_64.so",
        "spare",
        8,
        500,
        0,
        500,
    ),
    Slot(5, "Net Token Slot", "SafeNet", False, "", "", "", "", (), (), False, "/usr/lib/libCryptoki2_64.so"),
)
MECHANISMS = tuple(
    Mechanism(name, number, least, most, flags, used)
    for name, number, least, most, flags, used in (
        ("CKM_AES_KEY_GEN", 0x1080, 16, 32, ("generate", "hw"), "makes AES keys"),
        ("CKM_AES_CBC", 0x1082, 16, 32, ("encrypt", "decrypt", "hw"), "AES-CBC pairs"),
        ("CKM_AES_CBC_PAD", 0x1085, 16, 32, ("encrypt", "decrypt", "wrap", "unwrap", "hw"), ""),
        ("CKM_AES_ECB", 0x1081, 16, 32, ("encrypt", "decrypt", "hw"), ""),
        ("CKM_AES_GCM", 0x1087, 16, 32, ("encrypt", "decrypt", "hw"), "writes A256GCM"),
        ("CKM_AES_KEY_WRAP", 0x2109, 16, 32, ("wrap", "unwrap", "hw"), ""),
        ("CKM_GENERIC_SECRET_KEY_GEN", 0x350, 8, 4096, ("generate", "hw"), "makes HMAC keys"),
        ("CKM_SHA256_HMAC", 0x251, 8, 4096, ("sign", "verify", "hw"), "tags of AES-CBC pairs"),
        ("CKM_SHA512_HMAC", 0x271, 8, 4096, ("sign", "verify", "hw"), "tags of AES-CBC pairs"),
        ("CKM_RSA_PKCS", 0x1, 2048, 8192, ("encrypt", "decrypt", "sign", "verify", "hw"), ""),
        ("CKM_EC_KEY_PAIR_GEN", 0x1040, 224, 521, ("generate key pair", "hw"), ""),
        ("CKM_ECDSA", 0x1041, 224, 521, ("sign", "verify", "hw"), ""),
        ("CKM 0x80000101", 0x80000101, 0, 0, ("encrypt", "decrypt"), ""),
    )
)

CONFIG = Config(
    "/etc/kmsd/kmsd.toml",
    tuple(
        Setting(name, value, origin, secret, reloadable)
        for name, value, origin, secret, reloadable in (
            ("kms.socket", "/run/kmsd/kms.sock", "default", False, False),
            ("kms.mode", "0600", "default", False, False),
            ("kms.group", "", "default", False, False),
            ("kms.on_hsm_loss", "coast", "/etc/kmsd/kmsd.toml:4", False, True),
            ("kms.request_timeout", "3.0", "default", False, True),
            ("kms.max_plaintext", "65536", "default", False, True),
            ("admin.socket", "/run/kmsd-admin/admin.sock", "default", False, False),
            ("admin.group", "kms-operators", "/etc/kmsd/kmsd.toml:8", False, False),
            ("token.module", "/usr/lib/libCryptoki2_64.so", "/etc/kmsd/kmsd.toml:11", False, False),
            ("token.label", "prod-hsm", "KMSD_TOKEN__LABEL", False, False),
            ("token.pin", "(redacted)", "/etc/kmsd/pin", True, True),
            ("token.sessions", "8", "--sessions", False, False),
            ("token.queue", "1024", "default", False, False),
            ("keys.label", "k8s-kek", "default", False, False),
            ("keys.refresh", "10.0", "default", False, True),
            ("health.interval", "10.0", "default", False, True),
            ("log.level", "info", "default", False, True),
            ("log.format", "json", "/etc/kmsd/kmsd.toml:20", False, False),
            ("audit.kms", "sampled", "default", False, True),
            ("audit.sample", "100", "default", False, True),
            ("state.dir", "/var/lib/kmsd", "default", False, False),
        )
    ),
    (),
)
