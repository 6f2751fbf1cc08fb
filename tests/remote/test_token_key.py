"""A proxy whose TLS key is on a token serves, and says what is wrong with key, token and certificate."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.keys import CURVES
from kmsd.hsm.host.session import TokenSession
from tests import forkserver, tpm
from tests.daemons import KMSCTL, KMSD, Kmsd, wait_for
from tests.hsm.inside import Inside
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, Manager, decrypt, well
from tests.tokens import MODULE, PIN, SoftToken, Token, make_token

PAGE = (Path(__file__).parents[2] / "docs" / "remote.md").read_text()


@dataclass
class KeyToken:
    """A token with key pairs, made as any program makes them."""

    token: SoftToken

    def make(
        self, label: str, kind: str, cka_id: str = "", usage: str = "sign"
    ) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
        """Make a key pair with pkcs11-tool, and return its public key. kind: as pkcs11-tool calls it."""
        named = ("--id", cka_id) if cka_id else ()
        self._tool("--keypairgen", "--key-type", kind, "--usage-sign", "--label", label, *named)
        if kind.startswith("EC:"):
            return self.public_ec(label, ec.SECP256R1() if kind == "EC:prime256v1" else ec.SECP384R1())
        public = serialization.load_der_public_key(self._tool("--read-object", "--type", "pubkey", "--label", label))
        assert isinstance(public, rsa.RSAPublicKey)
        return public

    def destroy(self, label: str) -> None:
        """Destroy one key pair."""
        for kind in ("privkey", "pubkey"):
            self._tool("--delete-object", "--type", kind, "--label", label)

    def change_pin(self, pin: str) -> None:
        self._tool("--change-pin", "--new-pin", pin)

    def _tool(self, *command: str) -> bytes:
        login = ("--token-label", self.token.label, "--login", "--pin", PIN)
        done = subprocess.run(
            ("pkcs11-tool", "--module", MODULE, *login, *command),
            env=self.token.environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def public_ec(self, label: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePublicKey:
        shown = self._tool("--list-objects", "--type", "pubkey").decode()
        found = re.search(rf"EC_POINT: +([0-9a-f]+)\n.*\n +label: +{label}\n", shown)
        assert found is not None, shown
        point = bytes.fromhex(found[1])[-(1 + curve.key_size // 4) :]
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)

    def uri(self, label: str = "node", pin: Path | None = None, **more: str) -> str:
        path = "".join(f";{name}={value}" for name, value in more.items())
        pin = pin or self.token.pin_file
        return f"pkcs11:token={self.token.label};object={label}{path}?module-path={MODULE}&pin-source=file:{pin}"


@pytest.fixture
def keys(short_tmp: Path) -> KeyToken:
    return KeyToken(make_token(short_tmp / "node", "node-token"))


@pytest.fixture
def start(start_kmsd: Callable[..., Kmsd], ca: Authority, keys: KeyToken) -> Callable[..., Kmsd]:
    """Starts a proxy with a certificate and the URI of its key."""

    def make(
        manager: Manager, certificate: Path, uri: str, *, est: str = "", of: Token = keys.token, **fields: Any
    ) -> Kmsd:
        environment = {**of.environment, "KMSD_HEALTH__INTERVAL": "0.5"}
        return start_kmsd(
            f"--upstream=127.0.0.1:{manager.port}", f"--tls-ca={ca.file}", f"--tls-certificate={certificate}",
            f"--tls-key={uri}", name="p", command=(KMSD, "proxy"), default_flags=False,
            environment={**environment, **({"KMSD_PROXY__EST_SERVER": est} if est else {})}, **fields,
        )  # fmt: skip

    return make


def certified(ca: Authority, public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, name: str = "node") -> Path:
    """A certificate of cluster-a for this key, without a file for the key."""
    issued = ca.issue(name, "DNS:cp-1.cluster-a.test", public=public)
    issued.key.unlink()
    return issued.certificate


@pytest.mark.parametrize("kind", ["EC:prime256v1", "EC:secp384r1", "rsa:2048"])
def test_a_proxy_serves_with_a_key_on_a_token(
    kind: str, manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    proxy = well(start(manager, certified(ca, keys.make("node", kind)), keys.uri()))
    sealed = proxy.v2("Encrypt", SEED)
    assert decrypt(proxy, sealed) == SEED.plaintext


@pytest.mark.parametrize(
    ("empty", "told"),
    [(True, "there is no token labelled 'node-token'"), (False, "token 'node-token': PKCS#11 module")],
)
def test_a_token_that_goes_away_and_comes_back(
    empty: bool, told: str, manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    """Connections that stand need no signature; a new one fails with a sentence that names the token, until that is
    back."""
    proxy = well(start(manager, certified(ca, keys.make("node", "EC:prime256v1")), keys.uri()))
    sealed = proxy.v2("Encrypt", SEED)
    with keys.token.away(empty=empty):
        assert decrypt(proxy, sealed) == SEED.plaintext
        reload(proxy)
        wait_for(lambda: told in (said := proxy.v2("Status").healthz) and "cannot be reached: " in said)
        assert any(told in each["message"] for each in kmsctl(proxy, "status")["problems"])
    well(proxy)
    assert decrypt(proxy, sealed) == SEED.plaintext
    assert PIN not in proxy.log_text()


def test_a_key_manager_that_restarts_is_reached_again(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    proxy = well(start(manager, certified(ca, keys.make("node", "EC:prime256v1")), keys.uri()))
    sealed = proxy.v2("Encrypt", SEED)
    manager.kmsd.stop()
    wait_for(lambda: proxy.v2("Status").healthz != "ok")
    manager.kmsd.start()
    well(proxy)
    assert decrypt(proxy, sealed) == SEED.plaintext


def test_a_token_that_hangs_holds_up_nothing_else(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    proxy = well(start(manager, certified(ca, keys.make("node", "EC:prime256v1")), keys.uri()))
    with keys.token.hanging():
        reload(proxy)
        wait_for(lambda: proxy.v2("Status").healthz != "ok")
        for _ in range(20):
            began = time.monotonic()
            assert kmsctl(proxy, "config", "view")
            assert time.monotonic() - began < 2
        wait_for(lambda: "'node-token'" in proxy.v2("Status").healthz, timeout=30)
    well(proxy)


def test_the_process_of_the_module_is_replaced_when_it_dies(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    proxy = well(start(manager, certified(ca, keys.make("node", "EC:prime256v1")), keys.uri()))
    (host,) = proxy.hosts()
    os.kill(host, signal.SIGKILL)
    wait_for(lambda: proxy.hosts() not in ([], [host]))
    reload(proxy)
    well(proxy)


def test_a_certificate_is_renewed_on_disk_and_one_for_another_key_is_not_taken(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    public = keys.make("node", "EC:prime256v1")
    certificate = certified(ca, public)
    proxy = well(start(manager, certificate, keys.uri()))
    first = kmsctl(proxy, "status")["certificate"]
    assert first["key_uri"] == "pkcs11:token=node-token;object=node"
    argv = [KMSCTL, "status", f"--target={proxy.admin_socket}"]
    shown = forkserver.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "its key is pkcs11:token=node-token;object=node" in shown
    certified(ca, public)
    second = wait_for(lambda: now if (now := kmsctl(proxy, "status")["certificate"]) != first else None)
    well(proxy)
    certified(ca, ec.generate_private_key(ec.SECP256R1()).public_key())
    wrong = "the key labelled 'node' on token 'node-token' is not the key of the certificate"
    wait_for(lambda: any(wrong in each["message"] for each in kmsctl(proxy, "status")["problems"]))
    assert kmsctl(proxy, "status")["certificate"] == second
    reload(proxy)
    well(proxy)


def test_doctor_has_the_key_sign(manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]) -> None:
    proxy = well(start(manager, certified(ca, keys.make("node", "EC:prime256v1")), keys.uri()))
    found = {each["name"]: each for each in kmsctl(proxy, "doctor")["checks"]}
    assert {each["outcome"] for each in found.values()} == {"ok"}
    assert "pkcs11:token=node-token;object=node signs for the certificate" in found["key"]["seen"]
    assert "no handshake was tried" in found["tls"]["seen"]
    assert "tenant cluster-a" in found["tenant"]["seen"]
    keys.destroy("node")
    found = {each["name"]: each for each in kmsctl(proxy, "doctor")["checks"]}
    assert found["key"]["outcome"] == "failed"
    assert "there is no private key labelled 'node' on token 'node-token'" in found["key"]["seen"]


def test_no_est_server_beside_a_key_that_is_named_for_good(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd]
) -> None:
    certificate = certified(ca, keys.make("node", "EC:prime256v1", "01"))
    proxy = start(manager, certificate, keys.uri(id="%01"), wait=False, est="https://127.0.0.1:9")
    assert proxy.process is not None
    assert proxy.process.wait(20) == 2
    assert "name it by object= alone, without id=" in proxy.log_text()


def test_a_wrong_pin_is_tried_once_and_told(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd], short_tmp: Path
) -> None:
    pin = pin_file(short_tmp, "not-the-pin")
    certificate = certified(ca, keys.make("node", "EC:prime256v1"))
    before = keys.token.logins()
    proxy = start(manager, certificate, keys.uri(pin=pin))
    told = wait_for(lambda: said if "refused the PIN" in (said := proxy.v2("Status").healthz) else "")
    assert f"correct the PIN in {pin}" in told
    for _ in range(3):
        reload(proxy)
    assert keys.token.logins() == before + 1
    assert "not-the-pin" not in proxy.log_text()
    pin.write_text(PIN + "\n")
    reload(proxy)
    well(proxy)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("key", "there is no private key labelled 'other' on token 'node-token'"),
        ("certificate", "is not the key of the certificate"),
        ("kind", "is no EC key, and that of the certificate is one"),
        ("two", "2 private keys labelled 'node' are on token 'node-token'"),
        ("ca", "signs for kmsd itself, certificates or service account tokens"),
        ("usage", "CKR_KEY_FUNCTION_NOT_PERMITTED"),
        ("token", "there is no token labelled 'elsewhere'"),
        ("world", "may be read by every user of this machine"),
        ("no file", "no such file or directory"),
    ],
)
def test_what_is_wrong_is_told_and_heals(
    wrong: str, told: str, manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd], short_tmp: Path
) -> None:
    uri, pin = keys.uri("other" if wrong == "key" else "node"), pin_file(short_tmp, PIN)
    public = keys.make("node", "rsa:2048" if wrong == "kind" else "EC:prime256v1")
    certificate = certified(ca, public)
    match wrong:
        case "certificate" | "kind":
            certificate = certified(ca, ec.generate_private_key(ec.SECP256R1()).public_key())
        case "two":
            keys.make("node", "EC:prime256v1")
        case "ca":
            cka_id = b"ca.019abcde-0000-7000-8000-000000000001"
            certificate = certified(ca, keys.make("ca", "EC:prime256v1", cka_id.hex()))
            uri = keys.uri("ca")
        case "usage":
            with Inside(keys.token, MODULE) as inside:
                inside.run(make_without_sign, b"derives")
            certificate = certified(ca, keys.public_ec("derives", ec.SECP256R1()))
            uri = keys.uri("derives")
        case "token":
            uri = uri.replace("node-token", "elsewhere")
        case "world":
            pin.chmod(0o644)
            uri = keys.uri(pin=pin)
        case "no file":
            uri = keys.uri(pin=short_tmp / "nothing")
    proxy = start(manager, certificate, uri)
    wait_for(lambda: told in proxy.v2("Status").healthz)
    problems = [each for each in kmsctl(proxy, "status")["problems"] if told in each["message"]]
    assert problems
    assert not any("p11-" in each["hint"] or "kmsctl keygen" in each["hint"] for each in problems)
    match wrong:
        case "key":
            certified(ca, keys.make("other", "EC:prime256v1"))
        case "certificate":
            certified(ca, public)
        case "two":
            keys.destroy("node")
            keys.destroy("node")
            certified(ca, keys.make("node", "EC:prime256v1"))
        case "token":
            keys.token.init_token("elsewhere")
            elsewhere = KeyToken(SoftToken(keys.token.folder, "elsewhere"))
            certified(ca, elsewhere.make("node", "EC:prime256v1"))
        case "world":
            pin.chmod(0o600)
            reload(proxy)
        case "no file":
            pin.rename(short_tmp / "nothing")
        case "kind" | "ca" | "usage":
            return  # nothing that is put right on the token alone
    well(proxy)


def make_without_sign(session: TokenSession, label: bytes) -> None:
    """Make an EC key pair that may not sign."""
    both: c.Template = {c.CKA_TOKEN: True, c.CKA_LABEL: label}
    secret: c.Template = {c.CKA_PRIVATE: True, c.CKA_SENSITIVE: True, c.CKA_SIGN: False, c.CKA_DERIVE: True}
    calls.generate_key_pair(
        session.cryptoki.table,
        session.handle,
        c.CKM_EC_KEY_PAIR_GEN,
        {**both, c.CKA_EC_PARAMS: CURVES[256]},
        {**both, **secret},
    )


def pin_file(folder: Path, pin: str) -> Path:
    path = folder / "node-pin"
    path.touch(0o600)
    path.write_text(pin + "\n")
    return path


def kmsctl(proxy: Kmsd, *words: str) -> Any:
    """What kmsctl prints of this proxy, as JSON."""
    argv = [KMSCTL, *words, "-o", "json", f"--target={proxy.admin_socket}"]
    return json.loads(forkserver.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout)


def reload(proxy: Kmsd) -> None:
    """SIGHUP, obeyed."""
    before = proxy.log_text().count("configuration read again")
    assert proxy.process is not None
    os.kill(proxy.process.pid, signal.SIGHUP)
    wait_for(lambda: proxy.log_text().count("configuration read again") > before)


def test_a_pin_that_is_right_after_all_is_tried_at_an_operators_word(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd], short_tmp: Path
) -> None:
    pin = pin_file(short_tmp, "another")
    proxy = start(manager, certified(ca, keys.make("node", "EC:prime256v1")), keys.uri(pin=pin))
    wait_for(lambda: "refused the PIN" in proxy.v2("Status").healthz)
    keys.change_pin("another")
    reload(proxy)
    assert "refused the PIN" in proxy.v2("Status").healthz
    assert kmsctl(proxy, "unlock")["logged_in"] is True
    well(proxy)


def test_the_certificate_is_issued_for_the_public_key_as_the_page_says(
    manager: Manager, ca: Authority, keys: KeyToken, start: Callable[..., Kmsd], short_tmp: Path
) -> None:
    """The commands of docs/remote.md, with paths of this test."""
    issued = ca.issue("page", "DNS:cp-9.cluster-a.test")
    for name, data in (("ca.crt", ca.file.read_bytes()), ("ca.key", ca.key_pem())):
        (short_tmp / name).write_bytes(data)
    issue = re.search(r"^cat > issue <<'END'\n(.*?)^END$", PAGE, re.MULTILINE | re.DOTALL)
    assert issue is not None
    (short_tmp / "issue").write_text(issue[1])
    section = PAGE[PAGE.index("### The proxy's key on a token") :]
    for block in re.findall(r"^```sh\n# on .*?\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[:2]:
        words = block.replace("/usr/lib/softhsm/libsofthsm2.so", MODULE).replace(
            "--token-label node", "--token-label node-token"
        )
        words = words.replace("--login", f"--login --pin {PIN}")
        done = subprocess.run(
            ["sh", "-euc", words],
            cwd=short_tmp,
            env=keys.token.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    issued.certificate.write_bytes((short_tmp / "cp-1.crt").read_bytes())
    assert not (short_tmp / "cp-1.key").exists()
    well(start(manager, issued.certificate, keys.uri("kmsd-proxy", id="%01")))


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_a_key_on_a_tpm(
    kind: str, manager: Manager, ca: Authority, start: Callable[..., Kmsd], short_tmp: Path
) -> None:
    token = tpm.make_tpm(short_tmp / "tpm", "node-tpm")
    try:
        token.add_key("node", kind, "1234")
        out = short_tmp / "public"
        login = ("--token-label", token.label, "--login", "--pin", PIN)
        read = ("--read-object", "--type", "pubkey", "--label", "node", "-o", str(out))
        token.tool("pkcs11-tool", "--module", tpm.MODULE, *login, *read)
        public = serialization.load_der_public_key(out.read_bytes())
        assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        uri = f"pkcs11:token=node-tpm;object=node?module-path={tpm.MODULE}&pin-source=file:{token.pin_file}"
        proxy = well(start(manager, certified(ca, public), uri, of=token))
        sealed = proxy.v2("Encrypt", SEED)
        with token.away():
            assert decrypt(proxy, sealed) == SEED.plaintext
            reload(proxy)
            wait_for(lambda: "'node-tpm'" in proxy.v2("Status").healthz, timeout=40)
        wait_for(lambda: proxy.v2("Status").healthz == "ok", timeout=60)
        assert decrypt(proxy, sealed) == SEED.plaintext
    finally:
        token.stop()
