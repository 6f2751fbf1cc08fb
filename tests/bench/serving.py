"""Runs the cases of `tests.bench.cases`: the servers of a group take turns, round by round.

A ratio is taken within each round, so that a machine that is busy with other things disturbs all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench import servers
from tests.bench.burst import BurstFailedError, burst
from tests.bench.cases import KEYS, LATENCIES, SCHEMES, Load, Plan
from tests.bench.results import Burst, Case, Results, Row
from tests.bench.servers import Server
from tests.chaos import make_chaos
from tests.daemons import wait_for
from tests.tokens import SoftToken, make_token

_WARM_SECONDS, _WARM_SLOW_SECONDS = 0.5, 2.0
"""Of load before the first round that counts; a slow token gets its sessions meanwhile."""
_AT_ONCE = 250
"""Keys that one copy of a token is given."""
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def side_by_side(results: Results, folder: Path, plan: Plan) -> None:
    """kmsd on both transports, servers that do nothing, and peers."""
    token = _made(folder / "token")
    with contextlib.ExitStack() as running:
        starting = (
            *(servers.kmsd(folder / each, token, each) for each in ("h2corn", "grpcio")),
            *(servers.bare(folder / f"bare-{number}", token, name) for number, name in enumerate(servers.BARE)),
            *(servers.peer(folder / name, token, name) for name in servers.peers()),
        )
        turns = [(each, Case(each.name, "", "", 0)) for each in map(running.enter_context, starting)]
        take_turns(results, "side by side", turns, plan, plan.side_by_side)
    results.rows.extend(_alone(token, plan))
    for name in set(servers.PEERS) - set(servers.peers()):
        results.notes.append(f"{name} was not measured: PEERS names no folder that holds it")


def keys(results: Results, folder: Path, plan: Plan) -> None:
    """kmsd with few keys and many; beside k8s-kms-plugin, which looks all of them through at each call, with as many as
    it can do that with."""
    with contextlib.ExitStack() as running:
        turns = []
        for transport in plan.transports:
            for count in KEYS:
                token = _made(folder / f"t-{transport}-{count}", count)
                server = running.enter_context(servers.kmsd(folder / f"k-{transport}-{count}", token, transport))
                assert server.kmsd is not None
                assert wait_for(lambda running=server.kmsd: running.status().keys, timeout=60) == count
                turns.append((server, Case(server.name, "", "", 0, keys=count)))
        for count in KEYS[:-1]:
            if servers.PLUGIN in servers.peers():
                server = running.enter_context(
                    servers.peer(folder / f"p-{count}", _made(folder / f"t-p-{count}", count), servers.PLUGIN)
                )
                turns.append((server, Case(server.name, "", "", 0, keys=count)))
        take_turns(results, "keys", turns, plan, plan.keys)


def schemes(results: Results, folder: Path, plan: Plan) -> None:
    """AES-GCM, and a pair of AES-CBC and HMAC."""
    with contextlib.ExitStack() as running:
        turns = []
        for transport in plan.transports:
            for scheme, algorithm in SCHEMES.items():
                place = folder / f"{transport}-{scheme}"
                place.mkdir()
                token = make_token(place / "token")
                flags = (f"--algorithm={algorithm}", "--auto-create")
                server = running.enter_context(servers.kmsd(place / "k", token, transport, *flags))
                turns.append((server, Case(server.name, "", "", 0, scheme=scheme)))
        take_turns(results, "schemes", turns, plan, plan.schemes)


def latency(results: Results, folder: Path, plan: Plan) -> None:
    """A token that takes its time. All keep the settings that they come with."""
    chaos = make_chaos(folder / "token")
    chaos.import_aes("k8s-kek", os.urandom(32), b"an-id")
    with contextlib.ExitStack() as running:
        started = [running.enter_context(servers.kmsd(folder / each, chaos, each)) for each in plan.transports]
        started += [running.enter_context(servers.peer(folder / name, chaos, name)) for name in servers.peers()]
        for seconds in LATENCIES:
            with chaos.told(f"C_Encrypt delay={seconds}", f"C_Decrypt delay={seconds}"):
                turns = [(each, Case(each.name, "", "", 0, latency=seconds)) for each in started]
                take_turns(results, "latency", turns, plan, plan.latency)


def take_turns(
    results: Results, group: str, turns: Sequence[tuple[Server, Case]], plan: Plan, loads: Sequence[Load]
) -> None:
    for api, method, in_flight in loads:
        rows: list[tuple[Server, Row, int]] = []
        for server, case in turns:
            if (api, method) not in server.messages:
                results.notes.append(f"{server.name} does not answer {api} {method}")
                continue
            with _noted(results, server, method):
                few = _burst(server, api, method, in_flight, 20 + 3 * in_flight)
                enough = int(few.rate * (_WARM_SLOW_SECONDS if case.latency else _WARM_SECONDS))
                warm = _burst(server, api, method, in_flight, max(20 + in_flight, enough))
                row = Row(group, replace(case, api=api, method=method, in_flight=in_flight))
                rows.append((server, row, max(20 + in_flight, int(warm.rate * plan.seconds))))
        for _ in range(plan.rounds):
            for server, row, requests in rows:
                with _noted(results, server, method):
                    row.bursts.append(_burst(server, api, method, in_flight, requests))
        results.rows.extend(row for _, row, _ in rows if row.bursts)
        for _, row, _ in rows:
            if row.bursts:
                print(_line(row), flush=True)


@contextlib.contextmanager
def _noted(results: Results, server: Server, method: str) -> Iterator[None]:
    try:
        yield
    except BurstFailedError as error:
        results.notes.append(f"{server.name} did not answer every {method}: {str(error).splitlines()[0]}")


def _burst(server: Server, api: str, method: str, in_flight: int, requests: int) -> Burst:
    body, answer = server.messages[api, method]
    path = f"/v1.ExternalJWTSigner/{method}" if api == "jwt" else f"/{api}.KeyManagementService/{method}"
    return burst(server.socket, path, body, requests=requests, in_flight=in_flight, pids=server.pids, answer=answer)


def _alone(token: SoftToken, plan: Plan) -> list[Row]:
    """The token without any server: the host's own code in a loop."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.alone", str(plan.rounds), str(plan.seconds)],
        env={**os.environ, **token.environment, "PIN_FILE": str(token.pin_file)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    told = json.loads(done.stdout)
    return [
        Row("side by side", Case("SoftHSM alone", "v2", method, 1), [Burst(**each) for each in bursts])
        for method, bursts in told.items()
    ]


def _made(folder: Path, count: int = 2) -> SoftToken:
    """A token with so many keys, one of them the write key.

    SoftHSM reads all that it has for each new key, and writes each many times. So they are made in memory, and in
    copies of the empty token, some in each; then their files are put together: what encrypts them is the same.
    """
    token = make_token(folder)
    with tempfile.TemporaryDirectory(dir=_MEMORY) as memory:
        part = make_token(Path(memory) / "token")
        empty, made = Path(memory) / "empty", Path(memory) / "made"
        part.tokens.rename(empty)
        for first in range(0, count, _AT_ONCE):
            shutil.copytree(empty, part.tokens)
            part.objects(*(_key(number) for number in range(first, min(first + _AT_ONCE, count))))
            shutil.copytree(part.tokens, made, dirs_exist_ok=True)
            shutil.rmtree(part.tokens)
        shutil.rmtree(token.tokens)
        shutil.copytree(made, token.tokens)
    return token


def _key(number: int) -> dict[str, str]:
    label = f"key-{number}" if number else "k8s-kek"
    return {"do": "import", "type": "aes", "label": label, "value": os.urandom(32).hex(), "id": f"{number + 1:08x}"}


def _line(row: Row) -> str:
    case = row.case
    what = f"{case.server}, {case.keys} keys, {case.latency * 1000:.0f} ms, {case.scheme}"
    return (
        f"{what:58} {case.api:8}{case.method:8}{case.in_flight:3}  {row.median('rate'):8.0f}/s  "
        f"p50 {row.median('p50'):7.2f}  p99 {row.median('p99'):7.2f} ms  {row.median('cpu'):5.0f} us"
    )
