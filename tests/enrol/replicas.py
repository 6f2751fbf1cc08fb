"""Key managers as processes of their own on one token and one PostgreSQL, and one enrolment token that is used at all
of them at once: `make replicas`, with eight of them.

Prints one line of JSON: how many certificates were issued, how the other uses were answered, and how long it took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from kmsd.errors import KmsdError
from kmsd.est import client
from kmsd.est.client import Server
from kmsd.est.files import make_key, request
from tests.enrol.soak import Site

_NAMES: Final = tuple("abcdefgh")
USES: Final = 200


@dataclass
class Used:
    """What came of it. answers: how often each. certificates: of the node, as each key manager tells. seconds: for
    all uses."""

    answers: dict[str, int]
    certificates: list[int]
    seconds: float


def use(site: Site, uses: int) -> Used:
    """Use one token so many times at once, each for a key of its own, at the key managers in turn."""
    first = site.managers[0]
    token = first.ctl("enrol", "token", "node-x", "--tenant", "cluster-a").strip()
    servers = [
        replace(client.pinned(Server.parse(f"https://127.0.0.1:{each.est_port}"), first.fingerprint), timeout=60.0)
        for each in site.managers
    ]
    requests = [request(make_key("ec-p256"), "node-x") for _ in range(uses)]
    ready = threading.Barrier(uses)

    def ask(number: int) -> str:
        ready.wait()
        try:
            client.first(servers[number % len(servers)], requests[number], "node-x", token)
        except KmsdError as error:
            return error.code
        return "certificate"

    began = time.monotonic()
    with ThreadPoolExecutor(uses) as pool:
        answers = Counter(pool.map(ask, range(uses)))
    seconds = time.monotonic() - began
    issued = [json.loads(each.ctl("ca", "show", "--node", "node-x", "-o", "json"))["issued"] for each in site.managers]
    return Used(dict(answers), [len(each) for each in issued], round(seconds, 1))


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="k") as folder, Site(Path(folder), 300, 600, _NAMES) as site:
        print(f"{len(_NAMES)} key managers serve after {time.monotonic() - began:.1f} s", file=sys.stderr)  # noqa: T201
        result = use(site, USES)
    print(json.dumps(asdict(result)))  # noqa: T201  its answer
    return int(set(result.certificates) != {1} or result.answers.get("certificate") != 1)


if __name__ == "__main__":
    sys.exit(main())
