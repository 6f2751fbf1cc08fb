"""What `kmsctl migrate plan` makes of a k8s-kms-plugin that others call by TCP is served to their proxies."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import free_port, well
from tests.rpc.vectors import GCM, K8S_KMS_PLUGIN_KEYS
from tests.tokens import MODULE, SoftToken

LABEL = GCM[0].key_label


@pytest.fixture
def plan(token: SoftToken) -> str:
    """kmsd's configuration, for a plugin with the key that wrote the vectors."""
    (key,) = [each for each in K8S_KMS_PLUGIN_KEYS if each.label == LABEL]
    token.import_aes(key.label, key.value, key.key_id.encode())
    command = f"k8s-kms-plugin serve --p11-lib {MODULE} --p11-label {token.label} --p11-key-label {LABEL}"
    argv = [KMSCTL, "migrate", "plan", "--command", f"{command} --enable-server --host 127.0.0.1", "-o", "json"]
    done = forkserver.run(argv, capture_output=True, text=True, check=True, timeout=60)
    config: str = json.loads(done.stdout)["config"]
    return config


def test_the_plans_configuration_serves_a_proxy_what_the_plugin_wrote(
    plan: str, start_kmsd: Callable[..., Kmsd], make_proxy: Callable[..., Kmsd], ca: Authority, tmp_path: Path,
    token: SoftToken,
) -> None:  # fmt: skip
    shown = ca.issue("shown", "DNS:manager.test", "IP:127.0.0.1", server=True)
    port = free_port()
    planned = tomllib.loads(plan)
    moved = {
        planned["server"]["tls_ca"]: ca.file,
        planned["server"]["tls_certificate"]: shown.certificate,
        planned["server"]["tls_key"]: shown.key,
        planned["token"]["pin_file"]: token.pin_file,
        f"port = {planned['server']['port']}": f"port = {port}",
        "DNS:*.moved-over.example": "DNS:*.cluster-a.test",
    }
    for name, path in moved.items():
        plan = plan.replace(name, str(path))
    config = tmp_path / "kmsd.toml"
    config.write_text(plan)
    manager = start_kmsd(f"--config={config}", default_flags=False)
    wait_for(lambda: "serving on TCP" in manager.log_text())
    proxy = well(make_proxy(ca.issue("n", "DNS:n1.cluster-a.test"), ca, f"127.0.0.1:{port}"))
    for vector in GCM:
        if vector.key_label == LABEL:
            request = v1beta1.DecryptRequest(version="v1beta1", cipher=vector.ciphertext)
            assert proxy.v1beta1("Decrypt", request).plain == vector.plaintext
    fresh = proxy.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=b"p" * 32))
    assert proxy.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=fresh.cipher)).plain == b"p" * 32
