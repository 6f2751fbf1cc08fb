"""The admin API, kmsd.admin.v1: what a stored value is, which key it needs, and whether that opens it. Protobuf to
domain and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import alike, problem, sha256, table
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.errors import Conflict, InvalidRequest, KmsdError, short
from kmsd.etcd.envelope import KmsValue
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.formats.diagnostics import JweReport
from kmsd.keys.key import Key, newest_first
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import role
from kmsd.problem import Problem
from kmsd.service.api import KmsService
from kmsd.service.foreign import Foreign
from kmsd.service.inspect import Inspection, inspect
from kmsd.service.local import is_named
from kmsd.transport.call import Call, Table, parse


@dataclass(frozen=True)
class InspectAdmin:
    """The part of the admin API that explains stored values."""

    keyring: Keyring
    foreign: Foreign
    service: KmsService
    shown: KeyPresenter

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table({"InspectCiphertext": self.inspect_ciphertext, "TryCiphertext": self.try_ciphertext})

    async def try_ciphertext(self, call: Call, body: bytes) -> bytes:
        """Answer which key opened a value, and nothing of what is in it. Raises KmsdError: why it does not open."""
        found = inspect(parse(pb.TryCiphertextRequest, body).data)
        call.detail = found.format
        if not found.ciphertext:
            why = next((each for each in found.findings if each.fatal), None)
            raise InvalidRequest(
                f"there is nothing to decrypt: {why.message if why else found.summary}",
                (why.hint if why else "") or "give a ciphertext, or a value that a KMS provider encrypted",
            )
        # kube-apiserver names the envelope's key id in KMS v2, and none in v1.
        key_id = found.envelope.key_id if found.envelope is not None and found.envelope.version == "v2" else None
        opened = await self.service.decrypt(found.ciphertext, key_id, call.until)
        call.key_id_sha256 = opened.key_id_sha256
        key = self.keyring.inventory.by_key_id.get(opened.key_id)
        shown = self.shown.key(key) if key is not None else pb.Key(key_id=opened.key_id)
        return pb.TryCiphertextResponse(key=shown).SerializeToString()

    async def inspect_ciphertext(self, call: Call, body: bytes) -> bytes:
        """Tell what a value is and which keys may open it, without decrypting."""
        request = parse(pb.InspectCiphertextRequest, body)
        found = inspect(request.data)
        named = [*found.key_ids, *found.labels]
        keys = list(self._keys(found))
        if named and not keys:
            # Before it is said that a key is missing: another program may have made it just now.
            with contextlib.suppress(KmsdError):
                await self.keyring.look_soon()
            keys = list(self._keys(found))
        findings = [problem(Problem(each.message, each.hint, each.fatal)) for each in found.findings]
        if found.intact and named and not keys:
            findings.append(problem(self._missing(named[0], by_label=not found.key_ids)))
        findings.extend(
            problem(Problem(f"key {key.label!r} cannot serve: {key.reason}", key.hint, fatal=True))
            for key in keys
            if key.reason and not key.reads
        )
        reads, against = await self._readers(found, keys)
        findings.extend(map(problem, against))
        away = [key for key in reads if not self.keyring.hsm(key).available]
        findings.extend(problem(self._away(key)) for key in away)
        readable = found.intact and len(reads) > len(away)
        return pb.InspectCiphertextResponse(
            format=str(found.format),
            summary=found.summary,
            envelope=_envelope(found.envelope) if found.envelope is not None else None,
            jwe=_jwe(found.jwe) if found.jwe is not None else None,
            keys=[self.shown.key(key) for key in (reads if found.unauthenticated and reads else keys)],
            findings=findings,
            readable=readable,
        ).SerializeToString()

    def _keys(self, found: Inspection) -> Iterator[Key]:
        """Yield the keys that are named, each once: by id, then the readable ones that have or had the label."""
        every = self.keyring.inventory.keys
        by_id = [key for key in every if key.token.seals and _is_named(found, key)]
        yield from by_id
        for label in found.labels:
            yield from newest_first(
                k for k in every if k.reads and label in (k.label, role(k.label)) and k not in by_id
            )

    async def _readers(self, found: Inspection, keys: Sequence[Key]) -> tuple[list[Key], list[Problem]]:
        """Return the keys that kmsd would read the value with, and the reasons why it would not use others."""
        if found.unauthenticated:
            try:
                return [await self._pinned_key(found)], []
            except KmsdError as error:
                return [], [Problem(error.message, error.hint, fatal=True)]
        reads = [key for key in keys if key.reads]
        if found.format != CiphertextFormat.KEYSEALER:
            return reads, []
        alone = [key for key in reads if self.foreign.mac(key) is None]
        return [key for key in reads if key not in alone], list(map(_without_mac, alone))

    async def _pinned_key(self, found: Inspection) -> Key:
        """Return the key that the configuration names for values that name none. Raises KmsdError if kmsd would not
        read the value."""
        key = await self.foreign.pinned_key()
        if found.key_ids and not _is_named(found, key):
            raise Conflict(
                f"kube-apiserver asks for key id {short(found.key_ids[0])}, and legacy.key names {key.key_id!r}",
                "the stored object mixes parts of two, or legacy.key names another key than the one that wrote it",
            )
        return key

    def _away(self, key: Key) -> Problem:
        hsm = self.keyring.hsm(key)
        return Problem(f"key {key.label!r} is on {hsm.name}, which is away: {hsm.error.message}", hsm.error.hint, False)

    def _missing(self, name: str, *, by_label: bool) -> Problem:
        what = f"no key labelled {short(name)}" if by_label else f"no key with key id {short(name)}"
        if self.keyring.away:
            return Problem(f"{what} is on the tokens that are up", "bring the other token back", fatal=True)
        return Problem(
            f"there is {what} on {self.keyring.where}",
            "restore the key to the token; without it this data cannot be read",
            fatal=True,
        )


def _is_named(found: Inspection, key: Key) -> bool:
    """Return whether the value names this key by its id, in whatever spelling."""
    return any(is_named(key_id, key) for key_id in found.key_ids)


def _without_mac(key: Key) -> Problem:
    return Problem(
        f"key {key.label!r} has no HMAC key beside it, and nothing is read before its tag has been checked",
        "name the HMAC key with --p11-hmac-label",
        fatal=True,
    )


def _envelope(value: KmsValue) -> pb.InspectCiphertextResponse.Envelope:
    return pb.InspectCiphertextResponse.Envelope(
        prefix=value.prefix,
        provider=value.provider,
        key_id=value.key_id,
        key_id_sha256=sha256(value.key_id),
        source_type=value.source_type,
        encrypted_dek_bytes=len(value.encrypted_dek),
        encrypted_data_bytes=value.data_bytes,
        annotations=value.annotations,
    )


def _jwe(jwe: JweReport) -> pb.InspectCiphertextResponse.Jwe:
    return alike(pb.InspectCiphertextResponse.Jwe, jwe, kid_sha256=sha256(jwe.kid))
