"""The kmsctl command that does the same as an action here, ready to be pasted into a shell. Pure."""

from __future__ import annotations

import shlex

from kmsd.client import Key, KeyState, KeyType, clientconfig, default_target, options_of, parse_target


def kmsctl(target: str, *words: str, into: str = "") -> str:
    """Return a command line for a shell. The target is named only if kmsctl would look elsewhere without. into: a file
    for what it prints."""
    named = [] if _same(target) else options_of(target)
    return shlex.join(["kmsctl", *named, *words]) + (f" > {shlex.quote(into)}" if into else "")


def address(key: Key) -> str:
    """Return what names one key in a call: its identity; its label where that is shared, collides or is missing."""
    shared = key.state in (KeyState.COMPANION, KeyState.UNUSABLE) or not key.key_id
    return key.label if shared else key.key_id


def keygen(label: str, key_type: KeyType, bits: int, token: str = "") -> tuple[str, ...]:
    """Name the command that makes a key."""
    return _words(("keygen",), (label,), ("--type", key_type.value, "--bits", str(bits)), _option("--token", token))


def relabel(key: Key, label: str, confirm: str) -> tuple[str, ...]:
    """Name the command that gives a key another label."""
    return _words(("keys", "relabel"), (address(key), label), _option("--confirm", confirm))


def adopt(key: Key) -> tuple[str, ...]:
    """Name the command that gives a key a key id."""
    return _words(("keys", "adopt"), (key.label,))


def test(key: Key) -> tuple[str, ...]:
    """Name the command that tries a key."""
    return _words(("keys", "test"), (address(key),))


def retire(key: Key, report: str, confirm: str) -> tuple[str, ...]:
    """Name the command that retires a key. report: path of what a scan of etcd counted."""
    return _words(("keys", "retire"), (address(key),), _option("--report", report), _option("--confirm", confirm))


def destroy(key: Key, report: str, confirm: str) -> tuple[str, ...]:
    """Name the command that destroys a key. report: path of what a scan of etcd counted."""
    return _words(("keys", "destroy"), (address(key),), _option("--report", report), _option("--confirm", confirm))


def rotate(label: str, from_key_id: str, token: str = "") -> tuple[str, ...]:
    """Name the command that rotates."""
    return _words(("rotate",), (label,), _option("--from", from_key_id), _option("--token", token))


def revert(from_key_id: str, label: str = "") -> tuple[str, ...]:
    """Name the command that reverts a rotation. label: of a tenant's key; empty: kmsd's own."""
    return _words(("keys", "revert"), (label,) if label else (), _option("--from", from_key_id))


def scan(report: str) -> tuple[str, ...]:
    """Name the command that writes a report."""
    return _words(("etcd", "scan"), (), _option("--report", report))


def inspect(path: str) -> tuple[str, ...]:
    """Name the command that explains a value."""
    return _words(("inspect",), (path,))


def log_level(level: str) -> tuple[str, ...]:
    """Name the command that sets the log level."""
    return ("log-level", level)


def approve(request: str, node: str, tenant: str) -> tuple[str, ...]:
    """Name the command that approves a request. request: its id."""
    return _words(("enrol", "approve"), (request,), _option("--node", node), _option("--tenant", tenant))


def deny(request: str, reason: str) -> tuple[str, ...]:
    """Name the command that denies a request. request: its id."""
    return _words(("enrol", "deny"), (request,), _option("--reason", reason))


def enrol_token(node: str, tenant: str, ttl: str, uses: str) -> tuple[str, ...]:
    """Name the command that makes an enrolment token. ttl, uses: as they are typed."""
    return _words(
        ("enrol", "token"), (node,), _option("--tenant", tenant), _option("--ttl", ttl), _option("--uses", uses)
    )


def revoke_token(token: str) -> tuple[str, ...]:
    """Name the command that has an enrolment token count no more. token: its id."""
    return _words(("enrol", "revoke-token"), (token,))


def revoke_certificate(serial: str, reason: str) -> tuple[str, ...]:
    """Name the command that revokes a certificate, as far as its confirmation."""
    return _words(("ca", "revoke"), (serial,), _option("--reason", reason))


def verify() -> tuple[str, ...]:
    """Name the command that proves the audit."""
    return ("audit", "verify")


def _option(name: str, value: str) -> tuple[str, ...]:
    if not value:
        return ()
    return (f"{name}={value}",) if value.startswith("-") else (name, value)


def _words(verb: tuple[str, ...], arguments: tuple[str, ...], *options: tuple[str, ...]) -> tuple[str, ...]:
    flat = tuple(word for option in options for word in option)
    if any(argument.startswith("-") for argument in arguments):
        return (*verb, *flat, "--", *arguments)
    return (*verb, *arguments, *flat)


def _same(target: str) -> bool:
    return not clientconfig.is_name(target) and parse_target(target) == parse_target(default_target())
