"""What docs/enrolment.md says to type to a key manager with a CA is typed as it stands there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemons import KMSCTL
from tests.enrol.whole import Whole, begin_without_ca
from tests.pages import ROOT, blocks
from tests.remote.certificates import Authority
from tests.remote.conftest import Manager, make_manager

pytestmark = pytest.mark.processes
__all__ = ["make_manager"]
BLOCKS = [each.text for each in blocks(ROOT / "docs" / "enrolment.md") if each.run == "tests/enrol/test_pages.py"]


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the key manager's own certificate, which is not the one on its token."""
    return Authority(tmp_path / "ca")


@pytest.fixture
def whole(make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path) -> Whole:
    (tmp_path / "home").mkdir()
    return begin_without_ca(make_manager, ca, tmp_path)


def block(words: str) -> str:
    """Return the one block of the page with these words."""
    (found,) = [each for each in BLOCKS if words in each]
    return found


def type_(whole: Whole, text: str, **environment: str) -> str:
    """Type this on the key manager's machine, which is the node, too. Returns what it printed."""
    home = whole.folder.parent / "home"
    for there, here in (("https://keys-1.ops.test:31443", whole.url), ("/etc/kmsd/tls", str(home / "tls"))):
        text = text.replace(there, here)
    if "sha256:5f1c..." in text:
        text = text.replace("sha256:5f1c...", whole.pin)
    path = f"{Path(KMSCTL).parent}:{os.environ['PATH']}"
    usual = {**os.environ, "PATH": path, "KMSCTL_TARGET": str(whole.kmsd.admin_socket)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=home, env=usual | environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_node_enrols_by_kmsctl_and_by_curl(whole: Whole) -> None:
    init, token, enrol = block("enrol token node-1").replace("$ ", "").splitlines()
    type_(whole, init)
    whole.wait_est()
    type_(whole, token)
    type_(whole, f"{enrol} --node node-1")
    tls = whole.folder.parent / "home" / "tls"
    x509.load_pem_x509_certificate((tls / "tls.crt").read_bytes())
    curl = block("simpleenroll").removeprefix("$ ")
    said = type_(whole, f"cp tls/ca.crt .\n{curl}", TOKEN=whole.token("node-1"))
    assert x509.load_pem_x509_certificate(said.encode()).subject.rfc4514_string() == "CN=node-1"


def test_a_certificate_is_issued_for_a_request(whole: Whole) -> None:
    request = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node-1"
    type_(whole, f"{request} -keyout tls.key -out node-1.csr 2>/dev/null")
    type_(whole, f"{block('ca issue node-1.csr')}openssl verify -CAfile nodes-ca.pem tls.crt")


def test_the_ca_is_put_below_another(whole: Whole) -> None:
    init, between, import_ = block("--csr nodes-ca.csr").splitlines()
    assert between == "# have it signed with CA:TRUE, keyCertSign and cRLSign"
    sign = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=Root" -keyout root.key -out root.crt \\
  -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
printf "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n" > ext
openssl x509 -req -in nodes-ca.csr -CA root.crt -CAkey root.key -days 90 -extfile ext -out nodes-ca.crt 2>/dev/null
"""
    type_(whole, f"{init}\n{sign}\n{import_}")
    assert "CN=Nodes CA,O=Example" in whole.done("ca", "show")
