"""What kmsd tells its clients: plain frozen data. Knows neither grpc nor protobuf, nor how anything is shown.

Text that kmsd did not give is empty; times are aware, in UTC, and None if unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ServingState(StrEnum):
    SERVING = "serving"
    DEGRADED = "degraded"
    """Serving, with something an operator should look at."""
    DOWN = "down"
    UNKNOWN = "unknown"
    """A state that a newer kmsd has and this client does not know."""


class KeyState(StrEnum):
    WRITE = "write"
    """Encrypts: holds the write label."""
    READABLE = "readable"
    """Decrypts what names it."""
    PENDING = "pending"
    """Made for a rotation that has not moved the write label yet."""
    UNUSABLE = "unusable"
    COMPANION = "companion"
    """Serves beside an AES key: an HMAC key."""
    ARCHIVED = "archived"
    """Retired: decrypts still, and may be destroyed."""
    UNKNOWN = "unknown"


class KeyType(StrEnum):
    AES = "aes"
    HMAC = "hmac"
    PAIR = "pair"
    """An AES key and an HMAC key with one CKA_ID: to be asked for, never in a list."""
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Problem:
    message: str
    hint: str
    fatal: bool
    """True if it keeps kmsd from serving; false for a warning."""


@dataclass(frozen=True)
class Key:
    """One key on a token. Its identity is `key_id`; `label` is the role it has now."""

    label: str
    key_id: str
    key_id_sha256: str
    """Lower hex of SHA-256 over key_id, as kube-apiserver logs it."""
    type: KeyType
    bits: int
    state: KeyState
    unusable_reason: str
    unusable_hint: str
    can_encrypt: bool
    can_decrypt: bool
    can_sign: bool
    can_verify: bool
    sensitive: bool
    extractable: bool
    private: bool
    created: datetime | None
    token_label: str
    token: str = ""
    """Name of the token in kmsd's configuration; what calls take as `token`."""
    encrypts: int = 0
    decrypts: int = 0
    """Since kmsd started."""
    last_used: datetime | None = None
    enc: str = ""
    """JWE enc of what it writes; empty if it writes nothing."""


@dataclass(frozen=True)
class Token:
    """The token that kmsd uses."""

    module: str
    label: str
    serial: str
    model: str
    manufacturer: str
    slot_id: int
    up: bool


@dataclass(frozen=True)
class Sessions:
    open: int
    configured: int
    busy: int
    stuck: int
    """Busy for longer than the stuck limit."""
    queued: int


@dataclass(frozen=True)
class Probe:
    """The background encrypt and decrypt that healthz is earned with."""

    last_success: datetime | None
    round_trip_ms: float


@dataclass(frozen=True)
class TokenStatus:
    """One configured token. name: in kmsd's configuration. write: new keys are made here.
    reason, hint: why it is not up."""

    name: str
    token: Token
    sessions: Sessions
    write: bool
    reason: str
    hint: str
    keys: int


@dataclass(frozen=True)
class Following:
    """How far kube-apiserver has followed to the present write key; None for what has not happened."""

    since: datetime | None = None
    """When kmsd began to answer this key id."""
    first_status: datetime | None = None
    last_status: datetime | None = None
    first_encrypt: datetime | None = None
    last_encrypt: datetime | None = None
    previous_key_id: str = ""
    """What kmsd wrote with before; empty if nothing since it started."""
    previous_key_id_sha256: str = ""


class Outcome(StrEnum):
    """Of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """name: a stable word for programs. title: for people. seen: what happened. fix: what to do, or empty."""

    name: str
    title: str
    outcome: Outcome
    seen: str
    fix: str


@dataclass(frozen=True)
class Verdict:
    """What kmsd can write with on a token. algorithm: "aes-gcm", "aes-cbc", "rsa-oaep" or "none". enc: of the JWE, alg
    for RSA-OAEP; empty for none. text: why."""

    algorithm: str
    enc: str
    text: str
    hint: str
    cbc_from_ecb: bool
    """AES-CBC is built of single blocks."""


@dataclass(frozen=True)
class Abilities:
    """What was found to work, whatever the token lists. What was not tried counts as not working."""

    gcm_iv_sizes: tuple[int, ...]
    """Bytes of IVs that the caller may choose."""
    gcm_iv_by_token: bool
    cbc: bool
    cbc_pad: bool
    ecb: bool
    hmac_sha256: bool
    hmac_sha512: bool
    hmac_empty: bool
    """The empty message has a MAC."""
    hmac_longest: int
    """Bytes of the longest message that was taken, of those tried."""
    oaep_sha256: bool
    generate_aes: bool
    generate_hmac: bool
    relabel: bool
    sessions: int
    """How many more could be opened at once, of those asked for."""
    foreign_changes: str
    """When keys that other programs make are seen."""


@dataclass(frozen=True)
class Speed:
    """Of one operation of a token. ms: alone, the median. per_second: what the threads did together."""

    operation: str
    ms: float
    per_second: float
    threads: int


@dataclass(frozen=True)
class Diagnosis:
    """What a token can really do. token: its name in kmsd's configuration. provider: what kind of token it is taken
    for; provider_title: in words. outcome: the worst of the checks. seconds: that it took."""

    token: str
    token_label: str
    up: bool
    module: str
    library: str
    provider: str
    provider_title: str
    outcome: Outcome
    checks: tuple[Check, ...]
    verdict: Verdict
    abilities: Abilities
    speeds: tuple[Speed, ...]
    seconds: float


@dataclass(frozen=True)
class Listener:
    socket: str
    apis: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    version: str
    state: ServingState
    healthz: str
    """Exactly what KMS v2 Status answers: "ok" or the reason why not."""
    hint: str
    started: datetime | None
    write_label: str
    write_key: Key | None
    token: Token
    sessions: Sessions
    probe: Probe
    listeners: tuple[Listener, ...]
    problems: tuple[Problem, ...]
    keys: int
    write_format: str
    tokens: tuple[TokenStatus, ...] = ()
    following: Following = Following()

    @property
    def healthy(self) -> bool:
        return self.healthz == "ok"


@dataclass(frozen=True)
class Slot:
    slot_id: int
    description: str
    manufacturer: str
    token_present: bool
    token_label: str
    token_serial: str
    token_model: str
    token_manufacturer: str
    flags: tuple[str, ...]
    """CKF_* of CK_TOKEN_INFO in words."""
    pin_warnings: tuple[str, ...]
    in_use: bool
    module: str = ""
    name: str = ""
    """Of the token in kmsd's configuration, if it is in use."""
    sessions: int | None = None
    sessions_max: int | None = None
    rw_sessions: int | None = None
    rw_sessions_max: int | None = None
    """Open sessions of all programs, and how many there may be; None if the token does not tell."""


@dataclass(frozen=True)
class GeneratedKey:
    key: Key
    created: bool
    """False if the key was there already and `if_not_exists` asked for it."""
    companion: Key | None = None
    """The HMAC key of a pair."""


@dataclass(frozen=True)
class Mechanism:
    """name: as "CKM_AES_GCM". min_key, max_key: in the mechanism's own unit (bits or bytes). flags: CKF_* in words.
    used_for: what kmsd does with it here; may be empty."""

    name: str
    type: int
    min_key: int
    max_key: int
    flags: tuple[str, ...]
    used_for: str


@dataclass(frozen=True)
class KeyDetail:
    """companion: the HMAC key beside an AES key, or the other way round."""

    key: Key
    companion: Key | None


@dataclass(frozen=True)
class RelabelledKey:
    key: Key
    previous_label: str


@dataclass(frozen=True)
class DestroyedKey:
    """key, companion: as they were. destroyed: False in a dry run."""

    key: Key
    companion: Key | None
    destroyed: bool


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class KeyTest:
    key: Key
    rounds: int
    encrypt: Timing
    decrypt: Timing


@dataclass(frozen=True)
class RotationStep:
    """action: "generate", "test" or "relabel". text: in words."""

    action: str
    key_id: str
    key_id_sha256: str
    from_label: str
    to_label: str
    token: str
    done: bool
    text: str


@dataclass(frozen=True)
class Rotation:
    """old: None if nothing wrote before. new: None in a dry run. rotated: False in a dry run, and when `from_key_id`
    wrote no more."""

    steps: tuple[RotationStep, ...]
    old: Key | None
    new: Key | None
    rotated: bool


@dataclass(frozen=True)
class Reversion:
    """previous: the key that wrote before `old`; `new` is on its token. not_undone: sentences."""

    steps: tuple[RotationStep, ...]
    old: Key | None
    new: Key | None
    previous: Key | None
    reverted: bool
    not_undone: tuple[str, ...]


@dataclass(frozen=True)
class KeyInEtcd:
    """by_label: the envelope names a label instead of a key id, as the ancestor's data does."""

    key_id: str
    objects: int
    by_label: bool = False


@dataclass(frozen=True)
class ScanReport:
    """What a scan of etcd counted; evidence for retiring a key. prefix: what was read.
    unknown: values that could not be understood, and so may need any key."""

    started: datetime
    finished: datetime
    cluster_id: int
    prefix: str
    revision: int
    objects: int
    unknown: int
    uses: tuple[KeyInEtcd, ...]


@dataclass(frozen=True)
class Setting:
    """name: section and field, as "token.pin_file". origin: "default", or the place in words."""

    name: str
    value: str
    origin: str
    secret: bool
    reloadable: bool


@dataclass(frozen=True)
class Config:
    """file: empty if none was read."""

    file: str
    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class LogLevel:
    level: str
    previous: str


@dataclass(frozen=True)
class Envelope:
    """What kube-apiserver put around a ciphertext. prefix: as "k8s:enc:kms:v2:"."""

    prefix: str
    provider: str
    key_id: str
    key_id_sha256: str
    source_type: str
    encrypted_dek_bytes: int
    encrypted_data_bytes: int
    annotations: tuple[str, ...]


@dataclass(frozen=True)
class Jwe:
    alg: str
    enc: str
    kid: str
    kid_sha256: str
    iv_bytes: int
    ciphertext_bytes: int
    tag_bytes: int
    header: str
    """The protected header as it is, in JSON."""


@dataclass(frozen=True)
class Inspection:
    """format: for example "native" or "k8s-kms-plugin aes-gcm". keys: those that may open it, best first.
    readable: whether kmsd would decrypt it, as far as can be told without trying."""

    format: str
    summary: str
    envelope: Envelope | None
    jwe: Jwe | None
    keys: tuple[Key, ...]
    findings: tuple[Problem, ...]
    readable: bool


@dataclass(frozen=True)
class Second:
    """One second of the KMS APIs. time: its beginning."""

    time: datetime
    requests: int
    errors: int
    encrypts: int
    decrypts: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class CallCount:
    api: str
    method: str
    code: str
    count: int


@dataclass(frozen=True)
class Latency:
    """api: empty for an operation of the token, which `method` names. Milliseconds."""

    api: str
    method: str
    count: int
    sum_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class KeyUse:
    key_id: str
    key_id_sha256: str
    encrypts: int
    decrypts: int
    last_used: datetime | None


@dataclass(frozen=True)
class StatsFrame:
    """seconds: whole seconds since the last frame, oldest first; in the first frame, the history. The rest counts
    since kmsd started. quantile_error: how far a quantile may be off, as a fraction."""

    time: datetime | None
    seconds: tuple[Second, ...]
    calls: tuple[CallCount, ...]
    latencies: tuple[Latency, ...]
    operations: tuple[Latency, ...]
    keys: tuple[KeyUse, ...]
    sessions: Sessions
    in_flight: int
    started: datetime | None
    quantile_error: float


@dataclass(frozen=True)
class Request:
    """One call that ended. code: canonical status name, "OK" included."""

    time: datetime | None
    api: str
    method: str
    uid: str
    key_id_sha256: str
    code: str
    latency_ms: float


@dataclass(frozen=True)
class Requests:
    """dropped: calls that the stream was too slow to be told of, since the last batch."""

    requests: tuple[Request, ...]
    dropped: int


@dataclass(frozen=True)
class AuditRecord:
    """kind: "admin", "kms" or "event". line: as it is in the file."""

    seq: int
    time: datetime | None
    kind: str
    action: str
    caller: str
    key_id_sha256: str
    outcome: str
    latency_ms: float
    detail: str
    line: str


@dataclass(frozen=True)
class AuditRecords:
    records: tuple[AuditRecord, ...]
    dropped: int


@dataclass(frozen=True)
class AuditVerdict:
    """head: hash of the last record. problem: what is wrong, in which file and line; empty if intact."""

    intact: bool
    records: int
    first_seq: int
    last_seq: int
    head: str
    files: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class KmsStatus:
    """What Status (v2) or Version (v1beta1) answered; what the API in question lacks is empty."""

    version: str
    healthz: str
    key_id: str
    runtime_name: str
    runtime_version: str


@dataclass(frozen=True)
class Encrypted:
    """What v2 needs to decrypt again; v1beta1 fills in the ciphertext alone."""

    ciphertext: bytes
    key_id: str = ""
    annotations: Mapping[str, bytes] = field(default_factory=dict)
