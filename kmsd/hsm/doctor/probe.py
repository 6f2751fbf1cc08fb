"""Looking at what a token can really do, and what kmsd will make of it: what `kmsctl doctor` shows.

The checks work with keys that they make for one session, which no other program sees; where the token makes none (a
TPM) with the operator's own, to encrypt bytes of no meaning. What has to be made on the token itself is labelled
`kmsd-probe-...` and destroyed again at the end. Nobody else's object is changed, and no PIN is tried.

Runs on a thread that may block, beside whatever else the process does with the token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, Literal

from kmsd.errors import KmsdError
from kmsd.hsm.address import TokenAddress, choose_slot
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.doctor import checks
from kmsd.hsm.doctor.findings import NOTHING_FITS, ONLY_RSA, Findings, Outcome, ProbePlan, Report, Verdict, judge
from kmsd.hsm.host import info
from kmsd.hsm.host.info import SlotView
from kmsd.hsm.host.module import Module
from kmsd.hsm.host.opening import OpenToken
from kmsd.hsm.host.trials import NoSession, TrialPlace
from kmsd.hsm.operation import Operation, operation
from kmsd.hsm.other_process import OtherProcess
from kmsd.hsm.vendors import quirks
from kmsd.hsm.vendors.quirks import Quirks

_NO_SESSION: Final = "not tried: no session of the token is free now (CKR_SESSION_COUNT)"


def probe(module: Module, slot: SlotView, plan: ProbePlan) -> Report:
    """Run all checks on the token in a slot, which this process is logged in to. Never raises: a check that cannot be
    made is a finding."""
    found = Findings()
    for _ in stages(found, module, slot, plan):
        pass
    return report(found, module.path, slot.token.label if slot.token else "", plan.quirks)


def stages(found: Findings, module: Module, slot: SlotView, plan: ProbePlan) -> Iterator[None]:
    """Make the checks of `probe`, with rests between them, in which it holds nothing of the token's: whoever runs them
    may stop there, or go on later. Never raises."""
    place = TrialPlace(module.cryptoki.table, slot.slot_id)
    _guarded(found, "module", "PKCS#11 module", lambda: checks.module(found, module))
    _guarded(found, "slots", "Slots", lambda: checks.slots(found, module.slots()))
    yield
    view = slot.token
    if view is None:
        found.note("token", "Token", "failed", f"there is none in slot {slot.slot_id}", "insert or initialise it")
        return
    checks.token(found, place, view)
    _guarded(found, "login", "Login", lambda: checks.login(found, place, view))
    checks.pin(found, view)
    _guarded(found, "random", "Random numbers", lambda: checks.random(found, place))
    yield
    writable = "WRITE_PROTECTED" not in view.flags
    _guarded(found, "mechanisms", "Mechanisms", lambda: _mechanisms(found, module, place, plan, writable))
    yield
    _guarded(found, "oaep_sha256", "RSA-OAEP with SHA-256", lambda: _oaep(found, place, plan))
    yield
    token = module.cryptoki
    _guarded(found, "relabel", "Relabelling", lambda: checks.relabel(found, token, place, plan.quirks))
    yield
    # One more holds the login, and one is opened for each change.
    wanted = max(1, plan.sessions + 2 - plan.opened)
    _guarded(found, "sessions", "Sessions", lambda: checks.sessions(found, place, wanted, plan))
    yield
    _guarded(
        *(found, "foreign_changes", "Keys made by other programs"),
        lambda: checks.foreign(found, token, place, plan),
    )


def _guarded(found: Findings, name: str, title: str, check: Callable[[], None]) -> None:
    try:
        check()
    except CkrError as error:
        found.note(name, title, "failed", str(error), "check the token; what it says of this is in its vendor's manual")
    except NoSession:
        found.note(
            name, title, "warning", _NO_SESSION, "end other programs that use the token, or lower token.sessions"
        )


def _mechanisms(found: Findings, module: Module, place: TrialPlace, plan: ProbePlan, writable: bool) -> None:
    listed = info.mechanisms(place.table, place.slot)
    # The keys to try with live as long as the session that made them.
    with place.session(rw=writable) as holder:
        keys = checks.keys(found, module.cryptoki, place, holder, plan)
        if keys.aes is not None:
            checks.gcm(found, place, keys.aes, listed)
            checks.blocks(found, place, keys.aes, listed, plan.quirks)
        checks.hmac(found, place, keys, listed, plan.quirks)
        many = module.multithreaded and not plan.quirks.serial
        checks.speed(found, place, keys, min(plan.sessions, 8) if many else 1)


def _oaep(found: Findings, place: TrialPlace, plan: ProbePlan) -> None:
    needed = judge(found.abilities(), cbc_from_ecb=plan.quirks.cbc_from_ecb).algorithm == "none"
    if plan.slow or needed:
        checks.oaep(found, place, info.mechanisms(place.table, place.slot), plan.quirks, needed=needed)


def _remedy(verdict: Verdict, *, whole: bool) -> str:
    if verdict.algorithm == "rsa-oaep":
        return ONLY_RSA
    return NOTHING_FITS if whole else "mend what failed above, then look again"


def report(found: Findings, module: str, token: str, quirks: Quirks, *, whole: bool = True) -> Report:
    """Report what the findings come to. module: path. token: label. whole: every check was made."""
    crowded = any(check.seen == _NO_SESSION for check in found.checks)
    able = found.abilities()
    gcm_tried = any(check.name == "gcm_12" and check.outcome != "not applicable" for check in found.checks)
    verdict = judge(able, cbc_from_ecb=quirks.cbc_from_ecb, gcm_listed=gcm_tried)
    whole = whole and not crowded
    if not whole and verdict.algorithm == "none":
        verdict = replace(verdict, why="not all that is needed could be tried")
    outcomes: dict[str, Outcome] = {"none": "warning" if crowded else "failed", "rsa-oaep": "warning"}
    found.note(
        *("verdict", "Verdict", outcomes.get(verdict.algorithm, "ok")),
        f"{verdict.enc or 'nothing'}: {verdict.why}",
        _remedy(verdict, whole=whole),
    )
    library = next((check.seen for check in found.checks if check.name == "module"), "")
    return Report(
        provider=quirks.name,
        title=quirks.title,
        module=module,
        library=library,
        token=token,
        checks=tuple(found.checks),
        timings=tuple(found.timings),
        abilities=able,
        verdict=verdict,
    )


# The operations that a host does for `kmsd.hsm.doctor.diagnosis`.


@dataclass(frozen=True)
class ProbeResult:
    """The result of the checks. whole: all were made. pin_refused: the token did not take this login's PIN from another
    process."""

    found: Findings
    whole: bool
    pin_refused: bool = False


@dataclass(frozen=True)
class Survey:
    """The result of a look without a login. provider: name of the row of quirks. module: path. token: label."""

    found: Findings
    provider: str
    module: str
    token: str


@operation(Operation.DIAGNOSE, alone=True)
def check_token(
    token: OpenToken, aes_id: bytes | None, hmac_id: bytes | None, opened: int, elsewhere: bool, seconds: float
) -> ProbeResult:
    """Make the checks, in the host. opened: sessions that are open already. elsewhere: whether another process may log
    in, too. seconds: for all of them."""
    until = monotonic() + seconds
    where, row = token.found, token.found.quirks
    many = where.multithreaded
    other = OtherProcess(where.module, where.token.label, token.pin) if elsewhere and many else None
    plan = ProbePlan(
        row,
        aes_id=aes_id,
        hmac_id=hmac_id,
        sessions=token.address.sessions if many and token.address is not None else 1,
        sessions_grown=token.address.most_sessions if many and token.address is not None else 1,
        opened=opened,
        elsewhere=other,
        slow=True,
    )
    found = token.findings = Findings()
    try:
        slots = token.module.slots()
    except CkrError:
        slots = []  # the first check meets it again, and says so
    gone = SlotView(where.slot_id, "", "", None, where.module, None)
    slot = next((each for each in slots if each.slot_id == where.slot_id), gone)
    if slot.token is not None and slot.token.pin_warnings:
        # Nothing logs in that does not have to while tries are being counted.
        plan = replace(plan, elsewhere=None)
    work = stages(found, token.module, slot, plan)
    while True:
        with token.alone():
            whole = next(work, _OVER) is _OVER
        if whole or monotonic() > until:
            return ProbeResult(found, whole, other is not None and other.pin_refused)


@operation(Operation.LIST_FINDINGS, alone=True)
def found_so_far(token: OpenToken) -> Findings:
    """Return what was found by the checks that are under way, in the host."""
    found = token.findings
    return Findings(list(found.checks), list(found.timings), dict(found.able))


_OVER: Final[Literal["over"]] = "over"


@operation(Operation.SURVEY, alone=True)
def survey(token: OpenToken, address: TokenAddress) -> Survey:
    """Look without a login, in a host. Raises CkrError and KmsdError."""
    token.address = address
    module = token.module
    found = Findings()
    checks.module(found, module)
    slots = module.slots()
    checks.slots(found, slots)
    row = quirks.choose(address.provider, module.path)
    try:
        slot = choose_slot(slots, address, module.path)
    except KmsdError as error:
        found.note("token", "Token", "failed", error.message, error.hint)
        return Survey(found, row.name, module.path, address.label)
    view = slot.token
    if view is None:  # choose_slot takes no empty one
        raise CkrError("CKR_TOKEN_NOT_PRESENT", "C_GetTokenInfo")
    row = quirks.choose(address.provider, module.path, view.manufacturer)
    checks.token(found, TrialPlace(module.cryptoki.table, slot.slot_id), view)
    if "LOGIN_REQUIRED" in view.flags:
        found.note("login", "Login", "failed", "not logged in", "see why the connection failed, below")
    checks.pin(found, view)
    return Survey(found, row.name, module.path, view.label)
