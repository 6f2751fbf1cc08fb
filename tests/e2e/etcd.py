"""A real etcd of one member on loopback, and the two calls that the tests need of it.

Speaks etcd's JSON gateway, so that no etcd library is needed. Knows nothing of Kubernetes or of encryption.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.program import NotUpError, Program, free_port


@dataclass(frozen=True)
class Stored:
    """A key as it was written last."""

    key: str
    value: bytes
    revision: int


class Etcd:
    """One etcd with its data below `home`; it is there for clients once `start` returns."""

    def __init__(self, home: Path, binary: str = "etcd") -> None:
        self._home = home
        self._binary = binary
        self._program: Program | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        for attempt in range(3):  # another process may take a port between the look and the bind
            try:
                self._start()
            except NotUpError:
                if attempt == 2:
                    raise
                self.stop()
            else:
                return

    def _start(self) -> None:
        self._port = free_port()
        peers = f"http://127.0.0.1:{free_port()}"
        self._program = Program(
            [
                self._binary,
                "--name=only",
                f"--data-dir={self._home / 'etcd'}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=only={peers}",
            ],
            self._home / "etcd.log",
        )
        self._program.wait_for(self._healthy, seconds=20, what="etcd is healthy")

    def running(self) -> bool:
        return self._program is not None and self._program.running()

    def stop(self) -> None:
        if self._program:
            self._program.stop()
            self._program = None

    def put(self, key: str, value: bytes) -> None:
        self._ask("POST", "/v3/kv/put", {"key": _b64(key.encode()), "value": _b64(value)})

    def delete(self, key: str) -> None:
        self._ask("POST", "/v3/kv/deleterange", {"key": _b64(key.encode())})

    def clear(self) -> None:
        """Delete everything: the range from the first possible key to the end."""
        self._ask("POST", "/v3/kv/deleterange", {"key": _b64(b"\0"), "range_end": _b64(b"\0")})

    def get(self, key: str) -> bytes | None:
        found = self._ask("POST", "/v3/kv/range", {"key": _b64(key.encode())}).get("kvs", [])
        return base64.b64decode(found[0].get("value", "")) if found else None

    def put_if(self, key: str, value: bytes, revision: int | None) -> int | None:
        """Write if the key was written last at this revision; None: whenever. Return the new revision, None if not."""
        put = {"request_put": {"key": _b64(key.encode()), "value": _b64(value)}}
        compare = {"key": _b64(key.encode()), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        body = {"compare": [] if revision is None else [compare], "success": [put]}
        done = self._ask("POST", "/v3/kv/txn", body)
        return int(done["header"]["revision"]) if done.get("succeeded") else None

    def list(
        self, prefix: str, limit: int, *, start: str | None = None, revision: int = 0, exact: bool = False
    ) -> tuple[list[Stored], int, int]:
        """Return keys from `start` on at a revision, the revision, and how many come after them."""
        body = {"key": _b64((start or prefix).encode()), "limit": str(limit), "revision": str(revision)}
        if not exact:
            body["range_end"] = _b64(prefix.encode()[:-1] + bytes([prefix.encode()[-1] + 1]))
        found = self._ask("POST", "/v3/kv/range", body)
        items = [
            Stored(base64.b64decode(each["key"]).decode(), base64.b64decode(each["value"]), int(each["mod_revision"]))
            for each in found.get("kvs", [])
        ]
        return items, revision or int(found["header"]["revision"]), int(found.get("count", 0)) - len(items)

    def _healthy(self) -> bool:
        try:
            return str(self._ask("GET", "/health").get("health")) == "true"
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise ValueError(f"etcd answered {answer.status}: {text.decode(errors='replace')}")
            parsed: dict[str, Any] = json.loads(text)
            return parsed
        finally:
            connection.close()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
