"""A real kube-apiserver over an etcd of its own, from the folder that KUBEBUILDER_ASSETS names.

The variable and its folder's layout are the convention of Kubernetes' envtest. Only flags that every release
from 1.29 to 1.36 knows are used. Knows nothing of KMS but that v1 needs its feature gate.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from tests.e2e.apiserver import path_of
from tests.e2e.connection import ProviderError
from tests.e2e.encryption_config import Document, Kms, providers_of_secrets
from tests.e2e.etcd import Etcd
from tests.e2e.kubeconfig import write_kubeconfig
from tests.e2e.program import Program, free_port

STARTING = 90.0
"""Seconds that a kube-apiserver may take on a small machine until it answers."""
SECRETS = "/api/v1/namespaces/default/secrets"


class RealApiServer:
    """signer: socket of the program that signs service account tokens; None: a key file does."""

    signer: Path | None = None

    def __init__(self, home: Path, assets: Path) -> None:
        self._home = home
        self._binary = assets / "kube-apiserver"
        self._etcd = Etcd(home, str(assets / "etcd"))
        self._token = secrets.token_hex(16)
        self._program: Program | None = None
        self._config: Document = {}
        self._port = 0
        write_credentials(home)
        tokens = home / "tokens.csv"
        tokens.touch(0o600)
        tokens.write_text(f'{self._token},tester,tester,"system:masters"\n')
        self._tls = ssl.create_default_context(cafile=home / "tls.crt")

    def start(self, config: Document) -> None:
        self._config = config
        if not self._etcd.running():
            self._etcd.start()
        (self._home / "encryption.yaml").write_text(json.dumps(config))
        self._port = free_port()
        self._program = Program(self._command(config), self._home / "kube-apiserver.log")
        self._program.wait_for(self._answers, seconds=STARTING, what="kube-apiserver answers")

    def stop(self) -> None:
        self._stop_server()
        self._etcd.stop()

    def restart(self, config: Document | None = None) -> None:
        self._stop_server()
        self.start(config or self._config)

    @property
    def kubectl(self) -> list[str]:
        """kubectl as an administrator of this cluster."""
        return [
            "kubectl",
            f"--server=https://127.0.0.1:{self._port}",
            f"--certificate-authority={self._home / 'tls.crt'}",
            f"--token={self._token}",
        ]

    def create_secret(self, name: str, data: Mapping[str, bytes]) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "data": {key: base64.b64encode(raw).decode() for key, raw in data.items()},
        }
        self._must(201, *self._ask("POST", SECRETS, secret))

    def read_secret(self, name: str) -> Mapping[str, bytes]:
        secret = self._must(200, *self._ask("GET", f"{SECRETS}/{name}"))
        return {key: base64.b64decode(text) for key, text in secret["data"].items()}

    def raw_stored(self, name: str) -> bytes:
        raw = self._etcd.get(path_of(name))
        if raw is None:
            raise ProviderError(f'secrets "{name}" not found')
        return raw

    @property
    def etcd_url(self) -> str:
        return self._etcd.url

    def write_kubeconfig(self) -> Path:
        ca = (self._home / "tls.crt").read_bytes()
        return write_kubeconfig(self._home / "kube.conf", self._port, ca, {"token": self._token})

    def readyz(self) -> tuple[bool, str]:
        status, text = self._ask("GET", "/readyz?verbose")
        if status == 200:
            return True, "ok"
        # The sum of all checks withholds the reasons; each check alone gives its own.
        failing = re.findall(r"^\[-\](\S+) failed", text, re.MULTILINE)
        return False, "\n".join(self._ask("GET", f"/readyz/{check}")[1].strip() for check in failing)

    def _command(self, config: Document) -> list[str]:
        home = self._home
        v1 = any(isinstance(given, Kms) and given.api == "v1" for given in providers_of_secrets(config))
        return [
            str(self._binary),
            f"--etcd-servers={self._etcd.url}",
            f"--encryption-provider-config={home / 'encryption.yaml'}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={home}",
            f"--tls-cert-file={home / 'tls.crt'}",
            f"--tls-private-key-file={home / 'tls.key'}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={home / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            *(
                [f"--service-account-signing-endpoint={self.signer}"]
                if self.signer is not None
                else [
                    f"--service-account-key-file={home / 'sa.pub'}",
                    f"--service-account-signing-key-file={home / 'sa.key'}",
                ]
            ),
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            *(["--feature-gates=KMSv1=true"] if v1 else []),
        ]

    def _stop_server(self) -> None:
        if self._program:
            self._program.stop()
            self._program = None

    def _answers(self) -> bool:
        """The namespace `default` is made last of what Secrets need; readyz may well fail by then."""
        try:
            return self._ask("GET", "/api/v1/namespaces/default")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=self._tls)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; returns what the server answers."""
        return self._must(201, *self._ask("POST", path, body))

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON that a path has."""
        return self._must(200, *self._ask("GET", path))

    @staticmethod
    def _must(expected: int, status: int, text: str) -> dict[str, Any]:
        if status != expected:
            raise ProviderError(f"{status}: {text}")
        parsed: dict[str, Any] = json.loads(text)
        return parsed


def write_credentials(home: Path) -> None:
    """tls.crt and tls.key for 127.0.0.1, sa.key and sa.pub for service account tokens; PEM, for one day."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        .add_extension(_key_usage(), True)
        .sign(key, SHA256())
    )
    (home / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    _write_private(home / "tls.key", key)
    account = ec.generate_private_key(ec.SECP256R1())
    _write_private(home / "sa.key", account)
    public = account.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (home / "sa.pub").write_bytes(public)


def _key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
