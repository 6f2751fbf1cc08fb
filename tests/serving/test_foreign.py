"""Moving over from what wrote with aes-cbc: k8s-kms-plugin, whose tag protects nothing, and KeySealer."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests import keysealer
from tests.daemons import Kmsd, wait_for
from tests.keysealer import ForeignVector
from tests.rpc.refusals import refusal
from tests.rpc.vectors import CBC, GCM, K8S_KMS_PLUGIN_KEYS, Vector
from tests.serving.conftest import ENVIRONMENT
from tests.tokens import SoftToken, make_token

KEY = next(key for key in K8S_KMS_PLUGIN_KEYS if key.label == "k8s-dek")
ALLOWED = {"KMSD_LEGACY__ALLOW_UNAUTHENTICATED": "true", "KMSD_LEGACY__KEY": "k8s-dek"}
REFUSED = "whose tag authenticates nothing: it is not read"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """With the keys of both programs."""
    made = make_token(tmp_path_factory.mktemp("t") / "hsm")
    steps = [key.step for key in K8S_KMS_PLUGIN_KEYS]
    for key in keysealer.KEYS.values():
        what = {"type": key.type, "label": key.label, "value": key.value.hex(), "id": key.cka_id.hex()}
        steps.append({"do": "import", **what})
    steps.append({"do": "import", "type": "aes", "label": "k8s-kek", "value": bytes(32).hex(), "id": b"write-1".hex()})
    made.objects(*steps)
    return made


def run(folder: Path, token: SoftToken, environment: Mapping[str, str], *flags: str) -> Kmsd:
    """kmsd writes with a key of its own: what nothing authenticates is never read with a key that wrote otherwise."""
    return Kmsd(folder, token, flags, environment={**ENVIRONMENT, **environment})


@pytest.fixture(scope="module")
def reader(token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """Takes over from k8s-kms-plugin, and may read what nothing protects."""
    with run(tmp_path_factory.mktemp("d"), token, ALLOWED, "--p11-hmac-label=k8s-hmac").start() as kmsd:
        yield kmsd.wait_ok()


@pytest.fixture
def start(token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Kmsd]]:
    running: list[Kmsd] = []

    def begin(environment: Mapping[str, str], *flags: str) -> Kmsd:
        kmsd = run(tmp_path_factory.mktemp("d"), token, environment, *flags).start()
        running.append(kmsd)
        return kmsd

    yield begin
    for kmsd in running:
        kmsd.stop()


def read(kmsd: Kmsd, cipher: bytes) -> bytes:
    answer = kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=cipher))
    plain: bytes = answer.plain
    return plain


def counted(kmsd: Kmsd) -> int:
    """Values without protection that were read, as GetStatus says."""
    (problem,) = kmsd.status().problems
    assert not problem.fatal
    assert "kubectl get secrets" in problem.hint
    words = problem.message.split()
    assert words[:2] == ["legacy.allow_unauthenticated", "is"]
    return int(words[words.index("values") - 1])


@pytest.mark.parametrize("vector", CBC, ids=lambda vector: str(len(vector.plaintext)))
def test_what_the_k8s_kms_plugin_wrote_is_read_when_told_to_and_counted(reader: Kmsd, vector: Vector) -> None:
    before = counted(reader)
    assert read(reader, vector.ciphertext) == vector.plaintext
    request = v2.DecryptRequest(ciphertext=vector.ciphertext, key_id=KEY.key_id, uid="u")
    assert reader.v2("Decrypt", request).plaintext == vector.plaintext
    assert counted(reader) == before + 2
    warnings = [line for line in reader.log_lines() if line["event"] == "a value that nothing protects was read"]
    assert len(warnings) == 1, "once a minute"
    assert warnings[0]["key_id_sha256"] == hashlib.sha256(KEY.key_id.encode()).hexdigest()


def test_its_aes_gcm_is_read_beside_it_and_new_data_is_native(reader: Kmsd) -> None:
    before = counted(reader)
    for vector in GCM:
        assert read(reader, vector.ciphertext) == vector.plaintext
    new = reader.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=b"new")).cipher
    head = new.split(b".")[0]
    assert base64.urlsafe_b64decode(head + b"==").endswith(b'"enc":"A256GCM"}')
    assert read(reader, new) == b"new"
    assert counted(reader) == before


def test_what_is_damaged_is_refused_and_not_counted(reader: Kmsd) -> None:
    before = counted(reader)
    *parts, tag = CBC[0].ciphertext.split(b".")
    for damaged in (b".".join([*parts, b"A" * len(tag)]), b".".join([*parts, b""]), CBC[0].ciphertext[:-4]):
        assert refusal(read, reader, damaged).code == "INVALID_ARGUMENT"
    assert counted(reader) == before


def test_v2_refuses_it_under_the_id_of_another_key(reader: Kmsd) -> None:
    other = next(key for key in K8S_KMS_PLUGIN_KEYS if key.label == "aes128")
    request = v2.DecryptRequest(ciphertext=CBC[0].ciphertext, key_id=other.key_id, uid="u")
    refused = refusal(reader.v2, "Decrypt", request)
    assert refused.code == "INVALID_ARGUMENT"
    assert "key_id" in refused.details


def test_only_the_pinned_key_reads_it(start: Callable[..., Kmsd]) -> None:
    """The AES key of another pair, which the HMAC key does not tell apart: what it shows is not zero behind."""
    kmsd = start({**ALLOWED, "KMSD_LEGACY__KEY": "keysealer-cbc"}).wait_ok()
    odd = [vector for vector in CBC if len(vector.plaintext) % 16]
    assert len(odd) == 2
    for vector in odd:
        assert refusal(read, kmsd, vector.ciphertext).code == "INVALID_ARGUMENT"
    assert counted(kmsd) == 0


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KMSD_LEGACY__KEY": "k8s-dek"}, REFUSED),
        ({"KMSD_LEGACY__ALLOW_UNAUTHENTICATED": "true"}, "legacy.key does not say with which key to read"),
        (
            {**ALLOWED, "KMSD_LEGACY__KEY": "gone"},
            "legacy.key must name exactly one key, got 'gone': there is no key 'gone'",
        ),
        ({**ALLOWED, "KMSD_LEGACY__KEY": "k8s-hmac"}, "'k8s-hmac' that legacy.key names cannot read: it is no AES key"),
    ],
    ids=["not allowed", "no key", "a key that is not there", "an HMAC key"],
)
def test_it_is_refused_unless_all_is_said(start: Callable[..., Kmsd], environment: dict[str, str], said: str) -> None:
    kmsd = start(environment).wait_ok()
    for vector in CBC:
        refused = refusal(read, kmsd, vector.ciphertext)
        assert refused.code == "FAILED_PRECONDITION"
        assert said in refused.details
    problems = [problem.message for problem in kmsd.status().problems]
    assert len(problems) == ("KMSD_LEGACY__ALLOW_UNAUTHENTICATED" in environment)
    assert all(said in problem for problem in problems)


@pytest.fixture(scope="module")
def successor(token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """Takes over from KeySealer; nothing is allowed that is not authenticated."""
    with run(tmp_path_factory.mktemp("d"), token, {}, "--p11-hmac-label=keysealer-hmac").start() as kmsd:
        yield kmsd.wait_ok()


@pytest.mark.parametrize("vector", keysealer.VECTORS, ids=lambda vector: f"{vector.key.label}-{len(vector.plaintext)}")
def test_what_keysealer_wrote_is_read(successor: Kmsd, vector: ForeignVector) -> None:
    assert read(successor, vector.ciphertext) == vector.plaintext
    head, _, iv, ciphertext, tag = vector.ciphertext.split(b".")
    flipped = b"B" if ciphertext[:1] != b"B" else b"C"
    altered = b".".join([head, b"", iv, flipped + ciphertext[1:], tag])
    assert refusal(read, successor, altered).code == "INVALID_ARGUMENT"
    assert not successor.status().problems


def test_what_keysealer_wrote_is_not_read_without_its_hmac_key(start: Callable[..., Kmsd]) -> None:
    refused = refusal(read, start({}).wait_ok(), keysealer.VECTORS[0].ciphertext)
    assert refused.code == "FAILED_PRECONDITION"
    assert "--p11-hmac-label" in refused.hint


def test_the_format_of_the_k8s_kms_plugin_is_not_written_by_a_pair(start: Callable[..., Kmsd]) -> None:
    pair = ("--p11-key-label=k8s-dek", "--algorithm=aes-cbc", "--p11-hmac-label=k8s-hmac")
    kmsd = start({"KMSD_KEYS__WRITE_FORMAT": "k8s-kms-plugin"}, *pair)
    said = "keys.write_format k8s-kms-plugin needs an AES-GCM write key"
    wait_for(lambda: said in kmsd.v2("Status").healthz)
    refused = refusal(kmsd.v2, "Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
    assert refused.code == "FAILED_PRECONDITION"
    assert said in refused.details
    assert refused.hint.endswith("set write_format native")
    (problem,) = kmsd.status().problems
    assert (problem.message.startswith(said), problem.fatal) == (True, True)
    # What is there is read all the same.
    assert read(kmsd, GCM[0].ciphertext) == GCM[0].plaintext


GCM_KEYS = {"kek-256": (bytes(range(32)), bytes.fromhex("d73f87d08873be56")), "kek-128": (bytes(16), b"kek1")}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """With the AES-GCM keys of a KeySealer, whose values name them by label."""
    token = make_token(tmp_path_factory.mktemp("t") / "hsm")
    for label, (value, cka_id) in GCM_KEYS.items():
        token.import_aes(label, value, cka_id)
    with run(tmp_path_factory.mktemp("d"), token, {}, "--auto-create").start() as kmsd:
        yield kmsd.wait_ok()


def written(label: str, enc: str, iv: bytes) -> bytes:
    """As KeySealer writes it with aes-gcm."""

    def b64(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = b64(json.dumps({"alg": "dir", "kid": label, "enc": enc}, separators=(",", ":")).encode())
    sealed = AESGCM(GCM_KEYS[label][0]).encrypt(iv, b"a seed", head)
    return b".".join((head, b"", b64(iv), b64(sealed[:-16]), b64(sealed[-16:])))


@pytest.mark.parametrize("iv", [bytes(12), bytes(16)], ids=["iv-12", "iv-16"])
@pytest.mark.parametrize(("label", "enc"), [("kek-256", "A256GCM"), ("kek-128", "A128GCM"), ("kek-128", "A256GCM")])
def test_what_keysealer_stored_through_v2_is_read_under_its_key_id(
    labelled: Kmsd, label: str, enc: str, iv: bytes
) -> None:
    spelled = GCM_KEYS[label][1].hex()
    for key_id in (spelled, spelled.upper(), f"0x{spelled}"):
        request = v2.DecryptRequest(ciphertext=written(label, enc, iv), key_id=key_id, uid="u")
        assert labelled.v2("Decrypt", request).plaintext == b"a seed"
    other = next(cka_id for name, (_, cka_id) in GCM_KEYS.items() if name != label)
    request = v2.DecryptRequest(ciphertext=written(label, enc, iv), key_id=other.hex(), uid="u")
    assert refusal(labelled.v2, "Decrypt", request).code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("vector", keysealer.VECTORS, ids=lambda vector: f"{vector.key.label}-{len(vector.plaintext)}")
def test_its_aes_cbc_is_read_through_v2_under_the_hex_of_its_key_id(successor: Kmsd, vector: ForeignVector) -> None:
    request = v2.DecryptRequest(ciphertext=vector.ciphertext, key_id=vector.key.cka_id.hex(), uid="u")
    assert successor.v2("Decrypt", request).plaintext == vector.plaintext
