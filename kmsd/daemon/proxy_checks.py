"""The things that doctor tries on a proxy: its certificate, and each key manager. Loads nothing of PKCS#11."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kmsd.apis.admin_proxy import Check
from kmsd.daemon.own_key import OwnKey
from kmsd.errors import KmsdError
from kmsd.observe.expiry import how_long, soon
from kmsd.service.remote import RemoteService
from kmsd.service.upstream import Upstream, UpstreamError
from kmsd.transport.tls import TlsMaterial

if TYPE_CHECKING:
    from kmsd.daemon.renewal import Renewal

_CERTIFICATE_DAYS: Final = 14
"""A key manager's certificate that ends within so many days is worth a warning."""
_DAY: Final = 86400
_CLOCKS_APART: Final = 5.0
"""Seconds by which the clocks of a proxy and a key manager may differ without a warning."""


class ProxyChecks:
    """The checks of one proxy. server_name: that the key managers' certificates must have; empty: the host of each.
    key: its key, if that is in no file. renewal: of its certificate, if it renews that itself."""

    def __init__(
        self,
        service: RemoteService,
        material: TlsMaterial,
        server_name: str,
        key: OwnKey | None,
        renewal: Renewal | None,
    ) -> None:
        self._service = service
        self._material = material
        self._server_name = server_name
        self._key = key
        self._renewal = renewal

    async def own(self) -> list[Check]:
        """Return whether this proxy's certificate lasts and would be renewed, and whether a key on a token signs."""
        checks = [self._certificate()]
        if self._key is not None:
            checks.append(await self._key.check(self._material.loaded))
        if self._renewal is not None:
            checks += await self._renewal.check()
        return checks

    def _certificate(self) -> Check:
        title, loaded = "Own certificate", self._material.loaded
        if loaded is None:
            error = self._material.problem
            why = f": {error.message}" if error is not None else ""
            return Check("certificate", title, "failed", f"there are no TLS files that can be used{why}")
        own = loaded.own
        ending = soon(own.not_before, own.not_after)
        fix = "put a new one in its place: kmsd reads the files anew when they change" if ending else ""
        seen = f"{own.subject} {how_long(own.not_after)}"
        return Check("certificate", title, "warning" if ending else "ok", seen, fix)

    async def probe(self, upstream: Upstream, seconds: float) -> list[Check]:
        """Try one key manager: whether it is reached, who it is, and a round trip."""
        name = upstream.address
        checks = [] if self._key is not None else [await self._handshake(upstream, seconds / 3)]
        if not checks or checks[0].outcome != "failed":
            checks += await self._introduction(upstream, seconds / 3)
            began = time.monotonic()
            await self._service.check_one(upstream, seconds / 3, thorough=True)
            error = upstream.wrong_key or (None if upstream.up else upstream.error)
            if error is not None:
                checks.append(Check("round_trip", f"{name}: round trip", "failed", error.message, error.hint))
            else:
                took = (time.monotonic() - began) * 1000
                words = f"Status says {upstream.healthz!r}; what was encrypted before is decrypted ({took:.1f} ms)"
                well = "ok" if upstream.healthz == "ok" else "failed"
                checks.append(Check("round_trip", f"{name}: round trip", well, words))
        return checks

    async def _introduction(self, upstream: Upstream, seconds: float) -> list[Check]:
        """Try whom a key manager takes this proxy for, and whether the clocks of both agree."""
        name = upstream.address
        title = f"{name}: who this proxy is there"
        try:
            found = await self._service.introduce(upstream, seconds)
        except UpstreamError as failed:
            return [Check("tenant", title, "failed", failed.error.message, failed.error.hint)]
        except KmsdError as error:
            return [Check("tenant", title, "failed", error.message, error.hint)]
        words = f"tenant {found.tenant}, says kmsd {found.version} on {found.host} by {found.tls}"
        ahead = round(found.ahead, 1) + 0.0  # which is never a negative zero
        skew = f"its clock is {ahead:+.1f} s from this machine's, give or take {found.give_or_take:.2f} s"
        wrong = abs(found.ahead) - found.give_or_take > _CLOCKS_APART
        fix = "set both clocks (NTP): certificates that begin, end or are renewed are taken by them" if wrong else ""
        return [
            *self._no_handshake(name, found.tls),
            Check("tenant", title, "ok", words),
            Check("clock", f"{name}: clock", "warning" if wrong else "ok", skew, fix),
        ]

    def _no_handshake(self, name: str, tls: str) -> Iterator[Check]:
        """Yield what is known of the handshake where the standard library cannot try one, as it cannot use the key."""
        if self._key is not None:
            words = f"{tls}, says the key manager; no handshake was tried beside that, for the key is on a token"
            yield Check("tls", f"{name}: TLS", "ok", words)

    async def _handshake(self, upstream: Upstream, seconds: float) -> Check:
        title, loaded = f"{upstream.address}: TLS", self._material.loaded
        if loaded is None:
            error = self._material.problem
            return Check("tls", title, "failed", error.message if error else "there are no TLS files")
        host, _, port = upstream.address.rpartition(":")
        shown = self._server_name or host.strip("[]")
        try:
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=loaded.context, server_hostname=shown
                )
        except TimeoutError:
            return Check("tls", title, "failed", f"no handshake in {seconds:.0f} s", "check the network to it")
        except ssl.SSLCertVerificationError as error:
            fix = "check --tls-ca, and the name in its certificate (proxy.server_name)"
            return Check("tls", title, "failed", f"its certificate is not taken: {error.verify_message}", fix)
        except ssl.SSLError as error:
            return Check("tls", title, "failed", f"the handshake failed ({error.reason})", "it must speak TLS 1.3")
        except OSError as error:
            return Check("tls", title, "failed", f"it is not reached: {error.strerror or error}", "check its address")
        try:
            handshake = writer.get_extra_info("ssl_object")
            ends = ssl.cert_time_to_seconds(handshake.getpeercert()["notAfter"])
            days = (ends - time.time()) / _DAY
            words = f"{handshake.version()}, {handshake.cipher()[0]}; its certificate lasts {days:.0f} days"
            return Check("tls", title, "ok" if days > _CERTIFICATE_DAYS else "warning", words)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
