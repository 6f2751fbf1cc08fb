"""Probes of a pod, asked as the kubelet asks them."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any, Final

PORT: Final = 9443
"""In the pods that ship."""


def http_get(probe: Mapping[str, Any], port: int) -> int:
    """The status of an httpGet probe, or 0 if nobody answers. port: that stands for the one of the probe here."""
    where = probe["httpGet"]
    assert where["port"] == PORT
    connection = http.client.HTTPConnection(where["host"], port, timeout=probe["timeoutSeconds"])
    try:
        connection.request("GET", where["path"])
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
