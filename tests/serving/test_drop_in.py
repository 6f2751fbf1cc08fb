"""The README and the Quick Start of k8s-kms-plugin, walked command by command, with kmsd and under the plugin's name.

Their commands stand here as they are written there; only the PIN of the TPM's token is that of `tests.tpm`. Without a
counterpart are those that install packages, copy softhsm2.conf and change groups (every test has a SoftHSM of its own),
the one that starts K3S (here both KMS APIs are called as kube-apiserver calls them), and those that build, debug and
check the Go program (make gen, dev, build, build-debug, go get, govulncheck).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.formats import jwe
from tests.daemons import KMSCTL, KMSD, Kmsd, wait_for
from tests.rotation.conftest import decrypt, encrypt
from tests.rpc.vectors import GCM, K8S_KMS_PLUGIN_KEYS
from tests.tokens import MODULE, PIN, SoftToken, change_objects
from tests.tpm import TpmToken, make_tpm

NO_TCP = "nothing listens on TCP, though --enable-server (server.enabled) asks for it: --tls-ca is not given"
PROGRAMS = ("kmsd", "k8s-kms-plugin")

MAKE_TOKEN = "softhsm2-util --init-token --slot 0 --label mylabel --so-pin mysopin --pin mypin"
MAKE_KEY = "pkcs11-tool --module $MODULE --token-label mylabel --pin mypin --keygen --key-type aes:16 --label aes0"
QUICK_START = """k8s-kms-plugin serve --socket $SOCKET \\
  --p11-lib $MODULE --p11-label mylabel --p11-pin mypin --p11-key-label aes0 \\
  --enable-server"""
README_SOFTHSM = """k8s-kms-plugin serve \\
  --provider p11 --p11-lib $MODULE --p11-key-label mykey --p11-label mylabel --p11-pin mypin --enable-server"""
README_TPM = """k8s-kms-plugin serve \\
  --provider p11 --p11-lib $MODULE --p11-key-label cbc0 --p11-hmac-label hmac0 --p11-label mylabel --p11-pin mypin \
--algorithm aes-cbc --enable-server"""


def shell(line: str, **variables: object) -> list[str]:
    """Run one of these commands as a person's shell does, with variables that only the shell has."""
    known = "\n".join(f"{name}='{value}'" for name, value in variables.items())
    return ["sh", "-ec", f"{known}\n{line}"]


@dataclass
class Walked(Kmsd):
    """kmsd as one of their commands starts it; what they do not say, the environment does."""

    line: str = ""
    module: str = MODULE

    @property
    def socket(self) -> Path:
        if "$SOCKET" in self.line:
            return self.folder / "k8s-kms-plugin.sock"
        return self.folder / "run" / "hsm-plugin-server.sock" if "k8s-kms-plugin" in self.line else super().socket

    @property
    def arguments(self) -> list[str]:
        path = f"PATH={Path(KMSD).parent}:$PATH"
        return shell(f"{path}; export PATH\nexec {self.line}", MODULE=self.module, SOCKET=self.socket)


def walk(folder: Path, token: SoftToken | TpmToken, line: str, program: str, module: str = MODULE) -> Walked:
    folder.mkdir()
    walked = Walked(
        folder,
        token,  # a TPM's has the shape that Kmsd needs of one
        line=line.replace("k8s-kms-plugin", program),
        module=module,
    )
    walked.environment = {
        "KMSD_CONFIG": "/dev/null",
        "KMSD_ADMIN__SOCKET": str(walked.admin_socket),
        "KMSD_STATE__DIR": str(folder / "state"),
        "KMSD_KEYS__REFRESH": "0.3",
        "KMSD_LOG__FORMAT": "json",
        "TMPDIR": str(folder),
    }
    if program == "kmsd":
        walked.environment["KMSD_KMS__SOCKET"] = str(walked.socket)
    return walked.start()


def serves_both(kmsd: Kmsd, enc: str) -> None:
    sealed = encrypt(kmsd.wait_ok(), b"seed")
    assert (jwe.parse(sealed.ciphertext).enc, sealed.key_id) == (enc, kmsd.v2("Status").key_id)
    assert decrypt(kmsd, sealed) == b"seed"
    cipher = kmsd.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=b"ping")).cipher
    assert kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=cipher)).plain == b"ping"


def names_what_tcp_lacks(kmsd: Kmsd) -> None:
    """In status and log, and it keeps nobody from being served."""
    status = kmsd.status()
    assert status.state == admin.SERVING_STATE_DEGRADED
    assert [each.fatal for each in status.problems if each.message.startswith(NO_TCP)] == [False]
    assert not any(each.fatal for each in status.problems)
    assert [line["level"] for line in kmsd.log_lines() if line["event"].startswith(NO_TCP)] == ["warning"]


def doctor_names_what_tcp_lacks(kmsd: Kmsd) -> None:
    (check,) = [each for each in kmsd.admin("Diagnose", timeout=60.0).checks if each.name == "tcp"]
    assert (check.outcome, check.seen.startswith(NO_TCP)) == ("warning", True)


@pytest.fixture
def softhsm(short_tmp: Path) -> SoftToken:
    """A SoftHSM with the token of the Quick Start."""
    token = SoftToken(short_tmp / "hsm", "mylabel")
    token.tokens.mkdir(parents=True)
    token.conf.write_text(f"directories.tokendir = {token.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    run(token, MAKE_TOKEN)
    return token


def run(token: SoftToken, line: str) -> None:
    subprocess.run(shell(line, MODULE=MODULE), env=token.environment, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_quick_start(softhsm: SoftToken, short_tmp: Path, program: str) -> None:
    """A private key, which pkcs11-tool makes if asked to, needs nothing more."""
    run(softhsm, f"{MAKE_KEY} --private")
    with walk(short_tmp / "d", softhsm, QUICK_START, program) as kmsd:
        serves_both(kmsd, "A128GCM")
        names_what_tcp_lacks(kmsd)
        doctor_names_what_tcp_lacks(kmsd)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_quick_start_with_a_public_key(softhsm: SoftToken, short_tmp: Path, program: str) -> None:
    """The pkcs11-tool of OpenSC 0.23 makes one: kmsd starts, says why it does not use it, and what to do."""
    run(softhsm, MAKE_KEY)
    with walk(short_tmp / "d", softhsm, QUICK_START, program) as kmsd:
        if is_public(softhsm, "aes0"):
            hint = "kmsctl keys adopt aes0 --public"
            wait_for(lambda: any("but a public object" in p.message and hint in p.hint for p in kmsd.status().problems))
            adopt = [KMSCTL, "--target", str(kmsd.admin_socket), *hint.split()[1:]]
            subprocess.run(adopt, check=True, capture_output=True, timeout=60)
        serves_both(kmsd, "A128GCM")
        names_what_tcp_lacks(kmsd)


def is_public(token: SoftToken, label: str) -> bool:
    """Whether it is seen without a PIN."""
    argv = ["pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--list-objects"]
    return label in subprocess.run(argv, env=token.environment, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_readme_on_softhsm_and_what_the_plugin_wrote(softhsm: SoftToken, short_tmp: Path, program: str) -> None:
    run(softhsm, MAKE_KEY.replace("aes0", "mykey") + " --private")
    import_k8s_kms_plugin_keys(softhsm)
    with walk(short_tmp / "d", softhsm, README_SOFTHSM, program) as kmsd:
        serves_both(kmsd, "A128GCM")
        names_what_tcp_lacks(kmsd)
        assert all(read(kmsd, vector.ciphertext) == vector.plaintext for vector in GCM)


def test_under_the_plugins_name_its_defaults_hold(softhsm: SoftToken, short_tmp: Path) -> None:
    """The key that it wrote its values with, and its socket, which no flag names."""
    import_k8s_kms_plugin_keys(softhsm)
    line = "k8s-kms-plugin serve --p11-lib $MODULE --p11-label mylabel --p11-pin mypin"
    with walk(short_tmp / "d", softhsm, line, "k8s-kms-plugin") as kmsd:
        serves_both(kmsd, "A256GCM")
        assert kmsd.status().write_label == "k8s-dek"
        assert all(read(kmsd, vector.ciphertext) == vector.plaintext for vector in GCM)


def import_k8s_kms_plugin_keys(token: SoftToken) -> None:
    change_objects(MODULE, token.label, token.environment, [key.step for key in K8S_KMS_PLUGIN_KEYS], pin="mypin")


def read(kmsd: Kmsd, cipher: bytes) -> bytes:
    plain: bytes = kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=cipher)).plain
    return plain


@pytest.fixture
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmToken]:
    made = make_tpm(tmp_path_factory.mktemp("t") / "tpm", "mylabel", managed=True)
    yield made
    made.stop()


@pytest.mark.parametrize(("program", "cka_id"), [("kmsd", None), ("k8s-kms-plugin", "")])
def test_the_readme_on_a_tpm(tpm: TpmToken, short_tmp: Path, program: str, cka_id: str | None) -> None:
    """Its two keys, as tpm2_ptool makes them: with ids of their own, or with none if it is told so."""
    for label, algorithm in (("cbc0", "aes256"), ("hmac0", "hmac:sha256")):
        addkey = ("tpm2_ptool", "addkey", f"--algorithm={algorithm}", "--label=mylabel", f"--userpin={PIN}")
        tpm.tool(*addkey, f"--key-label={label}", *([] if cka_id is None else [f"--id={cka_id}"]))
    with walk(short_tmp / "d", tpm, README_TPM.replace("mypin", PIN), program, tpm.module) as kmsd:
        serves_both(kmsd, "A256CBC-HS256")
        names_what_tcp_lacks(kmsd)
