"""Looking at what a token can really do, and what kmsd will make of it: what `kmsctl doctor` shows.

The checks work with keys that they make for one session, which no other program sees; where the token makes none (a
TPM) with the operator's own, to encrypt bytes of no meaning. What has to be made on the token itself is labelled
`kmsd-probe-...` and destroyed again at the end. Nobody else's object is changed, and no PIN is tried.

Runs on a thread that may block, beside whatever else the process does with the token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from kmsd.hsm import calls, checks
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.findings import NOTHING_FITS, ONLY_RSA, Findings, Outcome, Plan, Report, Verdict, judge
from kmsd.hsm.module import Module, SlotView
from kmsd.hsm.quirks import Quirks
from kmsd.hsm.trials import Place


def probe(module: Module, slot: SlotView, plan: Plan) -> Report:
    """Run all checks on the token in a slot, which this process is logged in to. Never raises: a check that cannot be
    made is a finding."""
    found = Findings()
    for _ in stages(found, module, slot, plan):
        pass
    return report(found, module.path, slot.token.label if slot.token else "", plan.quirks)


def stages(found: Findings, module: Module, slot: SlotView, plan: Plan) -> Iterator[None]:
    """The checks of `probe`, with rests between them, in which it holds nothing of the token's: whoever runs them may
    stop there, or go on later. Never raises."""
    place = Place(module.cryptoki.table, slot.slot_id)
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
    _guarded(found, "sessions", "Sessions", lambda: checks.sessions(found, place, wanted, plan.opened))
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


def _mechanisms(found: Findings, module: Module, place: Place, plan: Plan, writable: bool) -> None:
    listed = calls.mechanisms(place.table, place.slot)
    # The keys to try with live as long as the session that made them.
    with place.session(rw=writable) as holder:
        keys = checks.keys(found, module.cryptoki, place, holder, plan)
        if keys.aes is not None:
            checks.gcm(found, place, keys.aes, listed)
            checks.blocks(found, place, keys.aes, listed, plan.quirks)
        checks.hmac(found, place, keys, listed, plan.quirks)
        many = module.multithreaded and not plan.quirks.serial
        checks.speed(found, place, keys, min(plan.sessions, 8) if many else 1)


def _oaep(found: Findings, place: Place, plan: Plan) -> None:
    needed = judge(found.abilities(), cbc_from_ecb=plan.quirks.cbc_from_ecb).algorithm == "none"
    if plan.slow or needed:
        checks.oaep(found, place, calls.mechanisms(place.table, place.slot), plan.quirks, needed=needed)


def _remedy(verdict: Verdict, *, whole: bool) -> str:
    if verdict.algorithm == "rsa-oaep":
        return ONLY_RSA
    return NOTHING_FITS if whole else "mend what failed above, then look again"


def report(found: Findings, module: str, token: str, quirks: Quirks, *, whole: bool = True) -> Report:
    """What the findings come to. module: path. token: label. whole: every check was made."""
    able = found.abilities()
    gcm_tried = any(check.name == "gcm_12" and check.outcome != "not applicable" for check in found.checks)
    verdict = judge(able, cbc_from_ecb=quirks.cbc_from_ecb, gcm_listed=gcm_tried)
    if not whole and verdict.algorithm == "none":
        verdict = replace(verdict, why="not all that is needed could be tried")
    outcomes: dict[str, Outcome] = {"none": "failed", "rsa-oaep": "warning"}
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
