"""Telling systemd how the service is: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(**fields: str) -> None:
    """Send fields such as READY="1" or STATUS="..." to $NOTIFY_SOCKET; nothing if systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "\n".join(f"{name}={value.splitlines()[0] if value else ''}" for name, value in fields.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.sendall(message.encode())
