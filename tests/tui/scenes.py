"""Fixed data and a fixed clock: what the pictures show. No server, no token; the screens are the real ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from kmsd.client import (
    AuditRecord,
    CallCount,
    Config,
    Following,
    Key,
    KeyState,
    KeyType,
    KeyUse,
    Latency,
    Listener,
    Mechanism,
    Probe,
    Problem,
    Request,
    Second,
    ServingState,
    Sessions,
    Setting,
    Slot,
    StatsFrame,
    Status,
    Token,
    TokenStatus,
    Unreachable,
)
from kmstui import traffic
from kmstui.app import Kmstui
from kmstui.remember import Memory
from kmstui.view import Moment, Numbered, Peer, Reading, Sighting, Tail, View

NOW = datetime(2026, 11, 23, 12, 6, 30, tzinfo=UTC)
STEADY = 5000.0
MOMENT = Moment(NOW, STEADY)
TARGET = "unix:///run/kmsd/cp-1.sock"
TARGETS = (TARGET, "unix:///run/kmsd/cp-2.sock", "unix:///run/kmsd/cp-3.sock")
STARTED = NOW - timedelta(hours=30)


def before(**span: float) -> datetime:
    return NOW - timedelta(**span)


def key_id(number: int, made: datetime) -> str:
    """Like a version 7 UUID of that moment."""
    stamp = f"{int(made.timestamp() * 1000):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7b1e-9c55-{number:04x}{number * 7919:08x}"


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
        created=made,
        token_label="prod-hsm",
        token="main",
        enc="A256GCM",
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
    ),
    key("日本語-鍵", 8, before(days=90)),
    key("bell\x07\x1b[31m", 9, before(days=91)),
)
TOKEN = Token("/usr/lib/libCryptoki2_64.so", "prod-hsm", "1327856214", "LunaSA 7.4", "SafeNet", 3, up=True)
SESSIONS = Sessions(open=8, configured=8, busy=3, stuck=0, queued=0)
NO_SESSIONS = Sessions(0, 8, 0, 0, 0)
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


def seconds(load: Callable[[int], float], errors: Callable[[int], int] = lambda _: 0) -> tuple[Second, ...]:
    """The last 15 minutes; load: requests in the second that many seconds ago."""
    made = []
    for back in range(899, -1, -1):
        count = max(0, round(load(back)))
        wobble = 1 + 0.25 * math.sin(back / 7) + 0.1 * math.sin(back / 1.7)
        p50, p99 = 0.55 * wobble, (1.4 + count / 1500) * wobble
        wrong = min(count, errors(back))
        timing = (p50, p99, p99 * 1.8) if count else (0.0, 0.0, 0.0)
        made.append(
            Second(NOW - timedelta(seconds=back), count, wrong, count // 40, count - count // 40 - wrong, *timing)
        )
    return tuple(made)


def wave(back: int) -> float:
    hill = 3200 * math.exp(-(((back - 600) / 70) ** 2)) + 1900 * math.exp(-(((back - 120) / 90) ** 2))
    return 240 + hill + 90 * math.sin(back / 3.1) + 40 * math.sin(back / 1.3)


def frame(time: datetime, scale: float, errors: int) -> StatsFrame:
    def many(number: float) -> int:
        return round(number * scale)

    return StatsFrame(
        time=time,
        seconds=(),
        calls=(
            CallCount("v2", "Status", "OK", many(1_800)),
            CallCount("v2", "Encrypt", "OK", many(2_686)),
            CallCount("v2", "Decrypt", "OK", many(1_391_618)),
            CallCount("v2", "Decrypt", "INVALID_ARGUMENT", errors),
            CallCount("v2", "Decrypt", "UNAVAILABLE", errors * 3),
            CallCount("v1beta1", "Version", "OK", 12),
            CallCount("v1beta1", "Decrypt", "OK", many(41_204)),
        ),
        latencies=(
            Latency("v2", "Status", many(1_800), 900.0, 0.08, 0.1, 0.3, 0.9),
            Latency("v2", "Encrypt", many(2_686), 2_800.0, 0.62, 0.95, 2.1, 14.0),
            Latency("v2", "Decrypt", many(1_391_618) + 4 * errors, 834_970.0, 0.58, 0.9, 1.9, 48.0),
            Latency("v1beta1", "Version", 12, 1.0, 0.05, 0.07, 0.1, 0.1),
            Latency("v1beta1", "Decrypt", many(41_204), 32_000.0, 0.71, 1.1, 2.4, 12.0),
        ),
        operations=(
            Latency("", "decrypt", many(1_432_822), 800_000.0, 0.41, 0.6, 1.2, 40.0),
            Latency("", "encrypt", many(2_686), 1_600.0, 0.44, 0.66, 1.3, 9.0),
            Latency("", "generate random", many(2_686), 300.0, 0.11, 0.14, 0.3, 1.0),
            Latency("", "find", 10_812, 21_000.0, 1.9, 2.4, 4.1, 20.0),
        ),
        keys=(
            KeyUse(WRITE.key_id, WRITE.key_id_sha256, many(1_284), many(96_410), before(seconds=1)),
            KeyUse(OLD.key_id, OLD.key_id_sha256, 1_402, many(1_283_008), before(seconds=2)),
            KeyUse(KEYS[2].key_id, KEYS[2].key_id_sha256, 0, 12_380, before(days=3)),
        ),
        sessions=SESSIONS,
        in_flight=4,
        started=STARTED,
        quantile_error=0.05,
    )


def flow(errors: int = 0) -> traffic.Traffic:
    known = traffic.Traffic()
    shape = seconds(wave, (lambda back: 9 if back < 200 and back % 5 == 0 else 0) if errors else (lambda _: 0))
    for back in range(5, -1, -1):
        past = frame(NOW - timedelta(seconds=back), 1 - back * 0.0009, errors - errors * back // 12)
        known = traffic.fold(known, replace(past, seconds=shape if back == 0 else ()), STEADY - back)
    return replace(known, uses=_uses(), watched=traffic.stamp(NOW) - 600)


def _uses() -> dict[str, tuple[traffic.Use, ...]]:
    """As watched for ten minutes: calls move from the old key to the new one."""
    end = traffic.stamp(NOW)
    old, new = list[traffic.Use](), list[traffic.Use]()
    for back in range(600, -1, -1):
        calls = round(wave(back))
        moved = min(calls // 8, max(0, 85 - back)) if back < 85 else 0
        old.append(traffic.Use(end - back, 1, 0, calls - moved))
        if moved:
            new.append(traffic.Use(end - back, 1, moved // 40, moved))
    return {OLD.key_id: tuple(old), WRITE.key_id: tuple(new)}


def quiet() -> traffic.Traffic:
    nothing = replace(
        frame(NOW, 0, 0),
        calls=(),
        latencies=(),
        operations=(),
        keys=(),
        in_flight=0,
        seconds=seconds(lambda _: 0)[-40:],
    )
    return traffic.fold(traffic.Traffic(), nothing, STEADY)


def requests(errors: bool = False) -> Tail[Request]:
    made = []
    for at in range(200):
        bad = errors and at % 17 == 0
        method = "Encrypt" if at % 23 == 0 else "Decrypt"
        used = WRITE if at % 3 else OLD
        made.append(
            Numbered(
                at,
                Request(
                    NOW - timedelta(milliseconds=(200 - at) * 3.1),
                    "v1beta1" if at % 29 == 0 else "v2",
                    method,
                    f"{at * 2654435761 % 2**32:08x}-41d2-4be0-a6ec-0f3c5e7d{at:04x}",
                    used.key_id_sha256 if not bad else "",
                    "UNAVAILABLE" if bad else "OK",
                    0.4 + (at * 37 % 100) / 90 + (at % 41 == 0) * 12,
                ),
            )
        )
    return Tail(tuple(made), following=True)


def _record(
    seq: int,
    time: datetime,
    kind: str,
    action: str,
    caller: str,
    used: Key | None,
    outcome: str,
    detail: str,
    ms: float = 0.0,
) -> Numbered[AuditRecord]:
    digest = used.key_id_sha256 if used is not None else ""
    line = (
        f'{{"v":1,"seq":{seq},"time":"{time:%Y-%m-%dT%H:%M:%S.%f}Z","kind":"{kind}","action":"{action}",'
        f'"caller":"{caller}","key_id_sha256":"{digest}","outcome":"{outcome}","detail":"{detail}",'
        f'"prev":"{hashlib.sha256(str(seq).encode()).hexdigest()}"}}'
    )
    return Numbered(seq, AuditRecord(seq, time, kind, action, caller, digest, outcome, ms, detail, line))


def audit() -> Tail[AuditRecord]:
    me = "kmsctl uid=0 user=root for=anna"
    other = "kmstui uid=0 user=root for=ben"
    shown: list[Numbered[AuditRecord]] = [
        _record(40_180, before(hours=30), "event", "started", "kmsd", None, "OK", "version 0.2.0"),
        _record(40_181, before(hours=30, seconds=-2), "event", "token up", "kmsd", None, "OK", "prod-hsm, 8 sessions"),
        _record(40_402, before(hours=4), "admin", "SetLogLevel", me, None, "OK", "info → debug", 0.2),
        _record(40_407, before(hours=3.9), "admin", "SetLogLevel", me, None, "OK", "debug → info", 0.2),
        _record(
            40_518,
            before(minutes=9),
            "event",
            "token lost",
            "kmsd",
            None,
            "CKR_DEVICE_ERROR",
            "prod-hsm: 3 calls refused",
        ),
        _record(
            40_519,
            before(minutes=8, seconds=55),
            "event",
            "token up",
            "kmsd",
            None,
            "OK",
            "prod-hsm, after 5.1 s, 8 sessions",
        ),
        _record(
            40_530,
            before(minutes=2, seconds=31),
            "admin",
            "DestroyKey",
            other,
            KEYS[2],
            "FAILED_PRECONDITION",
            "the key was used 3 days ago",
            1.4,
        ),
        _record(
            40_531,
            before(minutes=2, seconds=20),
            "admin",
            "GenerateKey",
            me,
            WRITE,
            "OK",
            "k8s-kek.pending on prod-hsm",
            61.0,
        ),
        _record(
            40_532,
            before(minutes=2, seconds=19),
            "admin",
            "RotateKey",
            me,
            WRITE,
            "OK",
            f"{OLD.key_id_sha256[:8]} → {WRITE.key_id_sha256[:8]}",
            148.0,
        ),
        _record(
            40_533,
            before(minutes=2, seconds=19),
            "event",
            "write key",
            "kmsd",
            WRITE,
            "OK",
            f"{OLD.key_id_sha256[:8]} → {WRITE.key_id_sha256[:8]}",
        ),
    ]
    sampled = [
        _record(
            40_534 + at,
            before(seconds=120 - 2 * at),
            "kms",
            "Decrypt" if at % 9 else "Encrypt",
            "kms socket",
            WRITE if at % 3 else OLD,
            "OK",
            "",
            0.4 + at % 7 / 10,
        )
        for at in range(50)
    ]
    return Tail((*shown, *sampled), following=True)


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
            ("keys.idle_before_destroy", "86400.0", "default", False, True),
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


def _read(value: object) -> Reading:  # type: ignore[type-arg]
    return Reading(value, STEADY - 0.4)


def _view(status: Status, **fields: object) -> View:
    base = View(
        TARGET,
        2.0,
        (TARGET,),
        due=STEADY + 1.6,
        status=_read(status),
        keys=_read(KEYS),
        slots=_read(SLOTS),
        mechanisms=MappingProxyType({"main": _read(MECHANISMS), "spare": _read(MECHANISMS[:4])}),
        config=_read(CONFIG),
        traffic=flow(),
        requests=requests(),
        audit=audit(),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def _peer(target: str, status: Status) -> Peer:
    return Peer(target, _read(status))


def empty() -> View:
    """A fresh token without keys, and nobody calls."""
    return _view(
        EMPTY,
        keys=_read(()),
        slots=_read(SLOTS[:1]),
        traffic=quiet(),
        requests=Tail(following=True),
        audit=Tail((audit().items[0],), following=True),
    )


def busy() -> View:
    """Two minutes after a rotation, under load; three nodes."""
    followed = replace(BUSY.following, first_encrypt=before(minutes=1, seconds=21))
    waits = replace(BUSY.following, first_encrypt=None, last_encrypt=None, first_status=before(seconds=58))
    peers = (_peer(TARGETS[1], replace(BUSY, following=followed)), _peer(TARGETS[2], replace(BUSY, following=waits)))
    return _view(BUSY, targets=TARGETS, peers=peers)


def degraded() -> View:
    second = replace(KEYS[2], label="k8s-kek")
    flaws = (
        Sighting(before(minutes=9), "state", "SERVING → DOWN: the token does not answer", bad=True),
        Sighting(before(minutes=8, seconds=55), "state", "DOWN → DEGRADED"),
    )
    return _view(
        DEGRADED,
        keys=_read((*KEYS[:2], second, *KEYS[3:])),
        traffic=flow(errors=300),
        requests=replace(requests(errors=True), dropped=1_240),
        sightings=flaws,
        config=_read(
            replace(CONFIG, warnings=("keys.refresh is longer than health.interval: a new key is seen late",))
        ),
    )


def disconnected() -> View:
    gone = Unreachable(
        "kmsd does not run: nothing listens on /run/kmsd/cp-1.sock",
        "start it with `systemctl start kmsd`, or `kmsd serve`, or `kmsd dev` to try it out",
        "UNAVAILABLE",
        retryable=True,
    )
    view = busy()
    aged = {
        name: replace(getattr(view, name), taken=STEADY - 23)
        for name in ("status", "keys", "slots", "config", "traffic")
    }
    shown = replace(view, **aged)
    seen = (Sighting(before(seconds=21), "lost kmsd", gone.message, bad=True),)
    return replace(shown, status=shown.status.failed(gone), due=STEADY + 3, sightings=seen)


SCENES = {"empty": empty, "busy": busy, "degraded": degraded, "disconnected": disconnected}


class Still(Kmstui):
    """Shows one View for ever."""

    def __init__(self, view: View, screen: str = "", theme: str = "") -> None:
        super().__init__(view.targets, clock=lambda: MOMENT)
        self.store.view = view
        self.memory = Memory(screen, theme)
        self.theme = theme or self.theme

    def begin(self) -> None:
        self._draw()
