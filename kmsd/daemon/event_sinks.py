"""Tell events to the log, the audit, the statistics and systemd. Decides nothing."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kmsd.apis.admin_watch import Ended
from kmsd.audit.trail import Audit
from kmsd.errors import KmsdError, WrongResult
from kmsd.observe import logs
from kmsd.observe.feed import Feed
from kmsd.observe.health import HealthView
from kmsd.observe.sdnotify import notify
from kmsd.observe.stats import KUBERNETES_APIS, Stats
from kmsd.observe.unproven import Unproven
from kmsd.problem import About, Problem
from kmsd.transport.call import Call

if TYPE_CHECKING:
    from kmsd.hsm.connection import Hsm
    from kmsd.hsm.operation import Operation
    from kmsd.keys.key import Inventory, Key
    from kmsd.transport.tls import OwnCertificate

log = logs.get_logger("kmsd")

_REFUSED_MOST: Final = 20
_REFUSED_SECONDS: Final = 60.0
"""Callers that TLS did not let in: so many of them are told of in so many seconds."""
_AUDITED: Final = frozenset({"Encrypt", "Decrypt", "Sign"})


@dataclass(frozen=True)
class TrafficSink:
    """A listener to every call and to every operation of a token. failed: gets the calls that failed, which those that
    succeed push out of `requests`. tenants: counters of the calls of each."""

    stats: Stats
    requests: Feed[Ended]
    failed: deque[Ended]
    audit: Audit
    tenants: Mapping[str, Stats] = field(default_factory=dict)

    def began(self) -> None:
        """Count a call that came in."""
        self.stats.began()

    def ended(self, call: Call, code: str, seconds: float, reason: str = "") -> None:
        """Count a call that ended, and tell those who watch."""
        self.stats.ended()
        self.stats.record(call.api, call.method, code, seconds)
        tenant = call.tenant
        if call.api in KUBERNETES_APIS and (of_tenant := self.tenants.get(tenant)) is not None:
            of_tenant.record(call.api, call.method, code, seconds)
        ended = Ended(time.time(), call.api, call.method, call.uid, call.key_id_sha256, code, seconds, reason, tenant)
        self.requests.publish(ended)
        if code != "OK":
            self.failed.append(ended)
        if call.method in _AUDITED:
            self.audit.kms(
                f"{call.api} {call.method}",
                code,
                seconds=seconds,
                key_id_sha256=call.key_id_sha256,
                detail=call.uid or call.detail,
                reason=reason,
                caller=call.caller,
                tenant=tenant,
            )
        if logs.debugging():
            log.debug(
                "call",
                api=call.api,
                method=call.method,
                code=code,
                ms=round(seconds * 1000, 3),
                uid=call.uid,
                key_id_sha256=call.key_id_sha256,
                **({"reason": reason} if reason else {}),
                **({"caller": call.caller, "pid": call.caller_pid} if call.caller else {}),
            )

    def operation(self, name: Operation, seconds: float) -> None:
        """Count an operation of a token."""
        self.stats.operation(name, seconds)


class TokenSink:
    """A listener to tokens that come and go. It tells each change once, however often it is looked at."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._told: dict[str, object] = {}
        self._hosts: dict[str, int] = {}

    def changed(self, name: str, hsm: Hsm, sessions: int) -> None:
        """Look at a token, and tell what is new. sessions: how many are open, on all tokens."""
        connected = hsm.connected
        planned = connected is None and hsm.available
        state = "up" if connected is not None else "planned" if planned else hsm.error.kind
        told, hosts = self._told.get(name), hsm.hosting.changeover.hosts
        another = hosts > self._hosts.setdefault(name, hosts)
        self._hosts[name] = hosts
        if state == told == "up" and another:
            reason = hsm.hosting.changeover.reason
            log.info("another process has the token's module", token=name, reason=reason)
            self._audit.event("token reconnected", detail=f"{name}: {reason}")
        if state == told or (planned and told != "up"):
            return
        self._told[name] = state
        if connected is not None:
            log.info("token is up", token=connected.token.label, slot=connected.slot_id, module=connected.module)
            self._audit.event("token up", detail=f"{name}, {sessions} sessions open")
        elif planned:
            log.info("token is reconnected on purpose", token=name, reason=hsm.error.message)
            self._audit.event("token reconnected", detail=f"{name}, on purpose: {hsm.error.message}")
        else:
            log.warning("token is down", token=name, reason=hsm.error.message, hint=hsm.error.hint)
            self._audit.event("token down", outcome="UNAVAILABLE", detail=f"{name}: {hsm.error.message}")


def module_printed(name: str, line: str, left_out: int) -> None:
    """Tell what a token's PKCS#11 module wrote to stdout or stderr. left_out: lines before it that were too many."""
    log.warning(
        "the PKCS#11 module printed a line", token=name, line=line, **({"left_out": left_out} if left_out else {})
    )


def library_printed(line: str, left_out: int) -> None:
    """Tell what a library in kmsd's own process wrote to stderr. left_out: lines before it that were too many."""
    log.info("a library printed a line", line=line, **({"left_out": left_out} if left_out else {}))


def token_told(audit: Audit, name: str, text: str) -> None:
    """Tell what was done to get at a token, and why."""
    log.warning(text, token=name)
    audit.event("token host", outcome="UNAVAILABLE", detail=f"{name}: {text}")


def socket_remade(audit: Audit, path: Path, what: str) -> None:
    """Tell that a socket was made anew."""
    log.warning("socket made anew", socket=str(path), reason=what)
    audit.event("socket made anew", detail=f"{path}: {what}")


def gives_up(audit: Audit, reason: str) -> None:
    """Tell that only a restart can help."""
    log.error("kmsd gives up: only a restart can help", reason=reason)
    notify(STATUS=f"gives up: {reason}")
    audit.event("kmsd gives up", outcome="UNAVAILABLE", detail=reason)


def keys_changed(after: Inventory, tenant: str) -> None:
    """Tell which key writes now. tenant: whose; empty for this kmsd's own."""
    new = after.write
    log.info(
        "keys changed",
        keys=len(after.keys),
        write_key_id=new.key_id if new else None,
        write_key_id_sha256=new.key_id_sha256 if new else None,
        **({"tenant": tenant} if tenant else {}),
    )
    for problem in after.problems:
        if not problem.passing:
            log.warning(problem.message, hint=problem.hint)


def wrong_results(audit: Audit, error: WrongResult, unproven: Unproven) -> Problem | None:
    """Tell what was encrypted since the token last gave right results, and may be lost. Returns the problem for an
    operator; None if nothing was encrypted."""
    log.error("the token gives wrong results; nothing is encrypted with it", reason=error.message)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unproven.since))
    for key_id, count in unproven.counts.items():
        digest = hashlib.sha256(key_id.encode()).hexdigest()
        log.error("values may not decrypt", values=count, key_id=key_id, key_id_sha256=digest, written_since=since)
        audit.event(
            "values in doubt",
            outcome="DATA_LOSS",
            key_id_sha256=digest,
            detail=f"{count} values encrypted under {key_id} since {since} may not decrypt: {error.message}",
        )
    total = unproven.counts.total()
    if not total:
        return None
    keys = ", ".join(sorted(unproven.counts)[:4])
    return Problem(
        f"{total} values encrypted under {keys} since {since} may not decrypt: the token gave wrong results after that",
        "do not restart kube-apiserver, which still knows its data keys; when the token is well, `kmsctl rotate`, and "
        "rewrite what is stored (kubectl get secrets -A -o json | kubectl replace -f -)",
        fatal=False,
        about=About(key_id=max(unproven.counts, key=unproven.counts.__getitem__)),
    )


def planted(audit: Audit, before: Inventory, after: Inventory) -> None:
    """Tell of public objects that pass for keys of kmsd, when there are new ones."""
    known = {(key.place, key.token) for key in before.planted}
    new = [key for key in after.planted if (key.place, key.token) not in known]
    if new:
        shown = ", ".join(f"{key.label!r} with key id {key.key_id or '(none)'}" for key in new[:8])
        audit.event(
            "planted object",
            outcome="UNAUTHENTICATED",
            key_id_sha256=new[0].key_id_sha256,
            detail=f"public, passes for a key of kmsd, and is not used: {shown}",
        )


def jwt_keys_changed(audit: Audit, words: str, tenant: str) -> None:
    """Tell that other keys are published for service account tokens. words: which. tenant: whose; empty for this
    kmsd's own."""
    log.info("published service account keys changed", keys=words, **({"tenant": tenant} if tenant else {}))
    audit.event("service account keys", detail=words, tenant=tenant)


def key_adopted(audit: Audit, key: Key) -> None:
    """Tell that a key without CKA_ID got one."""
    log.warning(
        "a key without CKA_ID got one",
        label=key.label,
        token=key.place,
        key_id=key.key_id,
        key_id_sha256=key.key_id_sha256,
        hint='keys.adopt = "never" leaves that to `kmsctl keys adopt`',
    )
    audit.event("key adopted", key_id_sha256=key.key_id_sha256, detail=f"{key.label} on {key.place}: {key.key_id}")


def write_key_changed(audit: Audit, before: Inventory, after: Inventory, tenant: str) -> None:
    """Tell of another write key. tenant: whose; empty for this kmsd's own."""
    old, new = before.write, after.write
    audit.event(
        "write key",
        outcome="OK" if new else "NOT_FOUND",
        key_id_sha256=new.key_id_sha256 if new else "",
        detail=f"{old.key_id if old else 'none'} -> {new.key_id if new else 'none'}",
        tenant=tenant,
    )


def health_changed(audit: Audit, view: HealthView) -> None:
    """Tell that health came or went, or its reason changed."""
    if view.ok:
        log.info("healthy", round_trip_ms=round(view.round_trip * 1000, 3))
        notify(STATUS="serving")
        audit.event("healthy")
    elif view.error is not None:
        log.warning("kmsd is not healthy", reason=view.error.message, hint=view.error.hint)
        notify(STATUS=f"not healthy: {view.error.message}")
        audit.event("not healthy", outcome=view.error.code, detail=view.error.message)


def tenant_health_changed(audit: Audit, tenant: str, view: HealthView) -> None:
    """Tell that a tenant's write key works, or why it does not."""
    if view.ok:
        log.info("tenant is healthy", tenant=tenant, round_trip_ms=round(view.round_trip * 1000, 3))
        audit.event("healthy", tenant=tenant)
    elif view.error is not None:
        log.warning("tenant is not healthy", tenant=tenant, reason=view.error.message, hint=view.error.hint)
        audit.event("not healthy", outcome=view.error.code, detail=view.error.message, tenant=tenant)


def tcp_changed(audit: Audit, where: str, error: KmsdError | None) -> None:
    """Tell that callers from other machines are served, or why they are not."""
    if error is None:
        log.info("serving on TCP", address=where)
        audit.event("TCP up", detail=where)
    else:
        log.warning(error.message, hint=error.hint)
        audit.event("TCP down", outcome=error.code, detail=error.message)


def certificate_taken(audit: Audit, own: OwnCertificate) -> None:
    """Tell which certificate kmsd shows from now on."""
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(own.not_after))
    log.info("TLS files read", subject=own.subject, serial=own.serial, valid_until=until)
    audit.event("TLS files read", detail=f"{own.subject}, serial {own.serial}, valid until {until}")


class RefusedPeers:
    """The teller of callers that TLS did not let in: so many in a minute, and how many more there were."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._since = 0.0
        self._number = 0
        self._left_out = 0

    def __call__(self, address: str, why: str) -> None:
        now = time.monotonic()
        if now - self._since > _REFUSED_SECONDS:
            self._since, self._number = now, 0
        self._number += 1
        if self._number > _REFUSED_MOST:
            self._left_out += 1
            return
        more, self._left_out = self._left_out, 0
        log.warning("a caller was not let in", address=address, reason=why, **({"left_out": more} if more else {}))
        detail = f"{address}: {why}" + (f"; {more} more were left out" if more else "")
        self._audit.event("caller refused", outcome="UNAUTHENTICATED", detail=detail)


def proxy_health_changed(audit: Audit, error: KmsdError | None) -> None:
    """Tell that a key manager serves, or why none does."""
    if error is None:
        log.info("healthy")
        notify(STATUS="serving")
        audit.event("healthy")
    else:
        log.warning("kmsd is not healthy", reason=error.message, hint=error.hint)
        notify(STATUS=f"not healthy: {error.message}")
        audit.event("not healthy", outcome=error.code, detail=error.message)


def upstream_changed(audit: Audit, address: str, wrong: KmsdError | None, up: bool, error: KmsdError) -> None:
    """Tell that a key manager came or went. wrong: why its key is not the one that is meant. up: whether it answers.
    error: why it does not."""
    if wrong is not None:
        log.error(wrong.message, hint=wrong.hint)
        audit.event("key manager has another key", outcome=wrong.code, detail=wrong.message)
    elif up:
        log.info("key manager is up", address=address)
        audit.event("key manager up", detail=address)
    else:
        log.warning("key manager is away", address=address, reason=error.message, hint=error.hint)
        audit.event("key manager away", outcome=error.code, detail=error.message)
