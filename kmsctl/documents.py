"""Documents that `-o json` and `-o yaml` print of what kmsd tells: the one place that knows their names and order.

The names are a contract with scripts: they are added to, never changed. What kmsd does not know is null; times are RFC
3339. Knows nothing of how it is written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kmsctl.output import Document
from kmsctl.text import timestamp

if TYPE_CHECKING:
    from kmsd.client import Acknowledgement, Slot

LAYOUTS: Final = {
    "Key": (
        "label key_id? key_id_sha256? type bits state unusable_reason? unusable_hint? can_encrypt can_decrypt can_sign "
        "can_verify sensitive extractable local always_sensitive never_extractable private created_at=created "
        "token_label token? encrypts decrypts last_used_at=last_used enc? tenant? purpose?"
    ),
    "KeyTest": "key rounds encrypt_ms=encrypt decrypt_ms=decrypt",
    "Timing": "min=minimum median max=maximum",
    "RotationStep": "action key_id? key_id_sha256? from_label? to_label? token? done text",
    "Mechanism": "name type min_key max_key flags used_for?",
    "Diagnosis": (
        "token token_label? up outcome module? library? provider provider_title verdict checks abilities speeds seconds"
    ),
    "Verdict": "algorithm enc? text hint? cbc_from_ecb",
    "Check": "name title outcome seen fix?",
    "Abilities": (
        "gcm_iv_sizes gcm_iv_by_token cbc cbc_pad ecb hmac_sha256 hmac_sha512 hmac_empty hmac_longest oaep_sha256 "
        "generate_aes generate_hmac relabel sessions foreign_changes"
    ),
    "Speed": "operation ms per_second threads",
    "Status": (
        "version state healthz hint? started_at=started write_label write_format write_key keys token sessions probe "
        "listeners problems tokens following not_alive? now host? outgoing_key=replaceable tenants upstreams "
        "certificate"
    ),
    "Token": "up label serial model manufacturer slot_id module",
    "TokenStatus": (
        "name write keys up=token.up label=token.label serial=token.serial model=token.model "
        "manufacturer=token.manufacturer slot_id=token.slot_id module=token.module reason? hint? sessions process"
    ),
    "ModuleProcess": "pid? since served reason?",
    "Sessions": "open configured busy stuck queued most",
    "Probe": "last_success_at=last_success round_trip_ms",
    "Listener": "socket apis",
    "TenantStatus": (
        "name write_label state healthz hint? write_key following in_flight requests_per_second p99_ms requests errors "
        "peers first_end_at=first_end problems"
    ),
    "Peer": (
        "name? tenant? role address serial not_before not_after tls_version cipher group? last_seen_at=last_seen "
        "connections calls"
    ),
    "Upstream": (
        "address up reason? hint? since answered_at=answered key_id? key_id_sha256? healthz? round_trip_ms asked "
        "failed in_flight last"
    ),
    "Certificate": "subject names serial not_before not_after key_uri?",
    "CaCertificate": (
        "subject issuer serial sha256 not_before not_after names node? tenant? revoked_at=revoked reason? pem"
    ),
    "Ca": (
        "state key certificate following csr? chain issued more crl_signed_at=crl_signed crl_next_at=crl_next "
        "crl_revoked lifetime_seconds=lifetime key_types names crl_url?"
    ),
    "NewCa": "key certificate csr? chain",
    "IssuedCertificate": "certificate chain",
    "RevokedCertificates": "revoked listed not_listed_because?",
    "JwtKey": (
        "kid? alg? state published proven excluded_from_discovery label? key_id? token? from_outside "
        "published_at=published_since stopped_at=stopped needed_until trusted_at=trusted note? signed "
        "last_signed_at=last_signed reason? hint? pem? jwk?"
    ),
    "JwtFetcher": "who first_at=first last_at=last current",
    "Jwt": (
        "state reason? hint? tenant? socket? label issuers max_token_expiration_seconds=max_token_expiration "
        "refresh_hint_seconds=refresh_hint keys changed_at=changed fetchers now"
    ),
    "Following": (
        "since first_status_at=first_status last_status_at=last_status first_encrypt_at=first_encrypt "
        "last_encrypt_at=last_encrypt previous_key_id? previous_key_id_sha256?"
    ),
    "Problem": "message hint? fatal",
    "Config": "file? settings warnings",
    "Setting": "name value origin secret reloadable",
    "Request": "time api method uid? key_id_sha256? code latency_ms reason? tenant?",
    "AuditRecord": "seq time kind action caller? key_id_sha256? outcome? latency_ms detail? reason? line tenant?",
    "AuditVerdict": "intact records first_seq last_seq head? files problem? chains",
    "AuditChain": "name intact records first_seq last_seq head? files problem?",
    "Acknowledgement": "acknowledged seen",
    "Tampering": "seq time text",
    "Inspection": "format summary readable envelope jwe keys findings",
    "Envelope": (
        "prefix provider key_id? key_id_sha256? source_type? encrypted_dek_bytes encrypted_data_bytes annotations"
    ),
    "JweReport": "alg enc kid? kid_sha256? iv_bytes ciphertext_bytes tag_bytes header",
    "EnrolmentToken": (
        "id node tenant created_at=created expires_at=expires revoked_at=revoked uses uses_left made_by? usable"
    ),
    "EnrolmentRequest": (
        "id state subject? asks_for_tenant=label? address public_key_sha256 asked_at=asked expires_at=expires node? "
        "tenant? decided_by? decided_at=decided reason?"
    ),
    "EnrolledNode": "what subject serial not_before not_after renew_at files",
    "Slot": "slot_id description manufacturer in_use module?",
    "SlotToken": (
        "label=token_label serial=token_serial model=token_model manufacturer=token_manufacturer flags pin_warnings "
        "name? sessions sessions_max rw_sessions rw_sessions_max"
    ),
}
"""Classes of `kmsd.client`: the names of a document, in order. `name=path`: it is another attribute, or one of an
attribute. `name?`: null where that is empty."""


class _Field(NamedTuple):
    name: str
    read: Callable[[Any], object]
    null: bool


@functools.cache
def _fields(layout: str) -> tuple[_Field, ...]:
    found = []
    for word in LAYOUTS[layout].split():
        name, _, path = word.removesuffix("?").partition("=")
        found.append(_Field(name, attrgetter(path or name), word.endswith("?")))
    return tuple(found)


def of(thing: object) -> Document:
    """Return the document of an object of `kmsd.client`. Raises KeyError if its class has none."""
    document = _laid_out(thing, type(thing).__name__)
    match type(thing).__name__:
        case "Slot":
            module = document.pop("module")
            document |= {"token": _token_in(thing), "module": module}  # type: ignore[arg-type]  # named Slot
        case "Setting":
            document["value"] = _value(str(document["value"]))
    return document


def or_none(thing: object | None) -> Document | None:
    """Return the document of an object; None for None."""
    return None if thing is None else of(thing)


def acknowledgement(found: Acknowledgement, *, dry_run: bool) -> Document:
    """Return the document of an acknowledgement, and whether it was a dry run."""
    document = of(found)
    return {"acknowledged": document["acknowledged"], "dry_run": dry_run, "seen": document["seen"]}


def _laid_out(thing: object, layout: str) -> Document:
    return {
        name: _plain(read(thing)) if not null else _plain(read(thing)) or None for name, read, null in _fields(layout)
    }


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case datetime():
            return timestamp(value)
        case tuple():
            return [_plain(each) for each in value]
        case None | str() | bool() | int() | float():
            return value
        case _:
            return of(value)


def _token_in(slot: Slot) -> Document | None:
    return _laid_out(slot, "SlotToken") if slot.token_present else None


def _value(text: str) -> object:
    """Return what a setting is that kmsd writes as TOML."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text
