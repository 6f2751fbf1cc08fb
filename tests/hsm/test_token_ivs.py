"""A real kmsd on an HSM that chooses the IVs of AES-GCM itself, and tells them behind the tag (Luna in FIPS mode) or in
the place of the caller's (AWS CloudHSM)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import KMSD, Kmsd

_KEY = bytes(range(32))
_KEY_ID = "01900000-0000-7000-8000-000000000001"


_PROVIDERS = {
    "gcm-iv appended": "luna",
    "gcm-iv demanded": "luna",
    "gcm-iv zero": "cloudhsm",
    "gcm-iv zero early": "cloudhsm",
    "gcm-iv written": "cloudhsm",
}


@pytest.fixture(params=_PROVIDERS)
def told(request: pytest.FixtureRequest) -> str:
    line: str = request.param
    return line


@pytest.fixture
def iv_bytes(told: str) -> int:
    return 16 if _PROVIDERS[told] == "luna" else 12


@pytest.fixture
def token(short_tmp: Path, told: str) -> ChaosToken:
    made = make_chaos(short_tmp / "hsm")
    made.import_aes("k8s-kek", _KEY, _KEY_ID.encode())
    made.tell(told)
    return made


@pytest.fixture
def kmsd(short_tmp: Path, token: ChaosToken, told: str) -> Iterator[Kmsd]:
    with _kmsd(short_tmp / "d", token, _PROVIDERS[told]) as running:
        yield running.wait_ok()


def _kmsd(folder: Path, token: ChaosToken, provider: str) -> Kmsd:
    folder.mkdir()
    return Kmsd(
        folder,
        token,  # of the same shape
        (*token.flags, f"--provider={provider}"),
        default_flags=False,
        command=(KMSD, "serve"),
    ).start()


def _parts(ciphertext: bytes) -> list[bytes]:
    return [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in ciphertext.split(b".")]


def test_what_is_written_holds_the_hsms_iv_and_is_read_back(kmsd: Kmsd, iv_bytes: int) -> None:
    ivs = set()
    for number in range(5):
        plaintext = b"%d" % number * 32
        sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid="u"))
        _, _, iv, body, tag = _parts(sealed.ciphertext)
        ivs.add(iv)
        assert (len(iv), len(tag)) == (iv_bytes, 16)
        assert any(iv)
        header = sealed.ciphertext.split(b".")[0]
        assert AESGCM(_KEY).decrypt(iv, body + tag, header) == plaintext
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        assert kmsd.v2("Decrypt", request).plaintext == plaintext
    assert len(ivs) == 5


def test_v1beta1_reads_what_v2_wrote_and_a_change_is_refused(kmsd: Kmsd) -> None:
    sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u")).ciphertext
    assert kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=sealed)).plain == b"seed"
    changed = sealed[:-3] + (b"AAA" if sealed[-3:] != b"AAA" else b"BBB")
    with pytest.raises(grpc.RpcError) as refused:
        kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=changed))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_kmsd_that_chooses_its_own_ivs_reads_it_too(kmsd: Kmsd, token: ChaosToken, short_tmp: Path) -> None:
    """After the key, or FIPS mode, has gone: the format is one."""
    sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
    token.tell()
    with _kmsd(short_tmp / "e", token, "generic") as other:
        other.wait_ok()
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        assert other.v2("Decrypt", request).plaintext == b"seed"


def test_where_it_is_not_known_of_the_token_it_is_found_out(token: ChaosToken, short_tmp: Path, iv_bytes: int) -> None:
    with _kmsd(short_tmp / "d", token, "generic") as kmsd:
        kmsd.wait_ok()
        sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
        assert len(_parts(sealed.ciphertext)[2]) == iv_bytes
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        assert kmsd.v2("Decrypt", request).plaintext == b"seed"


@pytest.mark.parametrize("line", ["gcm-iv appended", "gcm-iv written", "gcm-iv zero"])
def test_where_it_is_neither_known_nor_to_be_found_out_such_an_answer_is_refused(short_tmp: Path, line: str) -> None:
    token = make_chaos(short_tmp / "hsm")
    token.import_aes("k8s-kek", _KEY, _KEY_ID.encode())
    token.tell(line, "C_GenerateKey rv=0x54")
    with _kmsd(short_tmp / "d", token, "generic") as kmsd, pytest.raises(grpc.RpcError):
        kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))


@pytest.mark.parametrize("bits", [128, 192])
def test_shorter_keys_read_back_what_they_wrote(token: ChaosToken, short_tmp: Path, iv_bytes: int, bits: int) -> None:
    token.destroy("k8s-kek")
    token.import_aes("k8s-kek", _KEY[: bits // 8], b"short")
    with _kmsd(short_tmp / "d", token, "generic") as kmsd:
        kmsd.wait_ok()
        sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
        assert len(_parts(sealed.ciphertext)[2]) == iv_bytes
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        assert kmsd.v2("Decrypt", request).plaintext == b"seed"


@pytest.mark.parametrize(
    ("line", "said"), [("gcm-iv zero untold", "an IV of zeros"), ("gcm-iv zero stuck", "the same IV twice")]
)
def test_an_iv_of_zeros_or_one_that_occurs_twice_is_never_stored(short_tmp: Path, line: str, said: str) -> None:
    token = make_chaos(short_tmp / "hsm")
    token.import_aes("k8s-kek", _KEY, _KEY_ID.encode())
    # No trial at the login, so that it is the provider's row that counts.
    token.tell(line, "C_GenerateKey rv=0x54")
    with _kmsd(short_tmp / "d", token, "cloudhsm") as kmsd:
        answers = [_iv_or_refusal(kmsd) for _ in range(4)]
        stored = [each for each in answers if isinstance(each, bytes)]
        assert len(stored) <= 1
        assert all(map(any, stored))
        assert all(said in each for each in answers if isinstance(each, str))


def _iv_or_refusal(kmsd: Kmsd) -> bytes | str:
    try:
        sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
    except grpc.RpcError as error:
        return error.details() or ""
    return _parts(sealed.ciphertext)[2]
