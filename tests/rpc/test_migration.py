"""What `kmsctl migrate plan` prints, put to use: kmsd with that configuration reads what k8s-kms-plugin wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.etcd.sealed import Format, KeyName, identify
from tests.daemons import KMSCTL, Kmsd
from tests.rpc.vectors import ANCESTOR_KEYS, CBC, GCM, Vector
from tests.tokens import MODULE, SoftToken, make_token

SEED = bytes(range(32))


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """The token that k8s-kms-plugin used."""
    token = make_token(tmp_path_factory.mktemp("p") / "hsm", "plugins")
    token.objects(*(key.step for key in ANCESTOR_KEYS))
    return token


def _config(token: SoftToken, algorithm: str) -> str:
    command = (
        f"P11_PIN_FILE={token.pin_file} k8s-kms-plugin serve --provider p11 --p11-lib {MODULE} "
        f"--p11-label plugins --p11-key-label k8s-dek --algorithm {algorithm} --enable-server"
    )
    argv = [KMSCTL, "migrate", "plan", "--command", command, "--only", "config"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


@contextmanager
def _serving(folder: Path, token: SoftToken, config: str) -> Iterator[Kmsd]:
    folder.mkdir()
    path = folder / "kmsd.toml"
    path.write_text(config)
    with Kmsd(folder, token, [f"--config={path}"], default_flags=False).start().wait_ok() as kmsd:
        yield kmsd


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
        assert identify(_written(kmsd)).format is Format.NATIVE
    back = config.replace("[keys]\n", '[keys]\nwrite_format = "k8s-kms-plugin"\n')
    with _serving(tmp_path / "b", plugins, back) as kmsd:
        written = identify(_written(kmsd))
    assert (written.format, written.key) == (Format.ANCESTOR_GCM, KeyName("k8s-dek", by_label=True))


def test_of_aes_cbc_all_is_read_and_what_is_written_is_native(tmp_path: Path, plugins: SoftToken) -> None:
    with _serving(tmp_path / "a", plugins, _config(plugins, "aes-cbc")) as kmsd:
        assert CBC
        assert all(_reads(kmsd, vector) for vector in CBC)
        assert identify(_written(kmsd)).format is Format.NATIVE
        assert any("nothing protects" in problem.message for problem in kmsd.status().problems)
