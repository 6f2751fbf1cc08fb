"""The names and bounds that both ends of a connection agree on beside the APIs: gRPC metadata of kmsd's own."""

from __future__ import annotations

from typing import Final

CALLER: Final = "kmsd-caller-bin"
"""The name that a program gives itself; goes with a call."""
HINT: Final = "kmsd-hint-bin"
"""The words on what to do; go with an error."""
RETRYABLE: Final = "kmsd-retryable"
"""The word "true" if the same call may succeed later; goes with an error."""
MAX_MESSAGE: Final = 1280 * 1024
"""Bytes of the largest message. No method takes as many."""
PROXY: Final = "kmsd-proxy"
"""The name that a proxy gives itself when it passes on what it was asked."""
PROXY_CHECK: Final = "kmsd-proxy-check"
"""The name that a proxy gives itself when it asks on its own account: no kube-apiserver is behind such a call."""
