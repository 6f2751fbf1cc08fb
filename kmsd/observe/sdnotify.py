"""Tell systemd how the service is: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


def notify(**fields: str) -> None:
    """Send fields such as READY="1" or STATUS="..." to $NOTIFY_SOCKET; do nothing if systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "\n".join(f"{name}={value.splitlines()[0] if value else ''}" for name, value in fields.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.sendall(message.encode())


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return within how many seconds systemd wants to hear WATCHDOG=1, time and again; None if it does not watch this
    process (sd_watchdog_enabled(3))."""
    try:
        seconds = int(environ["WATCHDOG_USEC"]) / 1_000_000
        ours = int(environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except (KeyError, ValueError):
        return None
    return seconds if ours and seconds > 0 else None
