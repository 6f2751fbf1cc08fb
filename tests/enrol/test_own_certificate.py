"""The EST server's own certificate is made anew again and again, while nodes connect all the time."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from kmsd.config.enrolment import Est
from kmsd.daemon import est_certificate
from kmsd.daemon.est_certificate import EstCertificate
from kmsd.est.listener import EstListener
from tests.ca import software
from tests.enrol.site import Loop

_SECONDS = 4.0


class _Connecting:
    """Threads that connect one time after the other. seen: serial numbers that were shown."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.seen: set[int] = set()
        self.failed: list[str] = []
        self.count = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._connect, args=(port, context)) for _ in range(4)]
        for each in self._threads:
            each.start()

    def _connect(self, port: int, context: ssl.SSLContext) -> None:
        while not self._stop.is_set():
            try:
                with (
                    socket.create_connection(("127.0.0.1", port), 5) as raw,
                    context.wrap_socket(raw, server_hostname="127.0.0.1") as made,
                ):
                    self.seen.add(
                        x509.load_der_x509_certificate(made.getpeercert(binary_form=True) or b"").serial_number
                    )
                    self.count += 1
            except OSError as error:
                self.failed.append(str(error))

    def end(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()


def test_no_handshake_fails_while_the_servers_certificate_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that began five minutes ago and lasts another one is due as soon as it is made.
    monkeypatch.setattr("kmsd.ca.server_tls._LIFETIME", timedelta(minutes=1))
    monkeypatch.setattr(est_certificate, "_LOOK_SELDOM", 0.2)
    ca = software.authority()
    own = EstCertificate(Est(listen="127.0.0.1:1", names=("127.0.0.1",)), tmp_path, lambda: ca)
    context = ssl.create_default_context(cadata=software.pem(*ca.chain).decode())
    loop = Loop()

    async def begin() -> EstListener:
        keeping.append(asyncio.ensure_future(own.keep()))
        await own.made.wait()
        listener = EstListener(
            "127.0.0.1:0", own.files.certificate, own.files.key, web.Application(), chain=lambda: ca.chain,
            connections=64, refused=lambda *_: None, told=lambda _: None, taken=lambda _: None,
        )  # fmt: skip
        await listener.start()
        return listener

    async def end() -> None:
        await listener.stop()
        for each in keeping:
            each.cancel()

    keeping: list[asyncio.Future[None]] = []
    listener: EstListener = loop.run(begin())
    connecting = _Connecting(listener.port, context)
    time.sleep(_SECONDS)
    connecting.end()
    loop.run(end())
    loop.close()
    assert connecting.failed == []
    assert connecting.count > 20
    assert len(connecting.seen) >= 3, "the certificate was not renewed"
