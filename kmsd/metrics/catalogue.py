"""Every metric of kmsd: its name, type, labels and meaning. docs/metrics.md is written from this.

Names begin with `kmsd_`, units are seconds, bytes and ratios, and each label has few values: tenants and tokens are
bounded by the configuration, keys by `kmsd.metrics.keys`. Data alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "summary"]


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric. name: as it is scraped, a counter's with `_total`. help: what its value is, one sentence."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"kmsd_{name}", "gauge", meaning, labels)


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"kmsd_{name}_total", "counter", meaning, labels)


BUILD: Final = _gauge("build_info", "Version of kmsd, in a label; always 1.", "version")
STARTED: Final = _gauge("start_time_seconds", "Unix time at which kmsd started.")
PROBLEMS: Final = _gauge(
    "problems",
    "Problems that kmsctl status shows: fatal ones keep kmsd from serving, passing ones end with a rotation.",
    "severity",
)
LISTENER: Final = _gauge("listener_up", "Whether callers are served there: 1 or 0.", "listener")

RPC_REQUESTS: Final = _counter("rpc_requests", "Calls that have ended.", "api", "method", "code")
RPC_DURATION: Final = Metric("kmsd_rpc_duration_seconds", "histogram", "Time that calls took.", ("api", "method"))
RPC_IN_FLIGHT: Final = _gauge("rpc_in_flight", "Calls that have begun and not ended.")

HEALTH_OK: Final = _gauge(
    "health_ok", "Whether the last round trip with the write key worked and is recent: 1 or 0.", "tenant"
)
HEALTH_AGE: Final = _gauge("health_check_age_seconds", "Seconds since a round trip ended, well or not.", "tenant")
HEALTH_INTERVAL: Final = _gauge("health_interval_seconds", "Seconds between two round trips (health.interval).")
HEALTH_SUCCESS: Final = _gauge(
    "health_last_success_timestamp_seconds",
    "Unix time of the last round trip that worked; 0 before the first.",
    "tenant",
)
HEALTH_ROUND_TRIP: Final = _gauge("health_round_trip_seconds", "Time that this round trip took.", "tenant")

WRITE_KEY: Final = _gauge(
    "write_key_info",
    "The key that encrypts, by the hash of its key id as kube-apiserver logs it; always 1.",
    *("tenant", "key_id_hash"),
)
WRITE_KEY_CREATED: Final = _gauge(
    "write_key_created_timestamp_seconds",
    "Unix time at which that key was made; missing for a key that kmsd did not make.",
    "tenant",
)
WRITE_KEY_FOLLOWED: Final = _gauge(
    "write_key_followed",
    "Whether kube-apiserver encrypts with that key: 1 or 0; missing while nobody has used this one or one before it.",
    "tenant",
)
WRITE_KEY_SINCE: Final = _gauge(
    "write_key_first_asked_timestamp_seconds",
    "Unix time at which kube-apiserver was first answered with that key; missing before that.",
    "tenant",
)
GCM_BUDGET: Final = _gauge(
    "write_key_gcm_budget_ratio",
    "Encryptions with that key since kmsd started, as a part of the 2^32 that an AES-GCM key with random IVs may do.",
    "tenant",
)
KEYS: Final = _gauge("keys", "Keys on all tokens, by state.", "state")
KEY_OPERATIONS: Final = _counter(
    "key_operations",
    "Encryptions and decryptions for callers: of the write keys and the 50 other keys that are used most, and of all "
    "others together (other).",
    *("key_id_hash", "op"),
)
LEGACY_DECRYPTS: Final = _counter(
    "legacy_decrypts", "Values of other programs that were read: docs/formats.md names the formats.", "format"
)

HSM_UP: Final = _gauge("hsm_up", "Whether kmsd is logged in to the token: 1 or 0.", "token")
HSM_OPERATION: Final = Metric(
    "kmsd_hsm_operation_duration_seconds", "histogram", "Time that operations took on the tokens.", ("op",)
)
HSM_SESSIONS: Final = _gauge(
    "hsm_sessions",
    "Sessions with the token: open, and of these busy, and stuck in one call for long.",
    "token",
    "state",
)
HSM_SESSIONS_LIMIT: Final = _gauge("hsm_sessions_limit", "Sessions that there may be (token.sessions).", "token")
HSM_QUEUE: Final = _gauge("hsm_queue_length", "Calls that wait for a session.", "token")
HSM_QUEUE_LIMIT: Final = _gauge("hsm_queue_limit", "Calls of one API that may wait (token.queue).", "token")
HSM_REFUSED: Final = _counter(
    "hsm_queue_refused",
    "Calls that were refused at once: the queue was full, or they would have waited too long.",
    "token",
)
HSM_SILENT: Final = _gauge("hsm_silent_seconds", "Seconds for which the token has owed an answer; 0 if none.", "token")
HSM_HOSTS: Final = _counter("hsm_hosts_started", "Processes with the token's module that have served.", "token")
HSM_OPERATOR: Final = _gauge(
    "hsm_operator_needed",
    "Whether kmsd does not log in until an operator has acted, as after a refused PIN: 1 or 0.",
    "token",
)

AUDIT_RECORDS: Final = _counter("audit_records", "Records written: the number of the last one.", "chain")
AUDIT_LOST: Final = _counter("audit_lost_records", "Records lost because more waited than could be written.", "chain")
AUDIT_WAITING: Final = _gauge("audit_waiting_records", "Records that wait for the disk.", "chain")
AUDIT_OK: Final = _gauge("audit_ok", "Whether the audit can be written: 1 or 0; missing if it is off.", "chain")
AUDIT_DISTURBED: Final = _gauge(
    "audit_disturbances", "Changes by other programs that nobody has acknowledged (kmsctl audit acknowledge)."
)

CERTIFICATE_END: Final = _gauge(
    "certificate_expiry_seconds",
    "Unix time at which a certificate ends: of the server, of est, of a proxy, or the first of a tenant's callers.",
    *("use", "tenant"),
)
CERTIFICATE_START: Final = _gauge(
    "certificate_start_seconds", "Unix time from which that certificate is valid.", "use", "tenant"
)

SCAN_OBJECTS: Final = _gauge(
    "etcd_scan_objects",
    "Stored objects that need a key, by the last kmsctl etcd scan that accompanied a request: of 50 keys, of all "
    "others together (other), and of none that is known (unknown).",
    "key_id_hash",
)
SCAN_TIME: Final = _gauge("etcd_scan_timestamp_seconds", "Unix time at which that scan ended.")

TENANT_DURATION: Final = Metric(
    "kmsd_tenant_rpc_duration_seconds", "summary", "Calls of a tenant, and the time that they took.", ("tenant",)
)
TENANT_ERRORS: Final = _counter("tenant_rpc_errors", "Calls of a tenant that failed.", "tenant")
TENANT_IN_FLIGHT: Final = _gauge("tenant_in_flight", "Calls of a tenant that have begun and not ended.", "tenant")
TENANT_PEERS: Final = _gauge(
    "tenant_peers", "Callers of a tenant in the last day, by the names in certificates.", "tenant"
)

JWT_READY: Final = _gauge("jwt_ready", "Whether a service account token would be signed now: 1 or 0.", "tenant")
JWT_KEYS: Final = _gauge("jwt_published_keys", "Public keys that are published for service account tokens.", "tenant")
JWT_CHANGED: Final = _gauge(
    "jwt_keys_changed_timestamp_seconds", "Unix time at which other keys were published last.", "tenant"
)

UPSTREAM_UP: Final = _gauge("upstream_up", "Whether the key manager answered last: 1 or 0.", "upstream")
UPSTREAM_USABLE: Final = _gauge(
    "upstream_usable", "Whether calls go to it before any other: it answers, is well and has the right key.", "upstream"
)
UPSTREAM_REQUESTS: Final = _counter("upstream_requests", "Calls to the key manager.", "upstream")
UPSTREAM_FAILURES: Final = _counter("upstream_failures", "Calls that it did not answer.", "upstream")
UPSTREAM_IN_FLIGHT: Final = _gauge("upstream_in_flight", "Calls to it that have begun and not ended.", "upstream")
UPSTREAM_ROUND_TRIP: Final = _gauge("upstream_round_trip_seconds", "Time that its last Status took.", "upstream")
UPSTREAM_ANSWERED: Final = _gauge(
    "upstream_last_answer_timestamp_seconds", "Unix time of its last answer; 0 before the first.", "upstream"
)
UPSTREAM_KEY: Final = _gauge(
    "upstream_key_info", "The write key that it named last; always 1.", "upstream", "key_id_hash"
)

METRICS: Final[tuple[Metric, ...]] = tuple(each for each in list(globals().values()) if isinstance(each, Metric))
"""All of them, in the order of this file, which is that of the exposition."""
