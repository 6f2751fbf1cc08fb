"""Requests to one kube-apiserver: each with a deadline, each answer with a bound, TLS always verified.

Knows HTTP and the form of Kubernetes' errors, and no resource.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from kmsctl.kubeapi.credentials import Credential, Credentials, as_files
from kmsctl.kubeapi.kubeconfig import KubeAccess
from kmsd.client import ClientError, Denied, InvalidRequest, Unreachable, __version__

JSON: Final = "application/json"
BODY_MAX: Final = 64 << 20
"""Bytes of an answer."""
CONNECTIONS_MAX: Final = 8
CLOSING: Final = 0.05
"""Seconds in which TLS says good-bye on connections that were given up: aiohttp waits for none of them."""
TRIES: Final = 5
"""Times that a request is made which a server that is busy, or away, has not answered."""
PAUSE_FIRST: Final = 0.5
PAUSE_MOST: Final = 10.0
"""Seconds between two tries, growing from the first to the most."""
RETRY_AFTER_MOST: Final = 60.0
"""Seconds that a server may ask for."""
BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses after which the same request may succeed: busy, going down, or a webhook that is away."""


class TooLarge(ClientError):
    """Raised for an answer with more bytes than it may have."""


@dataclass(frozen=True)
class KubeAnswer:
    """An answer. retry_after: seconds that the server asks to wait; None: it does not."""

    status: int
    body: bytes
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def document(self) -> Mapping[str, Any]:
        """Return the JSON object of the answer. Raises ClientError if it is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ClientError(f"what answers is no kube-apiserver: it answers {self.status} without a JSON object")
        return found

    def error(self) -> Mapping[str, Any]:
        """Return the Status that an error comes with (k8s.io/apimachinery meta/v1); empty if there is none."""
        try:
            found = self.document()
        except ClientError:
            return {}
        return found if found.get("kind") == "Status" else {}

    @property
    def reason(self) -> str:
        """The server's word for what is wrong; never its sentence, which may repeat what is in an object."""
        reason = self.error().get("reason")
        return reason if isinstance(reason, str) and reason.isalnum() and len(reason) <= 64 else str(self.status)


class KubeApi:
    """The connections to a kube-apiserver. timeout: seconds for each request, its answer included. Use it as a
    context, in one event loop."""

    def __init__(self, access: KubeAccess, *, timeout: float) -> None:
        self._access = access
        self._timeout = timeout
        self._credentials = Credentials(access)
        self._session: aiohttp.ClientSession | None = None
        self._certificate = b""
        self._proxy = access.proxy or _proxy_of(access.server)

    @property
    def server(self) -> str:
        return self._access.server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = JSON,
        content: str = JSON,
    ) -> KubeAnswer:
        """Make one request, whatever the answer. Raises Unreachable, Denied, TooLarge."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, "User-Agent": f"kmsctl/{__version__}"}
        if sent is not None:
            headers["Content-Type"] = content
        for again in (False, True):
            answer = await self._once(method, path, query, sent, headers)
            if answer.status != 401:
                return answer
            if again or not self._credentials.refused():
                break
        raise Denied(
            f"{self.server} does not accept the credentials of the context {self._access.context!r}",
            "`kubectl --context NAME get --raw /version` tries them; a token or certificate may have expired",
            "UNAUTHENTICATED",
        )

    async def persist(self, method: str, path: str, **given: Any) -> KubeAnswer:
        """Make a request as `ask` does, and again while the server is busy or away, TRIES times in all. Return the
        last answer. Raises as `ask` does."""
        pause = PAUSE_FIRST
        for left in reversed(range(TRIES)):
            wanted: float | None = None
            try:
                answer = await self.ask(method, path, **given)
            except Unreachable:
                if not left:
                    raise
            else:
                if answer.status not in BUSY or not left:
                    return answer
                wanted = answer.retry_after
            await asyncio.sleep(pause if wanted is None else min(wanted, RETRY_AFTER_MOST))
            pause = min(2 * pause, PAUSE_MOST)
        raise AssertionError("the last try has returned or raised")

    async def _once(
        self, method: str, path: str, query: Mapping[str, str] | None, body: bytes | None, headers: Mapping[str, str]
    ) -> KubeAnswer:
        session, token = await self._connected()
        if token:
            headers = {**headers, "Authorization": f"Bearer {token}"}
        try:
            async with session.request(
                method,
                self.server + path,
                params=query,
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy or None,
                server_hostname=self._access.server_name or None,
            ) as response:
                return KubeAnswer(response.status, await self._read(response), _retry_after(response))
        except TimeoutError:
            raise self._unreachable(f"has not answered within {self._timeout:g} s") from None
        except aiohttp.ClientSSLError as error:
            raise Denied(f"TLS with {self.server} fails: {_tls(error)}", _TLS_HINT, "UNAVAILABLE") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._unreachable(f"does not answer: {_what(error)}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        found = bytearray()
        async for part in response.content.iter_any():
            found += part
            if len(found) > BODY_MAX:
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()  # closing would wait for the rest
                raise TooLarge(f"{self.server} answers more than {BODY_MAX >> 20} MiB to one request")
        return bytes(found)

    async def _connected(self) -> tuple[aiohttp.ClientSession, str]:
        """Return a session that shows the certificate that holds now, and the token; either may be empty."""
        now = await self._credentials.get()
        if now.certificate != self._certificate:
            await self._close()
        self._certificate = now.certificate
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls(now), limit=CONNECTIONS_MAX)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session, now.token

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(CLOSING)
            self._session = None

    def _tls(self, credential: Credential) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cadata=self._access.ca.decode() or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if credential.certificate:
                with as_files(credential.certificate, credential.key) as (certificate, key):
                    context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError):
            raise InvalidRequest(
                f"the certificates of the context {self._access.context!r} cannot be used",
                "certificate-authority, client-certificate and client-key must be PEM, the key of that certificate "
                "and without a password",
            ) from None
        return context

    def _unreachable(self, what: str) -> Unreachable:
        return Unreachable(
            f"kube-apiserver at {self.server} {what}", "`kubectl get --raw /readyz` asks it, too", retryable=True
        )


_TLS_HINT: Final = (
    "certificate-authority-data of the cluster is the CA of its certificate; tls-server-name, if the certificate has "
    "another name"
)


def _no_password() -> str:
    """Return no password, where OpenSSL would ask the terminal for one."""
    return ""


def _proxy_of(server: str) -> str:
    """Return the proxy that the environment names for this server, as kubectl follows it; empty for none."""
    parts = urlsplit(server)
    host = parts.hostname or ""
    if host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host):
        return ""
    return getproxies().get(parts.scheme, "")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 9 else None


def _tls(error: aiohttp.ClientSSLError) -> str:
    inner = error.os_error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    return getattr(inner, "reason", None) or type(inner).__name__


def _what(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    return getattr(inner, "strerror", None) or type(error).__name__
