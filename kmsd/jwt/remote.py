"""Have key managers on other machines sign service account tokens. Holds public keys, and no private one.

Each key manager publishes the keys of its tokens and those that it trusts: what is published here is all of them
together. Of a key manager that does not answer, the keys that it answered last stay published: they verify tokens that
are out.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from kmsd import state
from kmsd.api.externaljwt.v1 import api_pb2 as pb
from kmsd.deadline import left
from kmsd.errors import InvalidRequest, KmsdError, Misconfigured, Unavailable
from kmsd.jwt.api import KeySet, PublicKey, Signed
from kmsd.jwt.public_key import from_der
from kmsd.jwt.published import NEVER, Stamp, in_order
from kmsd.observe import logs
from kmsd.service import answers
from kmsd.service.asking import Asking, Question
from kmsd.service.upstream import Upstream, UpstreamError

log = logs.get_logger("kmsd.jwt")

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_SERVICE: Final = "/v1.ExternalJWTSigner"
_FETCH: Final = pb.FetchKeysRequest().SerializeToString()
_FETCH_SECONDS: Final = 3.0
"""Time for the keys of one key manager."""
_KEYS_MOST: Final = 512
_FILE: Final = "jwt-upstreams.json"
_MOST: Final = 4 * 1024 * 1024
_REFRESH: Final = 60
"""Seconds of the refresh hint while no key manager has given one."""


class RemoteJwt:
    """The signer of one tenant of key managers. upstreams: in the order in which they are to be asked now. directory:
    where it is kept what was published. hedge: as of `RemoteService`. changed: told, in words, when other keys are
    published."""

    def __init__(
        self,
        upstreams: Callable[[], Sequence[Upstream]],
        directory: Path,
        hedge: float,
        changed: Callable[[str], None],
    ) -> None:
        self._upstreams = upstreams
        self._directory = directory
        self._hedge = hedge
        self._changed = changed
        self._refresh = _REFRESH
        self._longest = 0
        self._stamp, self._keys = _recall(directory)

    async def sign(self, claims: str, until: float) -> Signed:
        """Have the first key manager that can sign these claims. Raises KmsdError."""
        body = pb.SignJWTRequest(claims=claims).SerializeToString()
        return await self._ask(Question(f"{_SERVICE}/Sign", body, until, _signed))

    async def longest(self, until: float) -> int:
        """Return the seconds for which a token may be in force at the most, as the key manager that is asked has it.
        Raises KmsdError if none has ever said it."""
        body = pb.MetadataRequest().SerializeToString()
        try:
            self._longest = await self._ask(Question(f"{_SERVICE}/Metadata", body, until, _longest))
        except KmsdError:
            if not self._longest:
                raise
        return self._longest

    async def key_set(self, who: str, until: float) -> KeySet:
        """Return the keys that the key managers publish, those that they answered last if they do not answer. Raises
        Unavailable if none is known."""
        seconds = min(_FETCH_SECONDS, left(until) * 0.8)
        upstreams = self._upstreams()
        found = await asyncio.gather(*(self._fetch(each, seconds) for each in upstreams))
        errors = [each for each in found if isinstance(each, KmsdError)]
        hints = [each.refresh_hint_seconds for each in found if isinstance(each, pb.FetchKeysResponse)]
        self._refresh = max(1, min(hints, default=self._refresh))
        addresses = {each.address for each in upstreams}
        self._keys = {address: keys for address, keys in self._keys.items() if address in addresses} or self._keys
        keys = in_order(key for of_one in self._keys.values() for key in of_one)
        if not keys:
            raise (
                errors[0].again() if errors else Unavailable("no key manager publishes a key", "kmsctl jwt keys there")
            )
        await self._publish(keys)
        return KeySet(keys, self._stamp.ms, self._refresh)

    async def _publish(self, keys: Sequence[PublicKey]) -> None:
        before, self._stamp = self._stamp, self._stamp.of(keys, int(time.time() * 1000))
        if self._stamp == before:
            return
        self._changed(f"{len(keys)} keys")
        try:
            told = json.dumps(_told(self._stamp, self._keys)).encode()
            await asyncio.to_thread(state.remember_file, self._directory, _FILE, told)
        except (OSError, Misconfigured) as error:
            log.warning("published keys cannot be kept", directory=str(self._directory), reason=state.reason(error))

    async def _fetch(self, upstream: Upstream, seconds: float) -> pb.FetchKeysResponse | KmsdError:
        """Take in the keys of one key manager; return its answer, or why there is none."""
        try:
            body = await upstream.ask(f"{_SERVICE}/FetchKeys", _FETCH, seconds)
            answer = answers.message(pb.FetchKeysResponse, body, upstream)
            self._keys[upstream.address] = _published(answer, upstream)
        except UpstreamError as failed:
            return failed.error
        return answer

    async def _ask(self, question: Question[T]) -> T:
        """Return the answer to a question. Raises KmsdError. What fails here says nothing of a key manager's KMS."""
        asking = Asking(question, self._upstreams(), well=lambda _: None, ill=lambda _, __: None)
        done = await asking.run(self._hedge)
        if done is not None:
            return done[0]
        said = [failed.error for failed in asking.failures if not failed.its_own]
        other = [failed.error for failed in asking.failures]
        late = monotonic() >= question.until
        raise (said or other or [_none(late)])[0].again()


def _none(late: bool) -> KmsdError:
    words = "no key manager has answered in the time that the caller gave" if late else "no key manager can be asked"
    return Unavailable(words, "check them, and the network to them: kmsctl doctor")


def _signed(body: bytes, upstream: Upstream) -> Signed:
    answer = answers.message(pb.SignJWTResponse, body, upstream)
    try:
        header = json.loads(base64.urlsafe_b64decode(answer.header + "=" * (-len(answer.header) % 4)))
        kid = header["kid"]
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise answers.nonsense(pb.SignJWTResponse, upstream) from error
    if not isinstance(kid, str) or not answer.signature:
        raise answers.nonsense(pb.SignJWTResponse, upstream)
    return Signed(answer.header, answer.signature, kid)


def _longest(body: bytes, upstream: Upstream) -> int:
    seconds = answers.message(pb.MetadataResponse, body, upstream).max_token_expiration_seconds
    if seconds <= 0:
        raise answers.nonsense(pb.MetadataResponse, upstream)
    return seconds


def _published(answer: pb.FetchKeysResponse, upstream: Upstream) -> tuple[PublicKey, ...]:
    try:
        found = [(from_der(each.key), each) for each in answer.keys[:_KEYS_MOST]]
    except InvalidRequest as error:
        raise answers.nonsense(pb.FetchKeysResponse, upstream) from error
    if not found or any(key.kid != each.key_id for key, each in found):
        raise answers.nonsense(pb.FetchKeysResponse, upstream)
    return tuple(PublicKey(key.kid, key.der, each.exclude_from_oidc_discovery) for key, each in found)


def _told(stamp: Stamp, keys: dict[str, tuple[PublicKey, ...]]) -> dict[str, Any]:
    return {
        "digest": stamp.digest,
        "changed_unix_ms": stamp.ms,
        "keys": {
            address: [{"key": base64.b64encode(k.der).decode(), "excluded": k.excluded} for k in of_one]
            for address, of_one in keys.items()
        },
    }


def _recall(directory: Path) -> tuple[Stamp, dict[str, tuple[PublicKey, ...]]]:
    """Return what was kept; nothing of what is damaged, or not believed."""
    try:
        told = json.loads(state.recall_file(directory, _FILE, _MOST) or b"{}")
        keys: dict[str, tuple[PublicKey, ...]] = {}
        for address, of_one in told.get("keys", {}).items():
            read = [(from_der(base64.b64decode(each["key"], validate=True)), each) for each in of_one[:_KEYS_MOST]]
            keys[str(address)] = tuple(PublicKey(key.kid, key.der, each["excluded"] is True) for key, each in read)
        return Stamp(str(told["digest"]), int(told["changed_unix_ms"])), keys
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidRequest):
        return NEVER, {}
