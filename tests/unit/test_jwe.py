"""The JWE parser against anything at all, and against what `assemble` makes."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kmsd.formats import jwe, k8s_kms_plugin
from kmsd.formats.ciphertext import CiphertextFormat, identify

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
relaxed = settings(deadline=None, max_examples=300)

kids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
encs = st.sampled_from(sorted(jwe.GCM | jwe.CBC))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["dir", "RSA-OAEP-256"]) | anything,
        "kid": kids | anything,
        "hkid": kids | anything,
        "enc": encs | anything,
        "zip": st.just("DEF") | anything,
        "crit": st.just(["x"]) | anything,
        "_thales_aad": anything,
        "typ": anything,
    },
)
raw_headers = st.one_of(
    members.map(lambda value: json.dumps(value).encode()),
    anything.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.text(max_size=50).map(lambda text: text.encode("utf-16")),
)
segments = st.one_of(
    st.binary(max_size=60).map(jwe.encode),
    st.text(st.sampled_from(ALPHABET.decode()), max_size=40).map(str.encode),
    st.binary(max_size=40),
)
compacts = st.one_of(
    st.binary(max_size=400),
    st.lists(segments, max_size=7).map(b".".join),
    st.tuples(raw_headers.map(jwe.encode) | segments, st.just(b"") | segments, segments, segments, segments).map(
        b".".join
    ),
)


def _parses(compact: bytes) -> jwe.Jwe | None:
    """None if it is refused; anything but a JweError escapes and fails the test."""
    try:
        return jwe.parse(compact)
    except jwe.JweError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 300
    return None


@relaxed
@given(compacts)
@example(b"")
@example(b"....")
@example(b".." * 200)
@example(jwe.encode(b'{"a":' * 700) + b"....")
@example(jwe.encode(b"[" * 3000) + b"....")
@example(jwe.encode(b'{"alg":' + b"9" * 2900 + b"}") + b"....")
@example(jwe.encode(b'{"alg":NaN}') + b"....")
@example(jwe.encode(b'{"alg":"dir","kid":"\\ud800","enc":"A256GCM"}') + b"....")
def test_whatever_comes_the_parser_answers_or_says_why_not(compact: bytes) -> None:
    parsed = _parses(compact)
    if parsed is None:
        return
    assert parsed.kid
    assert parsed.enc in jwe.GCM | jwe.CBC
    assert not parsed.hkid or (parsed.enc in jwe.CBC and parsed.hkid != parsed.kid)
    assert (parsed.alg, parsed.encrypted_key) == ("dir", b"") or (parsed.alg == jwe.WRAPPED and parsed.encrypted_key)
    # What was accepted has exactly one spelling.
    sealed = parsed.ciphertext + parsed.tag
    assert jwe.assemble(parsed.header, parsed.iv, sealed, len(parsed.tag), parsed.encrypted_key) == compact


@relaxed
@given(kids, encs, st.binary(max_size=32), st.binary(max_size=300), st.binary(min_size=16, max_size=32))
def test_what_is_assembled_is_parsed_again(kid: str, enc: str, iv: bytes, body: bytes, tag: bytes) -> None:
    header = jwe.header(kid, enc)
    parsed = jwe.parse(jwe.assemble(header, iv, body + tag, len(tag)))
    assert parsed == jwe.Jwe(header, kid, enc, iv, body, tag)


@relaxed
@given(kids, kids, st.sampled_from(sorted(jwe.CBC)))
def test_a_second_key_is_named_if_its_id_is_another(kid: str, hkid: str, enc: str) -> None:
    header = jwe.header(kid, enc, hkid=hkid)
    parsed = jwe.parse(jwe.assemble(header, bytes(16), bytes(48), 32))
    assert (parsed.kid, parsed.enc, parsed.hkid) == (kid, enc, hkid if hkid != kid else "")
    if hkid == kid:
        assert header == jwe.header(kid, enc)


@relaxed
@given(kids, st.binary(min_size=1, max_size=512), st.binary(max_size=64))
def test_an_encrypted_content_key_is_parsed_again(kid: str, key: bytes, body: bytes) -> None:
    header = jwe.header(kid, "A256GCM", alg=jwe.WRAPPED)
    parsed = jwe.parse(jwe.assemble(header, bytes(12), body + bytes(16), 16, key))
    assert parsed == jwe.Jwe(header, kid, "A256GCM", bytes(12), body, bytes(16), jwe.WRAPPED, key)


@relaxed
@given(kids, st.binary(min_size=12, max_size=12), st.binary(min_size=1, max_size=64), st.data())
def test_a_changed_character_is_refused_or_changes_what_is_read(
    kid: str, iv: bytes, body: bytes, data: st.DataObject
) -> None:
    compact = jwe.assemble(jwe.header(kid, "A256GCM"), iv, body + bytes(16))
    place = data.draw(st.integers(0, len(compact) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != compact[place]))
    changed = compact[:place] + bytes([other]) + compact[place + 1 :]
    assert _parses(changed) != jwe.parse(compact)


@relaxed
@given(kids, st.data())
def test_no_prefix_is_taken_for_the_whole(kid: str, data: st.DataObject) -> None:
    compact = jwe.assemble(jwe.header(kid, "A256GCM"), bytes(12), b"body" + bytes(16))
    cut = compact[: data.draw(st.integers(0, len(compact) - 1))]
    parsed = _parses(cut)
    assert parsed is None or len(parsed.tag) < 16


@relaxed
@given(st.binary(max_size=64))
def test_base64url_is_that_of_the_standard_without_padding(data: bytes) -> None:
    text = jwe.encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=")
    assert jwe.decode(text, "test") == data


@relaxed
@given(st.binary(max_size=64))
def test_each_octet_string_has_one_text(text: bytes) -> None:
    try:
        data = jwe.decode(text, "test")
    except jwe.JweError:
        return
    assert jwe.encode(data) == text


@pytest.mark.parametrize("text", [b"A", b"AB", b"AAB", b"AA==", b"A+", b"A/AA", b"AA\n", b" AA", b"A.A", b"\xff\xff"])
def test_other_spellings_are_refused(text: bytes) -> None:
    with pytest.raises(jwe.JweError, match="the test must be base64url"):
        jwe.decode(text, "test")


def test_the_header_is_in_order_and_without_spaces() -> None:
    assert jwe.decode(jwe.header("a-key", "A192GCM"), "test") == b'{"alg":"dir","kid":"a-key","enc":"A192GCM"}'

    with_hmac = jwe.header("a-key", "A256CBC-HS256", hkid="another")
    assert jwe.decode(with_hmac, "test") == b'{"alg":"dir","kid":"a-key","enc":"A256CBC-HS256","hkid":"another"}'
    wrapped = jwe.header("a-key", "A256GCM", alg=jwe.WRAPPED)
    assert jwe.decode(wrapped, "test") == b'{"alg":"RSA-OAEP-256","kid":"a-key","enc":"A256GCM"}'


CBC = {"alg": "dir", "kid": "k", "enc": "A256CBC-HS512"}
RSA = {"alg": "RSA-OAEP-256", "kid": "k", "enc": "A256GCM"}


@pytest.mark.parametrize(
    ("members", "key", "says"),
    [
        (CBC | {"hkid": ""}, b"", "hkid must be the id of another key"),
        (CBC | {"hkid": None}, b"", "hkid must be the id of another key"),
        (CBC | {"hkid": ["x"]}, b"", "hkid must be the id of another key"),
        (CBC | {"hkid": 7}, b"", "hkid must be the id of another key"),
        (CBC | {"hkid": "k"}, b"", "hkid must be the id of another key"),
        (CBC | {"enc": "A256GCM", "hkid": "x"}, b"", r"names a MAC key \(hkid\), and A256GCM uses none"),
        (RSA | {"hkid": "x"}, b"AAAA", "names a MAC key"),
        (CBC | {"enc": "A192CBC-HS384"}, b"", "enc must be one of"),
        (CBC | {"enc": "A256CBC"}, b"", "enc must be one of"),
        (CBC | {"enc": ["A256CBC-HS512"]}, b"", "enc must be one of"),
        (CBC, b"AAAA", "encrypted key must be empty under alg dir"),
        (CBC | {"zip": "DEF"}, b"", "compression"),
        (CBC | {"crit": ["hkid"], "hkid": "x"}, b"", "extensions"),
        (RSA, b"", "encrypted key is empty, and alg RSA-OAEP-256 needs one"),
        (RSA | {"enc": "A128GCM"}, b"AAAA", "enc must be one of A256GCM"),
        (RSA | {"enc": "A256CBC-HS512"}, b"AAAA", "enc must be one of A256GCM"),
        (RSA | {"alg": "RSA-OAEP"}, b"AAAA", "alg must be"),
        (RSA | {"alg": "RSA1_5"}, b"AAAA", "alg must be"),
        (RSA | {"alg": ["RSA-OAEP-256"]}, b"AAAA", "alg must be"),
        (RSA, b"AB", "encrypted key must be base64url"),
        (RSA | {"kid": ""}, b"AAAA", "kid must be"),
    ],
)
def test_what_does_not_go_together_is_refused(members: dict[str, object], key: bytes, says: str) -> None:
    compact = b".".join([jwe.encode(json.dumps(members).encode()), key, b"AAAA", b"AAAA", b"AAAA"])
    for _ in range(2):  # what was refused is refused again, whatever the parser remembers
        with pytest.raises(jwe.JweError, match=says):
            jwe.parse(compact)


def test_the_foreign_aes_cbc_formats_are_told_apart_from_garbage() -> None:
    with pytest.raises(jwe.ForeignJwe):
        jwe.parse(jwe.encode(b'{"alg":"A256CBC","_thales_aad":"AAAAAAAAAAE","enc":"A256CBC"}') + b"....")
    with pytest.raises(jwe.JweError) as refused:
        jwe.parse(jwe.encode(b'{"alg":"A256CBC","enc":"A256CBC"}') + b"....")
    assert not isinstance(refused.value, jwe.ForeignJwe)


def test_the_example_of_the_standard_with_direct_encryption_is_told_what_is_missing() -> None:
    """RFC 7516, 4.1: kid is optional there; here nothing could be decrypted without it."""
    header = jwe.encode(b'{"alg":"dir","enc":"A256GCM"}')
    with pytest.raises(jwe.JweError, match="the header's kid must be"):
        jwe.parse(jwe.assemble(header, bytes(12), bytes(20)))


def test_size_is_bounded_before_anything_is_read() -> None:
    with pytest.raises(jwe.JweError, match="a JWE may have 1048576 bytes at most, got 1048577"):
        jwe.parse(b"." * (jwe.MAX_COMPACT + 1))
    with pytest.raises(jwe.JweError, match="the header of a JWE has 1 to 4096 bytes, got 4097"):
        jwe.parse(b"A" * (jwe.MAX_HEADER + 1) + b"....")


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("k8s-dek", '"k8s-dek"'),
        ('we<ird>&"label', '"we\\u003cird\\u003e\\u0026\\"label"'),
        ("back\\slash", '"back\\\\slash"'),
        ("sch\u00f6n", '"sch\u00f6n"'),
        ("line\u2028para\u2029", '"line\\u2028para\\u2029"'),
    ],
)
def test_the_k8s_kms_plugins_header_is_spelled_as_go_spells_it(label: str, text: str) -> None:
    """encoding/json escapes <, >, & and the two separators, and leaves other letters as they are."""
    expected = f'{{"alg":"dir","kid":{text},"enc":"A256GCM"}}'
    assert jwe.decode(k8s_kms_plugin.header(label), "test").decode() == expected
    assert jwe.parse(jwe.assemble(k8s_kms_plugin.header(label), bytes(16), bytes(20))).kid == label


@pytest.mark.parametrize(
    ("enc", "iv", "expected"),
    [("A256GCM", 16, True), ("A256GCM", 12, False), ("A128GCM", 16, True), ("A128GCM", 12, False)],
)
def test_the_k8s_kms_plugins_form_is_told_by_its_iv(enc: str, iv: int, expected: bool) -> None:
    found = identify(jwe.assemble(jwe.header("k", enc), bytes(iv), bytes(20)))
    assert (found.format is CiphertextFormat.K8S_KMS_PLUGIN_GCM) is expected
