"""Ciphertexts that nobody wrote: refused, with a sentence that says what to do, and nothing of them shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.daemons import Kmsd
from tests.rpc.forged import SECRET, b64, good, unb64, v1_decrypt, v2_decrypt
from tests.rpc.known import AES128, WRITE
from tests.rpc.refusals import (
    DECRYPT_V1,
    DECRYPT_V2,
    Refusal,
    answers,
    assert_silent,
    refusal,
)

pytestmark = pytest.mark.usefixtures("unharmed")


def _header(members: Mapping[str, object] | bytes) -> bytes:
    raw = members if isinstance(members, bytes) else json.dumps(members, separators=(",", ":")).encode()
    return b64(raw)


_GOOD: dict[str, object] = {"alg": "dir", "kid": WRITE.key_id, "enc": "A256GCM"}
_TEXT = json.dumps(_GOOD, separators=(",", ":")).encode()
HEADERS = {
    "zip": (_GOOD | {"zip": "DEF"}, "compression (zip)"),
    "crit": (_GOOD | {"crit": ["exp"], "exp": 1}, "extensions (crit)"),
    "crit-empty": (_GOOD | {"crit": []}, "extensions (crit)"),
    "enc-unknown": (_GOOD | {"enc": "A512GCM"}, "enc must be one of A128CBC-HS256, A128GCM, A192GCM, A256CBC-HS256"),
    "enc-cbc-of-another-size": (_GOOD | {"enc": "A128CBC-HS256"}, "does not fit its key"),
    "enc-cbc-unknown": (_GOOD | {"enc": "A192CBC-HS384"}, "enc must be one of"),
    "hkid-without-hmac": (_GOOD | {"hkid": "x"}, "names a MAC key (hkid), and A256GCM uses none"),
    "enc-number": (_GOOD | {"enc": 256}, "enc must be one of"),
    "enc-list": (_GOOD | {"enc": ["A256GCM"]}, "enc must be one of"),
    "enc-missing": ({"alg": "dir", "kid": WRITE.key_id}, "enc must be one of"),
    "enc-of-another-size": (_GOOD | {"enc": "A128GCM"}, "does not fit its key, which is AES-256"),
    "alg-other": (_GOOD | {"alg": "A256KW"}, "alg must be dir or RSA-OAEP-256"),
    "alg-rsa": (_GOOD | {"alg": "RSA-OAEP-256"}, "the encrypted key is empty, and alg RSA-OAEP-256 needs one"),
    "alg-none": (_GOOD | {"alg": "none"}, "alg must be dir or RSA-OAEP-256"),
    "alg-missing": ({"kid": WRITE.key_id, "enc": "A256GCM"}, "alg must be dir or RSA-OAEP-256"),
    "kid-missing": ({"alg": "dir", "enc": "A256GCM"}, "kid must be the id of a key, got "),
    "kid-empty": (_GOOD | {"kid": ""}, "kid must be the id of a key, got "),
    "kid-number": (_GOOD | {"kid": 7}, "kid must be the id of a key, got "),
    "kid-list": (_GOOD | {"kid": [WRITE.key_id]}, "kid must be the id of a key, got "),
    "kid-twice": (_TEXT[:-1] + b',"kid":"other"}', " twice"),
    "alg-twice-the-same": (_TEXT[:-1] + b',"alg":"dir"}', " twice"),
    "member-twice-by-escape": (_TEXT[:-1] + b',"k\\u0069d":"other"}', " twice"),
    "no-object": (b'["dir"]', "must be a JSON object, got another JSON value"),
    "null": (b"null", "must be a JSON object, got another JSON value"),
    "string": (b'"' + _TEXT.replace(b'"', b'\\"') + b'"', "must be a JSON object, got another JSON value"),
    "no-json": (SECRET, "not JSON in UTF-8"),
    "json-and-more": (_TEXT + b"x", "not JSON in UTF-8"),
    "no-utf-8": (_TEXT.replace(b"dir", b"d\xffr"), "not JSON in UTF-8"),
    "utf-16": (_TEXT.decode().encode("utf-16"), "not JSON in UTF-8"),
    "byte-order-mark": (b"\xef\xbb\xbf" + _TEXT, "not JSON in UTF-8"),
    "deep": (b'{"a":' * 600, "the header"),
    "long-number": (b'{"a":' + b"9" * 600 + b"}", "alg must be dir or RSA-OAEP-256"),
    "empty": (b"", "the header of a JWE has 1 to 4096 bytes, got 0"),
    "huge": (_GOOD | {"x": "y" * 4000}, "the header of a JWE has 1 to 4096 bytes, got "),
}


@pytest.mark.parametrize(("members", "says"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_asks_for_something_else_is_refused(
    served: Kmsd, members: Mapping[str, object] | bytes, says: str
) -> None:
    forged = b".".join([_header(members), *good(served).split(b".")[1:]])
    calls = [(DECRYPT_V1, v1_decrypt(forged))]
    if len(forged) < 1024:
        calls.append((DECRYPT_V2, v2_decrypt(forged)))
    for path, body in calls:
        refused = refusal(served.raw, path, body)
        assert refused.code == "INVALID_ARGUMENT"
        assert says in refused.details
        assert_silent(refused.details, SECRET, *forged.split(b".")[2:])


UNKNOWN = {
    "another-uuid": "01990000-0000-7000-8000-00000000dead",
    "almost": WRITE.key_id[:-1],
    "upper-case": WRITE.key_id.upper() + "A",
    "line-break": 'a\nb"c',
    "long": "k" * 600,
    "not-ascii": "schl\u00fcssel-\U0001f511",
    "lone-surrogate": "\ud800",
    "nul": "a\0b",
}


def test_an_unknown_kid_is_not_found_and_says_what_is_lost(served: Kmsd) -> None:
    segments = good(served).split(b".")[1:]
    calls = []
    for kid in UNKNOWN.values():
        forged = b".".join([_header(_GOOD | {"kid": kid}), *segments])
        calls.append((DECRYPT_V1, v1_decrypt(forged)))
    for answer in answers(served, calls):
        assert isinstance(answer, Refusal)
        assert answer.code == "NOT_FOUND"
        assert answer.details.startswith("there is no key with key id or label '")
        assert answer.details.endswith("restore the key to the token; without it this data cannot be read")
        assert answer.details.isprintable()
        assert len(answer.details) < 300


def test_the_key_id_of_an_hmac_key_does_not_decrypt(served: Kmsd) -> None:
    hmac = next(key for key in served.admin("ListKeys").keys if key.can_sign)
    forged = b".".join([_header(_GOOD | {"kid": hmac.key_id}), *good(served).split(b".")[1:]])
    refused = refusal(served.raw, DECRYPT_V2, v2_decrypt(forged, hmac.key_id))
    assert refused.code == "NOT_FOUND"


def _tampered(compact: bytes) -> Iterator[bytes]:
    """Every byte of every decoded segment with one bit changed, the bit wandering."""
    segments = compact.split(b".")
    for number in (0, 2, 3, 4):
        raw = unb64(segments[number])
        for place in range(len(raw)):
            changed = bytearray(raw)
            changed[place] ^= 1 << (place + number) % 8
            yield b".".join([*segments[:number], b64(bytes(changed)), *segments[number + 1 :]])


def _mistyped(compact: bytes) -> Iterator[bytes]:
    """Every character replaced by another: one of the alphabet, one that is none, and the separator."""
    for place in range(len(compact)):
        for other in (b"A", b"-", b"!", b".", b"\x00", b"\xff", b"="):
            if compact[place : place + 1] != other:
                yield compact[:place] + other + compact[place + 1 :]


@pytest.mark.parametrize("change", [_tampered, _mistyped])
def test_a_ciphertext_that_was_altered_anywhere_is_refused(
    served: Kmsd, change: Callable[[bytes], Iterator[bytes]]
) -> None:
    compact = good(served)
    altered = list(change(compact))
    if len(altered) > 400:
        altered = altered[:: len(altered) // 400]  # 7 per character and no multiple of it: all kinds occur
    given = answers(
        served,
        [
            (DECRYPT_V1, v1_decrypt(each)) if number % 2 else (DECRYPT_V2, v2_decrypt(each))
            for number, each in enumerate(altered)
        ],
    )
    for answer in given:
        assert isinstance(answer, Refusal), "an altered ciphertext was decrypted"
        assert answer.code in ("INVALID_ARGUMENT", "NOT_FOUND")
        assert answer.hint
        assert_silent(answer.details, SECRET, *compact.split(b".")[2:])
    assert_silent(served.log_text(), *compact.split(b".")[2:])


@pytest.mark.parametrize("path", [DECRYPT_V1, DECRYPT_V2])
def test_every_prefix_of_a_ciphertext_is_refused(served: Kmsd, path: str) -> None:
    compact = good(served)
    make = v1_decrypt if path == DECRYPT_V1 else v2_decrypt
    given = answers(served, [(path, make(compact[:size])) for size in range(len(compact))])
    for answer in given:
        assert isinstance(answer, Refusal), "a truncated ciphertext was decrypted"
        assert answer.code == "INVALID_ARGUMENT"
        assert answer.hint
        assert_silent(answer.details, SECRET, *compact.split(b".")[2:])


def _without_trailing_bits(text: bytes) -> bytes:
    """The same bytes in another spelling: the last character's unused bits set."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1:]) | 1 :][:1]


def test_another_spelling_of_the_same_bytes_is_refused(served: Kmsd) -> None:
    """base64url that is not canonical: else one stored object would have many texts that all decrypt."""
    compact = good(served)
    header, _, iv, ciphertext, tag = compact.split(b".")
    assert len(tag) == 22
    respelled = _without_trailing_bits(tag)
    assert unb64(respelled) == unb64(tag)
    for forged in (
        b".".join([header, b"", iv, ciphertext, respelled]),
        b".".join([header, b"", iv, ciphertext, tag + b"=="]),
        b".".join([header, b"", iv, ciphertext + b"\n", tag]),
        b".".join([header, b"", iv + b" ", ciphertext, tag]),
        compact + b"\n",
        b" " + compact,
    ):
        refused = refusal(served.raw, DECRYPT_V2, v2_decrypt(forged))
        assert refused.code == "INVALID_ARGUMENT"
        assert "must be base64url without padding" in refused.details


def test_a_ciphertext_of_the_wrong_shape_is_refused(served: Kmsd) -> None:
    header, _, iv, ciphertext, tag = good(served).split(b".")
    for forged, says in (
        (b"garbage", "a compact JWE has 5 segments, got 1"),
        (SECRET + b"." + SECRET, "got 2"),
        (b"....", "the header of a JWE has 1 to 4096 bytes, got 0"),
        (b"." * 900, "got more"),
        (b".".join([header, b"", iv, ciphertext, tag, b""]), "got more"),
        (b".".join([header, b"AAAA", iv, ciphertext, tag]), "the encrypted key must be empty under alg dir"),
        (b".".join([header, b"", iv, ciphertext, b""]), "the authentication tag has 0 bytes"),
        (b".".join([header, b"", iv, ciphertext, b64(unb64(tag)[:12])]), "the authentication tag has 12 bytes"),
        (b".".join([header, b"", iv, ciphertext, b64(unb64(tag) + b"x")]), "the authentication tag has 17"),
        (b".".join([header, b"", b"", ciphertext, tag]), "enc or IV does not fit"),
        (b".".join([header, b"", b64(bytes(8)), ciphertext, tag]), "enc or IV does not fit"),
        (b".".join([header, b"", iv, b"", tag]), "does not authenticate"),
        (b".".join([header, b"", iv, b64(unb64(ciphertext) + b"x"), tag]), "does not authenticate"),
    ):
        refused = refusal(served.raw, DECRYPT_V2, v2_decrypt(forged))
        assert refused.code == "INVALID_ARGUMENT"
        assert says in refused.details
        assert_silent(refused.details, SECRET)


def test_the_segments_of_two_ciphertexts_do_not_mix(served: Kmsd) -> None:
    one, two = good(served).split(b"."), good(served).split(b".")
    for number in (2, 3, 4):
        mixed = [*one[:number], two[number], *one[number + 1 :]]
        refused = refusal(served.raw, DECRYPT_V2, v2_decrypt(b".".join(mixed)))
        assert refused.code == "INVALID_ARGUMENT"
        assert "does not authenticate" in refused.details


def test_an_unknown_kid_many_times_over_does_not_keep_the_token_busy(served: Kmsd) -> None:
    """Each may be a key that was just made, so each gets a look; but they share the looks."""
    forged = b".".join([_header(_GOOD | {"kid": "nobody"}), *good(served).split(b".")[1:]])
    for answer in answers(served, [(DECRYPT_V1, v1_decrypt(forged))] * 200, timeout=10):
        assert isinstance(answer, Refusal)
        assert answer.code == "NOT_FOUND"


def test_a_ciphertext_that_names_a_label_opens_only_if_the_tag_fits(served: Kmsd) -> None:
    """KeySealer names labels, with IVs of 12 bytes, too."""
    forged = b".".join([_header(_GOOD | {"kid": AES128.label}), *good(served).split(b".")[1:]])
    refused = refusal(served.raw, DECRYPT_V1, v1_decrypt(forged))
    assert refused.code == "INVALID_ARGUMENT"
    assert "does not authenticate" in refused.details
