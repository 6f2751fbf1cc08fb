"""kmsctl k8s apply-patch --jwt-socket, and k8s check of a signing endpoint: no token that is out is refused for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.jwt.public_key import verifying
from tests.ctl.conftest import Run
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import ISSUER, settings, socket_of
from tests.pages import ROOT, blocks
from tests.strangers import UID, needs_root, open_folder
from tests.tokens import make_token

MANIFEST = Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml"
KEY_FILE = "    - --service-account-key-file=/etc/kubernetes/pki/sa.pub\n"
FLAGS = ["--service-account-signing-key-file=sa.key", "--service-account-key-file=sa.pub"]


@pytest.fixture(scope="module")
def kmsd() -> Iterator[Kmsd]:
    """A kmsd that encrypts, and signs service account tokens; others may enter its folder."""
    with open_folder() as folder:
        running = Kmsd(folder, make_token(folder / "hsm"), ("--auto-create",), settings(folder, issuers=ISSUER))
        with running.start().wait_ok():
            request = admin.GenerateKeyRequest(label="sa-signer", type=admin.KEY_TYPE_EC, purpose="jwt")
            running.admin("GenerateKey", request)
            wait_for(lambda: running.admin("GetJwt").state == "ready")
            yield running


class Node:
    """A control-plane node whose kube-apiserver has files of keys, and a kmsd beside it."""

    def __init__(self, folder: Path, kmsd: Kmsd, run: Run) -> None:
        self.kmsd, self.run, self.jwt = kmsd, run, socket_of(kmsd)
        self.pki, self.manifest = folder / "pki", folder / "manifests" / "kube-apiserver.yaml"
        self.pki.mkdir()
        self.manifest.parent.mkdir()
        config = folder / "encryption-config.yaml"
        config.write_bytes(run("k8s", "manifest", "encryption-config", "--socket", str(kmsd.socket)).out)
        config.chmod(0o600)
        backups = str(folder / "backups")
        self.paths = ["--config", str(config), "--socket", str(kmsd.socket), "--backup-dir", backups]
        self.has(*FLAGS)

    def has(self, *flags: str) -> str:
        """Have kube-apiserver started with these flags, whose files are in the folder of keys. Return the manifest."""
        lines = "".join(f"    - {each.replace('-file=', f'-file={self.pki}/')}\n" for each in flags)
        text = MANIFEST.read_text().replace(KEY_FILE, lines).replace("/etc/kubernetes/pki", str(self.pki))
        self.manifest.write_text(text)
        return text

    def key(self, name: str, private: Any = None) -> str:
        """Write a key pair into NAME.key and NAME.pub, and return its kid."""
        private = private or ec.generate_private_key(ec.SECP256R1())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (self.pki / f"{name}.key").write_bytes(pem)
        (self.pki / f"{name}.pub").write_bytes(
            private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        return verifying(private.public_key()).kid

    def patch(self, *argv: str, code: int = 0, socket: Path | None = None) -> str:
        """What it says on stdout and stderr."""
        words = ("k8s", "apply-patch", str(self.manifest), *self.paths, "--jwt-socket", str(socket or self.jwt), *argv)
        result = self.run(*words)
        assert result.code == code, result.err
        return result.text + result.err

    def refused(self, code: int = 2, socket: Path | None = None) -> str:
        """What it says with --write, which writes nothing."""
        before = self.manifest.read_bytes()
        said = self.patch("--write", code=code, socket=socket)
        assert self.manifest.read_bytes() == before
        assert "hint: " in said
        return said

    def trust(self, name: str) -> None:
        """Type what a refusal says to type."""
        words = ("jwt", "trust", "--pem", str(self.pki / f"{name}.pub"), "--target", str(self.kmsd.admin_socket))
        assert self.run(*words).code == 0

    def check(self, *argv: str, code: int = 0) -> dict[str, Any]:
        """The checks of the signing endpoint by their names."""
        words = ("k8s", "check", "--manifest", str(self.manifest), *argv, "-o", "json", "--timeout", "5s")
        result = self.run(*words)
        assert result.code == code, result.text + result.err
        checks = json.loads(result.out)["checks"]
        assert all((each["fix"] is None) <= (each["outcome"] == "ok") for each in checks)
        return {each["name"].removeprefix("jwt-"): each for each in checks if each["name"].startswith("jwt-")}


@pytest.fixture
def node(tmp_path: Path, kmsd: Kmsd, run: Run) -> Node:
    return Node(tmp_path, kmsd, run)


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {name: each["outcome"] for name, each in found.items()}


def test_it_writes_once_the_key_of_the_files_is_published(node: Node) -> None:
    kid = node.key("sa")
    before = node.manifest.read_text()
    said = node.refused()
    assert f"keys in {node.pki}/sa.pub would be refused, for {node.jwt} does not publish them: {kid}\n" in said
    ways = f"kmsctl jwt import --pem {node.pki}/sa.key, or kmsctl jwt trust --pem {node.pki}/sa.pub"
    assert ways in said
    shown = node.patch()
    assert f"warning: tokens of these keys in {node.pki}/sa.pub would be refused" in shown
    assert f"-    - --service-account-key-file={node.pki}/sa.pub\n" in shown
    assert node.manifest.read_text() == before

    node.trust("sa")
    assert "warning" not in node.patch()
    assert "FETCHED BY" in node.patch("--write")
    after = node.manifest.read_text()
    assert "service-account-key-file" not in after
    assert "service-account-signing-key-file" not in after
    assert f"    - --service-account-signing-endpoint={node.jwt}\n" in after
    assert "has all of it already" in node.patch("--write")
    assert node.manifest.read_text() == after
    assert node.kmsd.admin("GetJwt").fetchers == [], "kmsctl is taken for a kube-apiserver"
    found = node.check()
    assert outcomes(found) == dict.fromkeys(("flags", "mount", "socket", "keys", "expiration"), "ok")
    assert found["expiration"]["seen"] == "86400 s"


def test_the_step_of_the_page_is_typed_as_it_stands(node: Node) -> None:
    node.key("sa")
    node.trust("sa")
    (block,) = [
        each for each in blocks(ROOT / "docs" / "service-accounts.md") if each.run == "tests/ctl/test_k8s_jwt.py"
    ]
    for line in block.text.replace("/run/kmsd-jwt/jwt.sock", str(node.jwt)).splitlines():
        program, *words = shlex.split(line)
        own = [str(node.manifest), *node.paths] if "apply-patch" in words else ["--manifest", str(node.manifest)]
        result = node.run(*words, *own)
        assert (program, result.code) == ("kmsctl", 0), result.err
    assert "published keys" in result.text


def test_the_file_of_the_key_that_signs_counts_if_it_is_the_only_one(node: Node) -> None:
    kid = node.key("sa", rsa.generate_private_key(65537, 2048))
    node.has(FLAGS[0])
    said = node.refused()
    assert f"in {node.pki}/sa.key would be refused, for {node.jwt} does not publish them: {kid}\n" in said
    assert f"kmsctl jwt import --pem {node.pki}/sa.key: docs" in said
    assert "jwt trust" not in said


def test_every_key_of_every_file_counts(node: Node) -> None:
    known, old, older, oldest = (node.key(name) for name in ("sa", "old", "older", "oldest"))
    node.trust("sa")
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    texts = [(node.pki / name).read_text() for name in ("older.pub", "oldest.key")]
    (node.pki / "many.pem").write_text(parameters + f"subject=/CN=x\n{texts[0]}".join(["", texts[1]]))
    node.has(*FLAGS, "--service-account-key-file=many.pem", "--service-account-key-file=old.pub")
    said = node.patch()
    assert f"in {node.pki}/many.pem would be refused, for {node.jwt} does not publish them: {older}, {oldest}\n" in said
    assert f"kmsctl jwt import --pem {node.pki}/many.pem" in said
    assert f"in {node.pki}/old.pub would be refused, for {node.jwt} does not publish them: {old}\n" in said
    assert known not in said
    assert "PRIVATE" not in said
    assert older in node.refused()


@pytest.mark.parametrize(
    "text", [None, b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_a_file_of_keys_that_cannot_be_read_is_refused_and_not_asked_for_elsewhere(
    node: Node, text: bytes | None
) -> None:
    if text is not None:
        (node.pki / "sa.pub").write_bytes(text)
    said = node.refused()
    assert f"--service-account-key-file={node.pki}/sa.pub must be readable here" in said
    assert "warning" not in node.patch()
    (node.pki / "sa.pub").write_bytes(b"x" * 70_000)
    assert "holds more than 65536 bytes" in node.refused()
    node.manifest.write_text(node.has(*FLAGS).replace(f"mountPath: {node.pki}\n", "mountPath: /elsewhere\n"))
    assert "is not mounted into the pod" in node.refused()


def test_a_token_that_may_be_in_force_for_longer_than_kmsd_signs_is_refused(node: Node) -> None:
    node.has("--service-account-max-token-expiration=24h0m1s")
    said = node.refused()
    assert "--service-account-max-token-expiration=24h0m1s is longer than the 86400 s" in said
    assert "raise jwt.max_token_expiration" in said
    assert "24h0m1s is longer" in node.patch()
    node.has("--service-account-max-token-expiration=24h")
    node.patch("--write")


def test_socket_and_files_are_looked_for_where_the_pod_has_them_from(node: Node) -> None:
    kid = node.key("sa")
    text = (
        node.has(*FLAGS).replace(f"={node.pki}/sa", "=/pki/sa").replace(f"mountPath: {node.pki}\n", "mountPath: /pki\n")
    )
    mounts, volumes = (
        "    - mountPath: /jwt\n      name: j\n",
        f"  - hostPath:\n      path: {node.jwt.parent}\n    name: j\n",
    )
    text = text.replace("    volumeMounts:\n", f"    volumeMounts:\n{mounts}").replace(
        "  volumes:\n", f"  volumes:\n{volumes}"
    )
    node.manifest.write_text(text)
    said = node.refused(socket=Path("/jwt/jwt.sock"))
    assert f"in {node.pki}/sa.pub would be refused, for {node.jwt} does not publish them: {kid}\n" in said
    node.trust("sa")
    node.patch("--write", socket=Path("/jwt/jwt.sock"))
    assert node.check()["mount"]["seen"] == f"/jwt/jwt.sock from {node.jwt}"


def test_a_socket_on_which_nobody_signs_is_refused(node: Node, tmp_path: Path) -> None:
    assert "it is the socket of another API" in node.refused(socket=node.kmsd.admin_socket)
    dead = tmp_path / "jwt" / "jwt.sock"
    assert f"there is no socket {dead}" in node.refused(code=3, socket=dead)
    assert "warning" not in node.patch(socket=dead)  # the manifest of another machine
    dead.parent.mkdir()
    dead.write_text("")
    assert f"{dead} is not a socket" in node.refused(socket=dead)
    assert "warning" in node.patch(socket=dead)


@pytest.mark.parametrize(
    ("socket", "said"),
    [
        ("jwt.sock", "--jwt-socket must be the absolute path of a file"),
        ("{kms}/jwt.sock", "another folder than the KMS socket"),
        ("/run/other/jwt.sock", "/run/kmsd-jwt/jwt.sock already, and not /run/other/jwt.sock"),
    ],
)
def test_wrong_usage_is_2(node: Node, socket: str, said: str) -> None:
    if socket.startswith("/run"):
        node.has("--service-account-signing-endpoint=/run/kmsd-jwt/jwt.sock")
    assert said in node.refused(socket=Path(socket.format(kms=node.kmsd.socket.parent)))


def endpoint(node: Node, *flags: str) -> None:
    """Have kube-apiserver sign by kmsd, and these flags beside."""
    node.has()
    node.patch("--write")
    text = node.manifest.read_text()
    node.manifest.write_text(text.replace("    - --profiling=false\n", "".join(f"    - {each}\n" for each in flags)))


@pytest.mark.parametrize(
    ("flags", "name", "seen", "fix"),
    [
        (["--service-account-key-file=/x"], "flags", "--service-account-key-file stands beside it", "apply-patch"),
        (
            ["--service-account-max-token-expiration", "48h"],
            "expiration",
            "=48h is longer than the 86400 s",
            "raise jwt.max_token_expiration",
        ),
    ],
)
def test_a_check_finds_flags_with_which_kube_apiserver_does_not_start(
    node: Node, flags: Sequence[str], name: str, seen: str, fix: str
) -> None:
    endpoint(node, *flags)
    found = node.check(code=7)
    assert [each for each, outcome in outcomes(found).items() if outcome != "ok"] == [name]
    assert seen in found[name]["seen"]
    assert fix in found[name]["fix"]


def test_a_check_finds_a_socket_that_is_not_there_for_kube_apiserver(node: Node) -> None:
    endpoint(node)
    well = node.manifest.read_text()
    node.manifest.write_text(well.replace(f"mountPath: {node.jwt.parent}\n", "mountPath: /elsewhere\n"))
    found = node.check(code=7)
    assert "is not mounted into the pod" in found["mount"]["seen"]
    assert f"apply-patch --jwt-socket {node.jwt}" in found["mount"]["fix"]
    node.manifest.write_text(well.replace(f"{node.jwt.parent}\n", f"{node.jwt}\n"))
    assert outcomes(node.check())["mount"] == "warning"
    node.manifest.write_text(well.replace(str(node.jwt), f"{node.jwt}.gone"))
    found = node.check(code=7)
    assert outcomes(found) == {"flags": "ok", "mount": "ok", "socket": "failed"}
    assert "set jwt.socket of kmsd" in found["socket"]["fix"]
    node.manifest.write_text(well.replace(str(node.jwt), "@abstract"))
    assert outcomes(node.check(code=7)) == {"flags": "failed"}
    admin_socket = node.kmsd.admin_socket
    text = well.replace(str(node.jwt), str(admin_socket)).replace(str(node.jwt.parent), str(admin_socket.parent))
    node.manifest.write_text(text)
    assert "the socket of another API" in node.check(code=7)["keys"]["seen"]


@needs_root
def test_a_check_tries_the_socket_as_kube_apiservers_own_user(node: Node) -> None:
    endpoint(node)
    found = node.check("--as-user", str(UID), code=7)
    assert f"the user {UID} of kube-apiserver may not connect to {node.jwt}" in found["socket"]["seen"]
    assert "jwt.group, jwt.mode" in found["socket"]["fix"]
    assert outcomes(found)["keys"] == "ok"  # root itself may


def test_without_a_signing_endpoint_nothing_is_checked_or_said_of_it(node: Node) -> None:
    node.run("k8s", "apply-patch", str(node.manifest), *node.paths, "--write")
    assert FLAGS[1].partition("=")[0] in node.manifest.read_text()
    assert node.check() == {}
