"""Look at the claims of a token before it is signed: only a service account token of this issuer is. Pure.

kube-apiserver makes the claims, and whoever reaches the socket can send others. So they are bounded, parsed as strictly
as any verifier would, and signed as they were given. No error quotes a claim but the issuer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from kmsd.errors import InvalidRequest, short

MOST: Final = 16384
"""Characters of the claims, in base64url."""
LEEWAY: Final = 300
"""Seconds by which the clock of kube-apiserver may differ from this one's."""
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_SUBJECT: Final = re.compile(r"system:serviceaccount:[a-z0-9][a-z0-9.-]{0,252}:[a-z0-9][a-z0-9.-]{0,252}")
_DIGITS: Final = 16
"""Hexadecimal digits of a hash that a record shows."""
_HINT: Final = "only kube-apiserver is to call this socket, for service account tokens: see what else does"


@dataclass(frozen=True)
class Rules:
    """The bounds of what is signed. issuers: those that are; any if there are none. longest: seconds for which a token
    may be in force."""

    issuers: tuple[str, ...]
    longest: int


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims that matter here. expires: Unix seconds."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    expires: int

    @property
    def told(self) -> str:
        """The words that records have for them: hashes, so that nobody reads there which workload talks to whom."""
        return f"sub sha256:{_sha256(self.subject)} aud sha256:{_sha256(' '.join(self.audiences))}"


def check(text: str, rules: Rules, now: float) -> Claims:
    """Return the claims of a token that may be signed. text: in base64url. now: Unix seconds. Raises InvalidRequest."""
    given = _parsed(text)
    issuer, subject = given.get("iss"), given.get("sub")
    if not isinstance(issuer, str) or not issuer:
        raise InvalidRequest("the claims have no issuer (iss)", _HINT)
    if rules.issuers and issuer not in rules.issuers:
        raise InvalidRequest(
            f"the issuer {short(issuer)} is none that tokens are signed for here, which are "
            f"{', '.join(map(short, rules.issuers[:4]))}",
            "enter it in jwt.issuers if it is kube-apiserver's --service-account-issuer",
        )
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise InvalidRequest("the subject (sub) is no service account, system:serviceaccount:NAMESPACE:NAME", _HINT)
    expires = _check_times(given, rules.longest, now)
    return Claims(issuer, subject, _audiences(given.get("aud")), expires)


def _check_times(given: dict[str, Any], longest: int, now: float) -> int:
    expires, issued = given.get("exp"), given.get("iat")
    if type(expires) is not int or type(issued) is not int:
        raise InvalidRequest(
            "the claims do not say in whole seconds from when (iat) to when (exp) the token is in force", _HINT
        )
    seconds = expires - issued
    if not 0 < seconds <= longest:
        raise InvalidRequest(
            f"the token would be in force for {seconds} s, and 1 to {longest} s are allowed",
            "kube-apiserver learns jwt.max_token_expiration at its start: restart it if that was changed",
        )
    if not -LEEWAY <= now - issued <= LEEWAY or expires < now - LEEWAY:
        raise InvalidRequest(
            f"the token would be issued {abs(now - issued):.0f} s {'ago' if now > issued else 'from now'}, and clocks "
            f"may differ by {LEEWAY} s",
            "set the clocks of kube-apiserver's machine and of this one",
        )
    return expires


def _audiences(given: object) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
    texts = tuple(each for each in found if isinstance(each, str) and each)
    if not texts or len(texts) != len(found):
        raise InvalidRequest("the claims have no audience (aud), or one that is no text", _HINT)
    return texts


def _parsed(text: str) -> dict[str, Any]:
    if not 0 < len(text) <= MOST:
        raise InvalidRequest(f"the claims have {len(text)} characters, and 1 to {MOST} are allowed", _HINT)
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if _BASE64URL.fullmatch(text) else b""
    except binascii.Error:
        raw = b""
    # What is decoded in two ways is read in two ways by those who verify.
    if not raw or base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != text:
        raise InvalidRequest("the claims are no base64url without padding (RFC 7515, 2)", _HINT)
    try:
        given = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number)
    except InvalidRequest:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the claims are no JSON", _HINT) from error
    if not isinstance(given, dict):
        raise InvalidRequest("the claims are no JSON object", _HINT)
    return given


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidRequest("a name stands twice in one object of the claims", _HINT)
    return made


def _no_number(_: str) -> NoReturn:
    raise ValueError("no number of JSON")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
