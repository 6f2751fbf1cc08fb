"""The admin API, kmsd.admin.v1: the keys and everything that changes them. Protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin import KeyWriter
from kmsd.apis.admin_table import alike, page, sha256, table
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.errors import Conflict, InvalidRequest, KmsdError, short
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import role
from kmsd.keys.lifecycle import KeyUseEvidence, Lifecycle, Rotated, RotationStep, ScanEvidence, Wanted
from kmsd.keys.lifecycle.signing import SigningOrder
from kmsd.observe import logs
from kmsd.transport.call import Call, Table, parse

log = logs.get_logger("kmsd.admin")

_WANTED: Final[dict[int, Wanted | None]] = {
    pb.KEY_TYPE_UNSPECIFIED: None,
    pb.KEY_TYPE_AES: "aes",
    pb.KEY_TYPE_HMAC: "hmac",
    pb.KEY_TYPE_PAIR: "pair",
    pb.KEY_TYPE_RSA: "rsa",
}
_SIGNING: Final = {pb.KEY_TYPE_EC: ("ec-p", 256), pb.KEY_TYPE_RSA: ("rsa-", 3072)}
"""The beginning of the name of a type of key pairs, and the bits that are usual."""
_USES_MOST: Final = 10_000
"""Names that a scan report may have; `kmsctl etcd scan` counts no more apart."""


@dataclass(frozen=True)
class KeyAdmin:
    """The part of the admin API that lists keys and changes them.

    keyring, lifecycle: of kmsd's own sockets, which see every key. writer_of_label: the writer whose write key has this
    label, a tenant's if there is one; kmsd's own for any other. asked: whether a kube-apiserver has called on kmsd's
    own sockets since the present key writes. scanned: told of each scan of etcd that accompanies a request.
    """

    keyring: Keyring
    lifecycle: Lifecycle
    shown: KeyPresenter
    writer_of_label: Callable[[str], KeyWriter]
    asked: Callable[[], bool]
    scanned: Callable[[ScanEvidence], None]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(
            {
                "ListKeys": self.list_keys,
                "GetKey": self.get_key,
                "GenerateKey": self.generate_key,
                "AdoptKey": self.adopt_key,
                "RelabelKey": self.relabel_key,
                "DestroyKey": self.destroy_key,
                "TestKey": self.test_key,
                "RotateKey": self.rotate_key,
                "RetireKey": self.retire_key,
                "RevertKey": self.revert_key,
            }
        )

    async def list_keys(self, call: Call, body: bytes) -> bytes:
        """List the keys on all tokens, after a fresh look at the first page."""
        request = parse(pb.ListKeysRequest, body)
        if not request.page_token:
            await self.keyring.look()
        inventory = self.keyring.inventory
        keys, token = page((*inventory.keys, *inventory.public), request.page_size, request.page_token)
        return pb.ListKeysResponse(
            keys=[self.shown.key(key) for key in keys], next_page_token=token
        ).SerializeToString()

    async def get_key(self, call: Call, body: bytes) -> bytes:
        """Tell all that is known of one key."""
        request = parse(pb.GetKeyRequest, body)
        await self.keyring.look()
        key = self.keyring.select(request.key)
        return pb.GetKeyResponse(
            key=self.shown.key(key), companion=self.shown.optional(self.keyring.inventory.companion(key))
        ).SerializeToString()

    async def generate_key(self, call: Call, body: bytes) -> bytes:
        """Make a key on the write token."""
        request = parse(pb.GenerateKeyRequest, body)
        if request.purpose:
            return await self._generate_signing(call, request)
        if request.type not in _WANTED:
            raise InvalidRequest(
                f"the type of a key must be aes, hmac, pair or rsa, got number {request.type}",
                "choose with --type; a pair is an AES and an HMAC key",
            )
        made = await self.lifecycle.generate(
            request.label,
            _WANTED[request.type],
            request.bits,
            request.key_id,
            if_not_exists=request.if_not_exists,
            place=request.token,
            until=call.deadline,
        )
        sort = "pair" if made.companion is not None else made.key.token.kind
        self._note(call, made.key, f"{'made' if made.created else 'found'} {made.key.label} ({sort})")
        if made.created:
            log.info(
                "key generated",
                label=made.key.label,
                key_id_sha256=made.key.key_id_sha256,
                bits=made.key.token.bits,
                token=made.key.place,
            )
            await self._check_health(made.key)
        return pb.GenerateKeyResponse(
            key=self.shown.key(made.key), created=made.created, companion=self.shown.optional(made.companion)
        ).SerializeToString()

    async def _generate_signing(self, call: Call, request: pb.GenerateKeyRequest) -> bytes:
        kind = _SIGNING.get(request.type)
        if request.purpose != "jwt" or kind is None or request.key_id:
            raise InvalidRequest(
                f"a key with a purpose must be an EC or RSA key pair for jwt, without a key id of its own, got purpose "
                f"{short(request.purpose)} and type number {request.type}",
                "leave --purpose out for a key that encrypts; the key of a CA is made by kmsctl ca init",
            )
        order = SigningOrder(request.label, "jwt", f"{kind[0]}{request.bits or kind[1]}", request.token)
        key, created = await self.lifecycle.generate_signing(
            order, if_not_exists=request.if_not_exists, until=call.deadline
        )
        self._note(call, key, f"{'made' if created else 'found'} {key.label} ({order.kind}, for {order.purpose})")
        if created:
            log.info("key generated", label=key.label, key_id_sha256=key.key_id_sha256, purpose=order.purpose)
        return pb.GenerateKeyResponse(key=self.shown.key(key), created=created).SerializeToString()

    async def adopt_key(self, call: Call, body: bytes) -> bytes:
        """Give a key an identity that it lacks."""
        request = parse(pb.AdoptKeyRequest, body)
        key = await self.lifecycle.adopt(request.label, request.key_id, public=request.public, until=call.deadline)
        self._note(call, key, f"adopted {key.label}{', which was public' if request.public else ''}")
        log.info("key adopted", label=key.label, key_id_sha256=key.key_id_sha256)
        await self._check_health(key)
        return pb.AdoptKeyResponse(key=self.shown.key(key)).SerializeToString()

    async def relabel_key(self, call: Call, body: bytes) -> bytes:
        """Give a key another label."""
        request = parse(pb.RelabelKeyRequest, body)
        key, previous = await self.lifecycle.relabel(
            request.key, request.label, request.confirm_label, dry_run=request.dry_run, until=call.deadline
        )
        done = "would relabel" if request.dry_run else "relabelled"
        self._note(call, key, f"{done} {previous} -> {request.label}")
        if not request.dry_run:
            log.info("key relabelled", was=previous, label=key.label, key_id_sha256=key.key_id_sha256)
            await self._check_health(key)
        return pb.RelabelKeyResponse(key=self.shown.key(key), previous_label=previous).SerializeToString()

    def _scan(self, report: pb.ScanReport) -> ScanEvidence:
        scan = _scan(report)
        self.scanned(scan)
        return scan

    async def destroy_key(self, call: Call, body: bytes) -> bytes:
        """Destroy a key for good, if nothing shows that it is needed."""
        request = parse(pb.DestroyKeyRequest, body)
        scan = self._scan(request.scan) if request.HasField("scan") else None
        writer = self._writer_of_key(request.key, confirmed=bool(request.confirm_label))
        call.tenant = writer.tenant
        key, companion = await writer.lifecycle.destroy(
            request.key, scan, request.confirm_label, dry_run=request.dry_run, until=call.deadline
        )
        done = "would destroy" if request.dry_run else "destroyed"
        self._note(call, key, f"{done} {key.label} {key.key_id}")
        if not request.dry_run:
            log.warning("key destroyed", label=key.label, key_id=key.key_id, token=key.place)
            await self._check_health(key)
        return pb.DestroyKeyResponse(
            key=self.shown.key(key), companion=self.shown.optional(companion), destroyed=not request.dry_run
        ).SerializeToString()

    async def test_key(self, call: Call, body: bytes) -> bytes:
        """Encrypt and decrypt random bytes with a key, and tell how long that took."""
        request = parse(pb.TestKeyRequest, body)
        key, timings = await self.lifecycle.test(request.key, request.rounds or 10)
        self._note(call, key, f"tested {key.label}")
        encrypt, decrypt = timings.encrypt, timings.decrypt
        return pb.TestKeyResponse(
            key=self.shown.key(key),
            rounds=len(encrypt),
            encrypt_ms_min=min(encrypt) * 1000,
            encrypt_ms_median=median(encrypt) * 1000,
            encrypt_ms_max=max(encrypt) * 1000,
            decrypt_ms_min=min(decrypt) * 1000,
            decrypt_ms_median=median(decrypt) * 1000,
            decrypt_ms_max=max(decrypt) * 1000,
        ).SerializeToString()

    async def rotate_key(self, call: Call, body: bytes) -> bytes:
        """Make a new key write."""
        request = parse(pb.RotateKeyRequest, body)
        writer = self.writer_of_label(request.label)
        call.tenant = writer.tenant
        done = await writer.lifecycle.rotate(
            request.label, request.from_key_id, request.token, dry_run=request.dry_run, until=call.deadline
        )
        await self._rotated(call, writer, done, dry_run=request.dry_run)
        return pb.RotateKeyResponse(
            steps=_steps(done.steps),
            old_key=self.shown.optional(done.old),
            new_key=self.shown.optional(done.new),
            rotated=done.rotated,
        ).SerializeToString()

    async def revert_key(self, call: Call, body: bytes) -> bytes:
        """Make a new key write on the token of the one that wrote before."""
        request = parse(pb.RevertKeyRequest, body)
        writer = self.writer_of_label(request.label)
        call.tenant = writer.tenant
        done, previous = await writer.lifecycle.revert(
            request.label, request.from_key_id, dry_run=request.dry_run, until=call.deadline
        )
        await self._rotated(call, writer, done, dry_run=request.dry_run)
        return pb.RevertKeyResponse(
            steps=_steps(done.steps),
            old_key=self.shown.optional(done.old),
            new_key=self.shown.optional(done.new),
            reverted=done.rotated,
            previous_key=self.shown.key(previous),
            not_undone=_not_undone(done.old, previous),
        ).SerializeToString()

    async def _rotated(self, call: Call, writer: KeyWriter, done: Rotated, *, dry_run: bool) -> None:
        was = done.old.key_id_sha256[:8] if done.old else "none"
        now = done.new.key_id_sha256[:8] if done.new else "a new key"
        if done.new is not None:
            call.key_id_sha256 = done.new.key_id_sha256
        call.detail = f"{'would move ' if dry_run else ''}{writer.keyring.write_label}: {was} -> {now}"
        if not done.rotated:
            call.detail += "" if dry_run else " (it had been rotated already)"
        elif done.new is not None:
            log.info(
                "rotated",
                label=done.new.label,
                key_id_sha256=done.new.key_id_sha256,
                was_sha256=done.old.key_id_sha256 if done.old else None,
            )
            await writer.health.check()

    async def retire_key(self, call: Call, body: bytes) -> bytes:
        """Mark a key that nothing needs any more."""
        request = parse(pb.RetireKeyRequest, body)
        scan = self._scan(request.scan) if request.HasField("scan") else None
        writer = self._writer_of_key(request.key, confirmed=bool(request.confirm_label))
        call.tenant = writer.tenant
        key, previous = await writer.lifecycle.retire(
            request.key, scan, request.confirm_label, dry_run=request.dry_run, until=call.deadline
        )
        self._note(call, key, f"{'would retire' if request.dry_run else 'retired'} {previous}")
        if not request.dry_run:
            log.info("key retired", was=previous, label=key.label, key_id_sha256=key.key_id_sha256)
        return pb.RetireKeyResponse(key=self.shown.key(key), previous_label=previous).SerializeToString()

    def _writer_of_key(self, which: str, *, confirmed: bool) -> KeyWriter:
        """Return the writer that has, or had, a key, as far as is known before a fresh look: only it can tell what
        needs the key. Raises Conflict unless it is confirmed that the key is to go."""
        try:
            label = role(self.keyring.select(which).label)
        except KmsdError:
            label = ""  # a fresh look may find it; kmsd's own writer lets no tenant's key go
        writer = self.writer_of_label(label)
        if writer.tenant and label == self.keyring.write_label and self.asked() and not confirmed:
            raise Conflict(
                f"{label!r} is the label of tenant {writer.tenant} and of this kmsd's own sockets, which are asked, "
                "too: no scan of one cluster shows that the other needs no key of it",
                "give the tenant a label of its own; to do it in spite of that, give the label once more: --confirm",
            )
        return writer

    async def _check_health(self, key: Key) -> None:
        """Check at once the health of the writer that a change of this key may have touched."""
        await self.writer_of_label(role(key.label)).health.check()

    def _note(self, call: Call, key: Key, detail: str) -> None:
        call.tenant = self.writer_of_label(role(key.label)).tenant
        call.key_id_sha256 = key.key_id_sha256
        call.detail = detail


def _steps(steps: Sequence[RotationStep]) -> list[pb.RotationStep]:
    return [alike(pb.RotationStep, step, key_id_sha256=sha256(step.key_id), token=step.place) for step in steps]


def _not_undone(bad: Key | None, previous: Key) -> list[str]:
    """Return sentences on what a revert leaves as it is."""
    name = f"key {bad.key_id}" if bad is not None else "the key that was reverted"
    return [
        f"what was written under {name} still needs it: keep it until a scan of etcd counts no object under it",
        f"the key that wrote before ({previous.key_id}) writes no more: a key id that came back could be taken for "
        "data that is older than it is, so a new key writes",
        "kube-apiserver goes on with what it has until its next Status poll, up to a minute, longer while kmsd is "
        "not healthy",
    ]


def _scan(report: pb.ScanReport) -> ScanEvidence:
    """Return the evidence in a scan's report. Raises InvalidRequest for a report that no scan makes."""
    if len(report.uses) > _USES_MOST:
        raise InvalidRequest(
            f"the report must name {_USES_MOST} keys at most, got {len(report.uses)}",
            "scan smaller prefixes: kmsctl etcd scan",
        )
    if report.started_unix_ms <= 0 or report.finished_unix_ms < report.started_unix_ms:
        raise InvalidRequest("the report does not say when the scan ran", "make it with kmsctl etcd scan --report")
    if not report.prefix.startswith("/"):
        raise InvalidRequest("the report does not say what was scanned", "make it with kmsctl etcd scan --report")
    return ScanEvidence(
        started=report.started_unix_ms / 1000,
        finished=report.finished_unix_ms / 1000,
        prefix=report.prefix,
        objects=report.objects,
        unknown=report.unknown,
        uses=tuple(KeyUseEvidence((use.key_id, use.label), use.objects) for use in report.uses),
    )
