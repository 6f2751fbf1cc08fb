"""Answer /livez, /readyz and /metrics over HTTP. Knows only functions that tell, and never waits for a token.

/livez and /readyz answer as those of kube-apiserver do: 200 and `ok`, or 503 and each check with what is wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from aiohttp import web

from kmsd.metrics.exposition import OPENMETRICS, TEXT
from kmsd.observe import logs

log = logs.get_logger("kmsd.metrics")

_PLACES: Final = "/livez, /readyz and /metrics"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "kmsd"}


class Check(NamedTuple):
    """A thing that must be so for kmsd to live, or to be ready. error: why it is not so; empty if it is."""

    name: str
    error: str


class Probes(NamedTuple):
    """The answers that kmsd gives. live, ready: the checks as they are known now. metrics: returns all metrics in a
    format, TEXT or OPENMETRICS."""

    live: Callable[[], Sequence[Check]]
    ready: Callable[[], Sequence[Check]]
    metrics: Callable[[str], Awaitable[bytes]]


def application(probes: Probes) -> web.Application:
    """Return the application that answers."""

    async def live(request: web.Request) -> web.Response:
        return _told("livez", probes.live(), request)

    async def ready(request: web.Request) -> web.Response:
        return _told("readyz", probes.ready(), request)

    async def metrics(request: web.Request) -> web.Response:
        form = OPENMETRICS if "application/openmetrics-text" in request.headers.get("Accept", "") else TEXT
        return web.Response(body=await probes.metrics(form), headers={**_HEADERS, "Content-Type": form})

    served = web.Application(middlewares=[_sentences], client_max_size=0)
    served.router.add_get("/livez", live)
    served.router.add_get("/readyz", ready)
    served.router.add_get("/metrics", metrics)
    return served


def _told(name: str, checks: Sequence[Check], request: web.Request) -> web.Response:
    """Return the answer of a probe. `exclude` in the query, which may be repeated, leaves out a check by its name."""
    excluded = request.query.getall("exclude", [])
    known = [check.name for check in checks]
    strange = next((each for each in excluded if each not in known), None)
    if strange is not None:
        return _text(400, f"{name} has no check {strange[:80]!r} to exclude: its checks are {', '.join(known)}")
    kept = [check for check in checks if check.name not in excluded]
    failed = any(check.error for check in kept)
    if not failed and "verbose" not in request.query:
        return _text(200, "ok")
    lines = [
        f"[+]{check.name} excluded: ok"
        if check.name in excluded
        else f"[-]{check.name} failed: {check.error}"
        if check.error
        else f"[+]{check.name} ok"
        for check in checks
    ]
    return _text(503 if failed else 200, "\n".join([*lines, f"{name} check {'failed' if failed else 'passed'}"]))


@web.middleware
async def _sentences(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every failure with a sentence."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as refused:
        allowed = ", ".join(sorted(refused.allowed_methods))
        answer = _text(405, f"{request.path[:80]} takes {allowed}, got {request.method[:20]}")
        answer.headers["Allow"] = allowed
        return answer
    except web.HTTPException:
        return _text(404, f"there is no {request.path[:80]!r} here: kmsd answers {_PLACES}")
    except Exception as error:  # noqa: BLE001  whatever it is, its text may hold what must not leave the process
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        log.error("internal error", path=request.path[:80], type=type(error).__name__, at=where)
        return _text(500, f"kmsd failed inside {request.path[:80]} ({type(error).__name__}); see kmsd's log")


def _text(status: int, words: str) -> web.Response:
    return web.Response(status=status, text=f"{words}\n", headers=_HEADERS)
