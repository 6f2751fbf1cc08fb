"""What `kmsctl migrate plan` prints, put to use: kmsd with that configuration reads what k8s-kms-plugin wrote."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.formats.ciphertext import CiphertextFormat, KeyName, identify
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd
from tests.etcd import values
from tests.rpc.vectors import CBC, GCM, K8S_KMS_PLUGIN_KEYS, Vector
from tests.tokens import MODULE, SoftToken, make_token

SEED = bytes(range(32))


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """The token that k8s-kms-plugin used."""
    token = make_token(tmp_path_factory.mktemp("p") / "hsm", "plugins")
    token.objects(*(key.step for key in K8S_KMS_PLUGIN_KEYS))
    return token


def _config(token: SoftToken, algorithm: str) -> str:
    command = (
        f"P11_PIN_FILE={token.pin_file} k8s-kms-plugin serve --provider p11 --p11-lib {MODULE} "
        f"--p11-label plugins --p11-key-label k8s-dek --algorithm {algorithm} --enable-server"
    )
    argv = [KMSCTL, "migrate", "plan", "--command", command, "--only", "config"]
    done = forkserver.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return str(done.stdout)


@contextmanager
def _serving(folder: Path, token: SoftToken, config: str) -> Iterator[Kmsd]:
    folder.mkdir()
    path = folder / "kmsd.toml"
    path.write_text(config)
    with Kmsd(folder, token, [f"--config={path}"], default_flags=False).start() as kmsd:
        # The plan has this step for aes-cbc; with aes-gcm the key is there.
        kmsd.keygen(tomllib.loads(config)["keys"]["label"], if_not_exists=True)
        yield kmsd.wait_ok()


def _reads(kmsd: Kmsd, vector: Vector) -> bool:
    answer = kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=vector.ciphertext))
    return bool(answer.plain == vector.plaintext)


def _written(kmsd: Kmsd) -> bytes:
    ciphertext: bytes = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=SEED)).ciphertext
    return ciphertext


def test_of_aes_gcm_all_is_read_and_both_formats_can_be_written(tmp_path: Path, plugins: SoftToken) -> None:
    config = _config(plugins, "aes-gcm")
    with _serving(tmp_path / "a", plugins, config) as kmsd:
        assert all(_reads(kmsd, vector) for vector in GCM if vector.key_label == "k8s-dek")
        assert identify(_written(kmsd)).format is CiphertextFormat.NATIVE
    back = config.replace("[keys]\n", '[keys]\nwrite_format = "k8s-kms-plugin"\n')
    with _serving(tmp_path / "b", plugins, back) as kmsd:
        written = identify(_written(kmsd))
    assert (written.format, written.key) == (CiphertextFormat.K8S_KMS_PLUGIN_GCM, KeyName("k8s-dek", by_label=True))


@pytest.mark.parametrize("algorithm", ["auto", "aes-cbc"])
def test_of_aes_cbc_all_is_read_and_what_is_written_is_native(
    tmp_path: Path, plugins: SoftToken, algorithm: str
) -> None:
    """aes-cbc: as on a token without AES-GCM, which is why the plugin was set up so."""
    config = _config(plugins, "aes-cbc").replace('algorithm = "auto"', f'algorithm = "{algorithm}"')
    assert f'algorithm = "{algorithm}"' in config
    with _serving(tmp_path / "a", plugins, config) as kmsd:
        assert CBC
        assert all(_reads(kmsd, vector) for vector in CBC)
        written = identify(_written(kmsd))
        assert (written.format, written.key) == (CiphertextFormat.NATIVE, KeyName(kmsd.status().write_key.key_id))
        assert kmsd.status().write_key.label == "k8s-kek"
        assert any("nothing protects" in problem.message for problem in kmsd.status().problems)


@pytest.mark.parametrize(
    ("legacy", "readable", "why"),
    [
        ('allow_unauthenticated = true\nkey = "k8s-dek"', True, ""),
        ("allow_unauthenticated = false", False, "it is not read"),
        ("allow_unauthenticated = true", False, "legacy.key does not say with which key to read"),
        ('allow_unauthenticated = true\nkey = "gone"', False, "legacy.key must name exactly one key, got 'gone'"),
    ],
)
def test_what_authenticates_nothing_is_called_readable_where_kmsd_reads_it_and_nowhere_else(
    tmp_path: Path, plugins: SoftToken, legacy: str, readable: bool, why: str
) -> None:
    config = _config(plugins, "aes-cbc").partition("[legacy]")[0] + f"[legacy]\n{legacy}\n"
    with _serving(tmp_path / "a", plugins, config) as kmsd:
        old = next(key.key_id for key in K8S_KMS_PLUGIN_KEYS if key.label == "k8s-dek")
        for vector in CBC:
            for value in (vector.ciphertext, values.v1(vector.ciphertext), values.v2(old, vector.ciphertext)):
                found = kmsd.admin("InspectCiphertext", admin.InspectCiphertextRequest(data=value))
                assert found.readable is readable
                assert why in "; ".join(each.message for each in found.findings)
            assert _is_read(kmsd, vector) is readable
        mixed = values.v2("another-key", CBC[0].ciphertext)
        assert not kmsd.admin("InspectCiphertext", admin.InspectCiphertextRequest(data=mixed)).readable


def _is_read(kmsd: Kmsd, vector: Vector) -> bool:
    try:
        return _reads(kmsd, vector)
    except grpc.RpcError:
        return False
