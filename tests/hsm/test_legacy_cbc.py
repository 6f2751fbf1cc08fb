"""What k8s-kms-plugin and its successor wrote, read with their keys on a SoftHSM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from kmsd.crypto import gcm, legacy_cbc
from kmsd.crypto.gcm import TagMismatch
from kmsd.errors import Misconfigured, Unavailable
from kmsd.formats import jwe, k8s_kms_plugin
from kmsd.formats.ciphertext import CiphertextFormat, identify
from tests import keysealer, tokens
from tests.hsm.inside import Inside
from tests.rpc.vectors import CBC, GCM, K8S_KMS_PLUGIN_KEYS, Vector

BY_LABEL = {key.label: key.key_id.encode() for key in K8S_KMS_PLUGIN_KEYS}
HMAC = BY_LABEL["k8s-hmac"]
TIMEOUT = 10.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    token = tokens.make_token(tmp_path_factory.mktemp("k") / "hsm")
    token.objects(*(key.step for key in K8S_KMS_PLUGIN_KEYS))
    for key in keysealer.KEYS.values():
        imported = token.import_aes if key.type == "aes" else token.import_hmac
        imported(key.label, key.value, key.cka_id)
    with Inside(token, tokens.MODULE) as inside:
        yield inside


@pytest.mark.parametrize("vector", GCM, ids=lambda vector: f"{vector.key_label}-{len(vector.plaintext)}")
def test_the_k8s_kms_plugins_aes_gcm_is_read(served: Inside, vector: Vector) -> None:
    parsed = jwe.parse(vector.ciphertext)
    assert identify(vector.ciphertext).format is CiphertextFormat.K8S_KMS_PLUGIN_GCM
    assert served.served(gcm.attempt, BY_LABEL[vector.key_label], parsed, TIMEOUT) == vector.plaintext


@pytest.mark.parametrize("mac", [HMAC, None], ids=["with-hmac", "without"])
@pytest.mark.parametrize("vector", CBC, ids=lambda vector: len(vector.plaintext))
def test_the_k8s_kms_plugins_aes_cbc_is_read(served: Inside, vector: Vector, mac: bytes | None) -> None:
    parsed = k8s_kms_plugin.parse_cbc(vector.ciphertext)
    served.counted()
    opened = served.served(legacy_cbc.decrypt, BY_LABEL[vector.key_label], mac, parsed, TIMEOUT)
    assert opened == vector.plaintext
    assert served.counted()["C_Sign"] == (0 if mac is None else 1)


@pytest.mark.parametrize("vector", CBC, ids=lambda vector: len(vector.plaintext))
def test_a_tag_that_is_not_the_constant_is_refused_before_decrypting(served: Inside, vector: Vector) -> None:
    parsed = k8s_kms_plugin.parse_cbc(vector.ciphertext)
    served.counted()
    for place in range(32):
        tag = parsed.tag[:place] + bytes([parsed.tag[place] ^ 1]) + parsed.tag[place + 1 :]
        with pytest.raises(TagMismatch):
            served.served(legacy_cbc.decrypt, BY_LABEL[vector.key_label], HMAC, replace(parsed, tag=tag), TIMEOUT)
    assert served.counted()["C_DecryptInit"] == 0


def test_another_key_shows_in_the_padding(served: Inside) -> None:
    parsed = k8s_kms_plugin.parse_cbc(CBC[0].ciphertext)
    with pytest.raises(TagMismatch):
        served.served(legacy_cbc.decrypt, BY_LABEL["aes128"], HMAC, parsed, TIMEOUT)


def test_what_the_k8s_kms_plugin_wrote_can_be_altered_by_anybody(served: Inside) -> None:
    """Why it is not read unless asked for: the first bit of the plaintext flipped through the IV, tag and all fit."""
    parsed = k8s_kms_plugin.parse_cbc(CBC[3].ciphertext)
    forged = replace(parsed, iv=bytes([parsed.iv[0] ^ 0x80]) + parsed.iv[1:])
    opened = served.served(legacy_cbc.decrypt, BY_LABEL[CBC[3].key_label], HMAC, forged, TIMEOUT)
    assert opened == bytes([CBC[3].plaintext[0] ^ 0x80]) + CBC[3].plaintext[1:]


@pytest.mark.parametrize("vector", keysealer.VECTORS, ids=lambda v: f"{v.key.label}-{len(v.plaintext)}")
def test_the_successors_aes_cbc_is_read(served: Inside, vector: keysealer.ForeignVector) -> None:
    parsed = k8s_kms_plugin.parse_cbc(vector.ciphertext)
    opened = served.served(legacy_cbc.decrypt, parsed.cka_id, vector.hmac.cka_id, parsed, TIMEOUT)
    assert opened == vector.plaintext


@pytest.mark.parametrize("vector", keysealer.VECTORS[:2], ids=lambda v: len(v.plaintext))
def test_the_successors_tag_is_really_checked_and_before_decrypting(
    served: Inside, vector: keysealer.ForeignVector
) -> None:
    parsed = k8s_kms_plugin.parse_cbc(vector.ciphertext)
    served.counted()
    tried = 0
    for segment in ("header", "iv", "ciphertext", "tag"):
        whole: bytes = getattr(parsed, segment)
        for place in range(len(whole)):
            change: dict[str, Any] = {segment: whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]}
            altered = replace(parsed, **change)
            with pytest.raises(TagMismatch):
                served.served(legacy_cbc.decrypt, parsed.cka_id, vector.hmac.cka_id, altered, TIMEOUT)
            tried += 1
    counted = served.counted()
    assert (counted["C_Sign"], counted["C_DecryptInit"]) == (tried, 0)


def test_the_k8s_kms_plugins_constant_is_no_tag_of_the_successor(served: Inside) -> None:
    parsed = k8s_kms_plugin.parse_cbc(keysealer.VECTORS[0].ciphertext)
    forged = replace(parsed, tag=k8s_kms_plugin.parse_cbc(CBC[0].ciphertext).tag)
    with pytest.raises(TagMismatch):
        served.served(legacy_cbc.decrypt, parsed.cka_id, HMAC, forged, TIMEOUT)


def test_the_successors_format_is_not_read_without_its_hmac_key(served: Inside) -> None:
    parsed = k8s_kms_plugin.parse_cbc(keysealer.VECTORS[0].ciphertext)
    served.counted()
    with pytest.raises(Misconfigured, match="authenticated with an HMAC key, and none is configured"):
        served.served(legacy_cbc.decrypt, parsed.cka_id, None, parsed, TIMEOUT)
    assert not served.counted()
    with pytest.raises(Unavailable, match="not to be found"):
        served.served(legacy_cbc.decrypt, parsed.cka_id, b"nobody", parsed, TIMEOUT)
