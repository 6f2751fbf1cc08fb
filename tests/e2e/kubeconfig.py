"""A kubeconfig of one context, for a kube-apiserver on this machine."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write_kubeconfig(place: Path, port: int, ca: bytes, user: Mapping[str, Any]) -> Path:
    """Write the context `test`. ca: PEM. user: its credentials, as a kubeconfig has them."""
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority-data": base64.b64encode(ca).decode(),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
    }
    place.write_text(yaml.safe_dump(document))
    return place
