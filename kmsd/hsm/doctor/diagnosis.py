"""A probe of a token that is serving meanwhile, or a look at one that is away: what `kmsctl doctor` asks for.

The checks run in the token's host, beside the workers, on a thread and sessions of their own, so that calls go on being
answered; a module that only one thread may be inside of gets them a few at a time, between the calls. A token that is
away is looked at without a login, by a host of its own. Knows nothing of gRPC.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from kmsd.errors import DeadlineExceeded, KmsdError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.doctor import checks
from kmsd.hsm.doctor.findings import Findings, Report
from kmsd.hsm.doctor.probe import check_token, found_so_far, report, survey
from kmsd.hsm.host.module import module_path
from kmsd.hsm.login import ask_directly
from kmsd.hsm.vendors import quirks

_GRACE: Final = 1.0
"""Seconds that the check which is under way at the end of the time may take to come back."""
_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class _Stopped:
    """The reason why the checks did not come to their end, and what to do."""

    why: str
    fix: str


async def diagnose(hsm: Hsm, aes_id: bytes | None, hmac_id: bytes | None, seconds: float) -> Report:
    """Return what the token can do, or why it is away. Never raises because of the token: what fails is a finding.

    aes_id, hmac_id: see `Plan`. seconds: for all checks; what is not done by then is left out, and that is a finding.
    """
    connected = hsm.connected
    if connected is None:
        return await _away(hsm, min(seconds, _LOOK_SECONDS))
    began = monotonic()
    # One more session holds the login.
    opened = hsm.pool_view().open + 1
    stopped: _Stopped | None = None
    try:
        seen = await hsm.run(
            check_token,
            aes_id,
            hmac_id,
            opened,
            await hsm.beside.process() is not None,
            seconds,
            timeout=seconds + _GRACE,
            retry=False,
        )
        found, stopped = seen.found, None if seen.whole else _SLOW
        if seen.pin_refused:
            await hsm.beside.pin_was_refused()
    except KmsdError as error:
        found = Findings()
        stopped = _Stopped(error.message, "see kmsctl status, then look again")
        if isinstance(error, DeadlineExceeded):
            stopped = _HANGS
            # What was found before counts. Another host may serve by now, which knows nothing of it.
            with contextlib.suppress(KmsdError):
                found = await ask_directly(connected.host, found_so_far, _GRACE)
    if stopped is not None:
        why = f"not all were made in {monotonic() - began:.0f} s: {stopped.why}"
        found.note("complete", "All checks", "failed", why, stopped.fix)
    elif hsm.connected is connected:
        checks.room(found, connected.quirks, hsm.room)
    return report(found, connected.module, connected.token.label, connected.quirks, whole=stopped is None)


_SLOW: Final = _Stopped("the token is slow", "give it longer: kmsctl doctor --timeout 60s")
_HANGS: Final = _Stopped("the token does not answer", "check the token and the network to it")


async def _away(hsm: Hsm, seconds: float) -> Report:
    """Report on a token that is down: what can be seen without a login, and why it is down."""
    try:
        seen = await hsm.look(survey, hsm.address, timeout=seconds)
        found, path, label = seen.found, seen.module, seen.token
        row = quirks.choose(seen.provider, path)
    except KmsdError as error:
        found = Findings()
        path, label = _path(hsm), hsm.address.label
        row = quirks.choose(hsm.address.provider, path)
        found.note("module", "PKCS#11 module", "failed", error.message, error.hint)
    if hsm.refused:
        for check in found.checks:
            if check.name == "login":
                at = found.checks.index(check)
                found.checks[at] = replace(check, seen="a PIN that was refused is not tried again", fix=hsm.error.hint)
    found.checks = [each for each in found.checks if each.name != "token" or each.seen != hsm.error.message]
    found.note("connection", "Connection", "failed", hsm.error.message, hsm.error.hint)
    return report(found, path, label, row, whole=False)


def _path(hsm: Hsm) -> str:
    try:
        return module_path(hsm.address.provider, hsm.address.module)
    except KmsdError:
        return hsm.address.module
