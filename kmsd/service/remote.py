"""The KMS service of a proxy: asks key managers on other machines. Holds no key and no plaintext longer than a call."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal, NamedTuple, NoReturn, TypeVar

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.api.peer.v1 import peer_pb2 as peer
from kmsd.errors import DeadlineExceeded, InvalidRequest, KmsdError, Misconfigured, NotFound, Unavailable, short
from kmsd.metadata import PROXY
from kmsd.request import on_own_account, uid
from kmsd.service import answers
from kmsd.service.api import Decrypted, Encrypted, ServiceStatus
from kmsd.service.asking import Asking, Question
from kmsd.service.following import Following
from kmsd.service.upstream import Upstream, UpstreamError

_V2: Final = "/v2.KeyManagementService"
_V1: Final = "/v1beta1.KeyManagementService"
_WHO_AM_I: Final = "/kmsd.peer.v1.Peer/WhoAmI"
_SMALL: Final = 256
"""The most bytes of a plaintext that is sent by v2, whose ciphertexts are bounded; v1beta1 takes longer ones."""
_STATUS_SECONDS: Final = 2.0
"""Time for the answer to Status."""
_STATUS: Final = v2.StatusRequest().SerializeToString()
_CANARY_BYTES: Final = 32
PROVEN_SECONDS: Final = 60.0
"""Seconds for which an upstream that has shown that it has the key is believed, while it names the same one."""
T = TypeVar("T")


@dataclass(frozen=True)
class Canary:
    """A value that was encrypted for nothing but to be decrypted again: it shows whether a key manager has the key.

    digest: SHA-256 of its plaintext, in hexadecimal.
    """

    key_id: str
    ciphertext: bytes
    digest: str

    def as_json(self) -> dict[str, str]:
        """Return what a file keeps of the canary."""
        text = base64.b64encode(self.ciphertext).decode("ascii")
        return {"key_id": self.key_id, "ciphertext": text, "digest": self.digest, "whole": self.whole}

    @property
    def whole(self) -> str:
        """The digest over all of it: a file that lost or gained something proves nothing."""
        return hashlib.sha256(f"{self.key_id} {self.ciphertext.hex()} {self.digest}".encode()).hexdigest()

    @classmethod
    def from_json(cls, kept: object) -> Canary | None:
        """Return the canary that a file kept; None if it holds none."""
        if not isinstance(kept, dict) or not all(isinstance(kept.get(each), str) for each in ("key_id", "digest")):
            return None
        try:
            made = cls(kept["key_id"], base64.b64decode(kept.get("ciphertext", ""), validate=True), kept["digest"])
        except (ValueError, TypeError):
            return None
        return made if kept.get("whole") == made.whole else None


class Introduction(NamedTuple):
    """The answer of a key manager to who this proxy is.

    version, host: of the key manager. tenant: that the proxy stands for. tls: version, cipher and group of the
    connection. ahead: seconds that its clock is before this machine's; give_or_take: by how many that may be wrong.
    """

    version: str
    host: str
    tenant: str
    tls: str
    ahead: float
    give_or_take: float


class RemoteService:
    """The KMS service of one tenant of key managers.

    prefer: "order" asks the first that is well, "spread" one after the other. hedge: seconds after which the next is
    asked beside one that has not answered; 0 for never. fail_closed: whether Status is an error
    while no key manager answers. canary: kept from before, None if there is none. on_canary: told of each new one.
    on_change: told when an upstream came or went. following: told of each Status and Encrypt.

    last: the upstream that answered the last Status.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        prefer: Literal["order", "spread"],
        hedge: float,
        fail_closed: bool,
        canary: Canary | None,
        on_canary: Callable[[Canary], None],
        on_change: Callable[[Upstream], None],
        following: Following,
    ) -> None:
        self.upstreams = tuple(upstreams)
        self.last: Upstream | None = None
        self.canary = canary
        self.following = following
        self._prefer = prefer
        self._hedge = hedge
        self._fail_closed = fail_closed
        self._on_canary = on_canary
        self._on_change = on_change
        self._founding = asyncio.Lock()
        self._turn = 0

    @property
    def key_id(self) -> str:
        """The key id that a usable upstream named last, else the canary's, else the one that Status answered last;
        empty if none is known."""
        known = next((each.key_id for each in self.upstreams if each.usable and each.key_id), "")
        return known or (self.canary.key_id if self.canary is not None else self.following.key_id)

    async def status(self) -> ServiceStatus:
        """Answer as `KmsService.status`, with the words of the key manager that is asked."""
        until = monotonic() + _STATUS_SECONDS
        found: list[tuple[v2.StatusResponse, Upstream]] = []

        def enough(answer: v2.StatusResponse, upstream: Upstream) -> bool:
            upstream.key_id, upstream.healthz = answer.key_id or upstream.key_id, answer.healthz
            found.append((answer, upstream))
            return answer.healthz == "ok"

        try:
            await self._ask(Question(f"{_V2}/Status", _STATUS, until, answers.status, enough))
        except KmsdError as error:
            if self._fail_closed and not found:
                raise
            if not found:
                return ServiceStatus(error.sentence(), self.key_id)
        # One that is well, or else the first that said why it is not.
        answer, self.last = found[-1] if found[-1][0].healthz == "ok" else found[0]
        try:
            ours = await self._is_ours(self.last, answer.key_id, until)
        except KmsdError as error:
            if self._fail_closed:
                raise
            return ServiceStatus(error.sentence(), self.key_id)
        if not ours:
            return await self.status()
        if answer.key_id and not on_own_account.get():
            self.following.status(answer.key_id)
        return ServiceStatus(answer.healthz, answer.key_id or self.key_id)

    async def encrypt(self, plaintext: bytes, until: float) -> Encrypted:
        """Encrypt as `KmsService.encrypt`."""
        if len(plaintext) > _SMALL:
            large = v1beta1.EncryptRequest(version="v1beta1", plain=plaintext)
            ciphertext, upstream = await self._ask(
                Question(f"{_V1}/Encrypt", large.SerializeToString(), until, answers.encrypted_v1beta1)
            )
            key_id = await self._names_now(upstream, until)
            if key_id is None:
                return await self.encrypt(plaintext, until)
        else:
            request = v2.EncryptRequest(plaintext=plaintext, uid=uid.get() or PROXY)
            done, upstream = await self._ask(
                Question(f"{_V2}/Encrypt", request.SerializeToString(), until, answers.encrypted)
            )
            ciphertext, key_id = done.ciphertext, done.key_id
        if not await self._is_ours(upstream, key_id, until):
            return await self.encrypt(plaintext, until)
        if not on_own_account.get():
            self.following.encrypt(key_id)
        return Encrypted(ciphertext, key_id, _sha256(key_id))

    async def _names_now(self, upstream: Upstream, until: float) -> str | None:
        """Return the id of the key that an upstream writes with, which v1beta1 does not tell; None if another upstream
        should be asked. Raises KmsdError."""
        try:
            body = await upstream.ask(f"{_V2}/Status", _STATUS, _left(until), check=True)
            return answers.status(body, upstream).key_id
        except UpstreamError as failed:
            self._leave(upstream, failed)
            return None

    async def decrypt(self, ciphertext: bytes, key_id: str | None, until: float) -> Decrypted:
        """Decrypt as `KmsService.decrypt`."""
        if key_id is None:
            old = v1beta1.DecryptRequest(version="v1beta1", cipher=ciphertext)
            plain, _ = await self._ask(
                Question(f"{_V1}/Decrypt", old.SerializeToString(), until, answers.decrypted_v1beta1)
            )
            return Decrypted(plain, "", "")
        request = v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id, uid=uid.get() or PROXY)
        plaintext, _ = await self._ask(
            Question(f"{_V2}/Decrypt", request.SerializeToString(), until, answers.decrypted)
        )
        return Decrypted(plaintext, key_id, _sha256(key_id))

    # The upstreams, one after the other.

    def in_order(self) -> list[Upstream]:
        """Return the upstreams as they are to be asked: those that are well first, none that has a wrong key."""
        known = [each for each in self.upstreams if each.wrong_key is None]
        if self._prefer == "spread" and known:
            self._turn = (self._turn + 1) % len(known)
            known = known[self._turn :] + known[: self._turn]
        return sorted(known, key=lambda each: not each.usable)

    async def _ask(self, question: Question[T]) -> tuple[T, Upstream]:
        """Return the answer to a question, and whose it is. Raises KmsdError."""
        asking = Asking(
            question, self.in_order(), well=self._well, ill=lambda upstream, failed: self._ill(upstream, failed.error)
        )
        return await asking.run(self._hedge) or self._fail(asking.failures)

    def _fail(self, failures: Sequence[UpstreamError]) -> NoReturn:
        """Raise the error for a caller whom no upstream answered: what one said of the request comes first."""
        said = [failed.error for failed in failures if not failed.its_own]
        why = said[0].again() if said else self.why_down()
        why = why or next((failed.error.again() for failed in failures), None)
        raise why or Unavailable("no key manager has answered", "try again")

    def why_down(self) -> KmsdError | None:
        """Return why no upstream serves, and since when, as far as is known now; None if one does."""
        if any(each.usable for each in self.upstreams):
            return None
        for each in self.upstreams:
            if each.wrong_key is not None:
                return each.wrong_key.again()
        for each in self.upstreams:
            if each.up:
                return Unavailable(f"key manager {each.address} is not well: {each.healthz}")
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(each.since for each in self.upstreams)))
        if len(self.upstreams) == 1:
            error = self.upstreams[0].error
            return type(error)(f"{error.message} (since {since})", error.hint)
        reasons = "; ".join(each.error.message for each in self.upstreams[:4])
        return Unavailable(
            f"no key manager has answered since {since}: {reasons}",
            "check them, and the network to them: kmsctl doctor",
        )

    def _well(self, upstream: Upstream) -> None:
        came = not upstream.up
        upstream.is_well()
        if came:
            self._on_change(upstream)

    def _ill(self, upstream: Upstream, error: KmsdError) -> None:
        went = upstream.up or upstream.error.kind != error.kind
        upstream.is_ill(error)
        if went:
            self._on_change(upstream)

    # Health: each upstream is tried by itself, with a value that this proxy had encrypted.

    async def check(self, seconds: float) -> None:
        """Try each upstream that is well, or whose time has come again. seconds: for each."""
        await asyncio.gather(*(self.check_one(each, seconds) for each in self.upstreams if each.up or each.due))

    async def check_one(self, upstream: Upstream, seconds: float, *, thorough: bool = False) -> None:
        """Try one upstream: its Status, and whether it has the key: when it names another than before, and once a
        minute, for that costs a call of its token; or now, if it is to be thorough."""
        began = monotonic()
        try:
            body = await upstream.ask(f"{_V2}/Status", _STATUS, seconds, check=True)
            answer = answers.status(body, upstream)
            upstream.seconds = monotonic() - began
            upstream.healthz = answer.healthz
            if answer.key_id:
                if thorough or not upstream.has_proven(answer.key_id, PROVEN_SECONDS):
                    await self._check_key(upstream, answer.key_id, seconds)
                upstream.key_id = answer.key_id
        except UpstreamError as failed:
            self._ill(upstream, failed.error)
        except KmsdError as error:
            self._ill(upstream, error)
        else:
            self._well(upstream)

    async def introduce(self, upstream: Upstream, seconds: float) -> Introduction:
        """Ask an upstream who this proxy is there, and what time it is. Raises UpstreamError, KmsdError."""
        began, now = monotonic(), time.time()
        body = await upstream.ask(_WHO_AM_I, peer.WhoAmIRequest().SerializeToString(), seconds, check=True)
        took = monotonic() - began
        answer = answers.message(peer.WhoAmIResponse, body, upstream)
        ahead = answer.now_unix_ms / 1000 - (now + took / 2)
        tls = " ".join(each for each in (answer.tls_version, answer.cipher, answer.group) if each)
        return Introduction(answer.version, answer.host, answer.tenant, tls, ahead, took / 2)

    async def _check_key(self, upstream: Upstream, key_id: str, seconds: float) -> None:
        """Have the upstream decrypt the canary; and make a new one when the key is another.

        Who decrypts what this proxy had encrypted before has its tenant's keys. Who does not know that key would write
        with a key that the stored data was not written with, and that nobody can go back from. Raises UpstreamError.
        """
        if self.canary is None:
            # Only one of them makes the first: all others have to open that one.
            async with self._founding:
                if self.canary is None:
                    if upstream.healthz == "ok":
                        await self._new_canary(upstream, seconds)
                    return
        canary = self.canary
        request = v2.DecryptRequest(ciphertext=canary.ciphertext, key_id=canary.key_id, uid=PROXY)
        try:
            body = await upstream.ask(f"{_V2}/Decrypt", request.SerializeToString(), seconds, check=True)
            opened = answers.decrypted(body, upstream)
            fits = hashlib.sha256(opened).hexdigest() == canary.digest
        except UpstreamError as failed:
            if failed.its_own or not isinstance(failed.error, NotFound | InvalidRequest):
                raise
            fits = False
        self._judge(upstream, key_id, fits=fits)
        if fits and canary.key_id != key_id and upstream.healthz == "ok":
            await self._new_canary(upstream, seconds)

    async def _is_ours(self, upstream: Upstream, key_id: str, until: float) -> bool:
        """Return whether a key that an upstream has just named is of this proxy's tenant: nothing is passed on of one
        that was not seen before until the upstream has decrypted the canary. False: another should be asked. Raises
        KmsdError if there is none."""
        if self.canary is None or key_id in ("", self.canary.key_id):
            return True
        try:
            await self._check_key(upstream, key_id, _left(until))
        except UpstreamError as failed:
            self._leave(upstream, failed)
            return False
        return upstream.wrong_key is None

    def _leave(self, upstream: Upstream, failed: UpstreamError) -> None:
        """Have others asked before this upstream. Raises its error if there is no other that is well."""
        self._ill(upstream, failed.error)
        if not any(each.usable for each in self.upstreams):
            raise failed.error.again() from failed

    def _judge(self, upstream: Upstream, key_id: str, *, fits: bool) -> None:
        before = upstream.wrong_key
        upstream.wrong_key = None
        if fits:
            upstream.proves(key_id)
        if not fits:
            upstream.wrong_key = Misconfigured(
                f"key manager {upstream.address} does not know the key that wrote here: it names {short(key_id)}, and "
                "what this proxy had encrypted before is nobody's there",
                "it serves another tenant or another token: correct its [[tenants]], or --upstream; if the old key is "
                "gone for good, remove canary.json from state.dir and restart the proxy",
            )
        if (before is None) != (upstream.wrong_key is None):
            self._on_change(upstream)

    async def _new_canary(self, upstream: Upstream, seconds: float) -> None:
        plaintext = secrets.token_bytes(_CANARY_BYTES)
        request = v2.EncryptRequest(plaintext=plaintext, uid=PROXY)
        body = await upstream.ask(f"{_V2}/Encrypt", request.SerializeToString(), seconds, check=True)
        done = answers.encrypted(body, upstream)
        # Who cannot open what it has written just now has no key at all.
        again = v2.DecryptRequest(ciphertext=done.ciphertext, key_id=done.key_id, uid=PROXY)
        body = await upstream.ask(f"{_V2}/Decrypt", again.SerializeToString(), seconds, check=True)
        if answers.decrypted(body, upstream) != plaintext:
            raise answers.nonsense(v2.DecryptResponse, upstream)
        self.canary = Canary(done.key_id, done.ciphertext, hashlib.sha256(plaintext).hexdigest())
        upstream.proves(done.key_id)
        self._on_canary(self.canary)


def _left(until: float) -> float:
    """Return the seconds that are left. Raises DeadlineExceeded if none are."""
    seconds = until - monotonic()
    if seconds <= 0:
        raise DeadlineExceeded(
            "no key manager has answered in the time that the caller gave",
            "check them, and the network to them: kmsctl doctor; the call may be repeated",
        )
    return seconds


def _sha256(key_id: str) -> str:
    return hashlib.sha256(key_id.encode()).hexdigest() if key_id else ""
