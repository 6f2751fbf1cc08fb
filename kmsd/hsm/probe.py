"""Looking at what a token can really do, and what kmsd will make of it: the checks behind `kmsctl doctor`.

Each check says what was seen and, where it is not well, what to do. They work with keys that they make themselves,
most of them session objects that no other program sees; where the token makes none (a TPM) with the operator's own, to
encrypt bytes of no meaning. What they make on the token is labelled `kmsd-probe-...` and destroyed again at the end.
Nobody else's object is changed, and no PIN is tried that was not right before.

Runs on a thread that may block, beside whatever else the process does with the token.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Literal, TypeVar

from kmsd.hsm import calls, cryptoki, trials
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.cryptoki import Cryptoki
from kmsd.hsm.module import Module, SlotView, TokenView
from kmsd.hsm.quirks import Quirks
from kmsd.hsm.trials import Place

T = TypeVar("T")

Outcome = Literal["ok", "warning", "failed", "not applicable"]
Algorithm = Literal["aes-gcm", "aes-cbc", "rsa-oaep", "none"]

LABEL: Final = "kmsd-probe-"
"""What every object of a probe is labelled, followed by random hex. Readers of keys pass over such labels."""
_TIMED_SECONDS: Final = 0.4
_CKK_AES: Final = 0x1F
_CKK_GENERIC_SECRET: Final = 0x10
_CKO_PUBLIC_KEY: Final = 2
_CKO_PRIVATE_KEY: Final = 3
_CKA_MODULUS_BITS: Final = 0x121


@dataclass(frozen=True)
class Check:
    """One check. name: a stable word for programs; title: for people; seen: what happened; fix: what to do, or ''."""

    name: str
    title: str
    outcome: Outcome
    seen: str
    fix: str = ""


@dataclass(frozen=True)
class Timing:
    """seconds: of one operation, the median of those tried. per_second: of `threads` threads together."""

    operation: str
    seconds: float
    per_second: float
    threads: int


@dataclass(frozen=True)
class Abilities:
    """What was found to work, whatever the token lists."""

    gcm_iv_sizes: tuple[int, ...] = ()
    gcm_iv_by_token: bool = False
    cbc: bool = False
    cbc_pad: bool = False
    ecb: bool = False
    hmac_sha256: bool = False
    hmac_sha512: bool = False
    hmac_empty: bool = False
    hmac_longest: int = 0
    oaep_sha256: bool = False
    generate_aes: bool = False
    generate_hmac: bool = False
    relabel: bool = False
    sessions: int = 0
    """How many were open at once, of those asked for."""
    foreign_changes: Literal["at once", "after initialising anew", "unknown"] = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What kmsd will use. enc: as in the JWE header; '' with algorithm none."""

    algorithm: Algorithm
    enc: str
    why: str


@dataclass(frozen=True)
class Report:
    """Everything that a probe found."""

    provider: str
    module: str
    library: str
    token: str
    checks: tuple[Check, ...]
    timings: tuple[Timing, ...]
    abilities: Abilities
    verdict: Verdict


@dataclass(frozen=True)
class Plan:
    """What to probe, and with what.

    aes_id, hmac_id: CKA_ID of the operator's keys, for tokens that make none. sessions: how many kmsd uses.
    elsewhere: makes an object with the given label on the token from another process, or destroys it ("make",
    "destroy"); None: not to be tried. slow: also what takes seconds (an RSA key pair).
    """

    quirks: Quirks
    aes_id: bytes | None = None
    hmac_id: bytes | None = None
    sessions: int = 4
    elsewhere: Callable[[Literal["make", "destroy"], str], None] | None = None
    slow: bool = False


@dataclass
class _Findings:
    """Filled while the checks run."""

    checks: list[Check] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def note(self, name: str, title: str, outcome: Outcome, seen: str, fix: str = "") -> None:
        self.checks.append(Check(name, title, outcome, seen, "" if outcome == "ok" else fix))


def probe(module: Module, slot: SlotView, plan: Plan) -> Report:
    """Run all checks on the token in a slot; the process is logged in to it. Raises CkrError if not even a session
    can be opened."""
    found = _Findings()
    place = Place(module.cryptoki.table, slot.slot_id)
    info = module.info()
    library = f"{info.manufacturer}: {info.description} {info.version}".strip(": ")
    found.note("module", "PKCS#11 module", "ok", f"{library} (Cryptoki {info.cryptoki}), {module.path}")
    token = slot.token
    if token is None:
        found.note("token", "Token", "failed", f"there is none in slot {slot.slot_id}", "initialise or insert it")
        return _report(module, library, "", plan, found)
    _check_state(found, module, place, token)
    listed = calls.mechanisms(place.table, slot.slot_id)
    _check_random(found, place)
    with place.session(rw="WRITE_PROTECTED" not in token.flags) as holder:
        keys = _Keys(module.cryptoki, place, holder, plan)
        keys.make(found)
        _check_mechanisms(found, place, keys, listed, plan)
        _check_timing(found, place, keys, plan, module.multithreaded)
    _check_relabel(found, module.cryptoki, place, plan)
    _check_sessions(found, place, plan, token)
    _check_foreign(found, module.cryptoki, place, plan)
    return _report(module, library, token.label, plan, found)


def _report(module: Module, library: str, token: str, plan: Plan, found: _Findings) -> Report:
    abilities = Abilities(**found.facts)  # type: ignore[arg-type]  # every fact is named after its field
    verdict = judge(abilities)
    outcome: Outcome = "ok" if verdict.algorithm in {"aes-gcm", "aes-cbc"} else "failed"
    if verdict.algorithm == "rsa-oaep":
        outcome = "warning"
    found.note("verdict", "Verdict", outcome, f"{verdict.enc or 'nothing'}: {verdict.why}", _NO_VERDICT)
    return Report(
        provider=plan.quirks.name,
        module=module.path,
        library=library,
        token=token,
        checks=tuple(found.checks),
        timings=tuple(found.timings),
        abilities=abilities,
        verdict=verdict,
    )


_NO_VERDICT: Final = "use a token with AES-GCM, or with AES-CBC and HMAC; the failed checks say what is missing"


def judge(able: Abilities) -> Verdict:
    """The strongest of what works: AES-GCM, then encrypt-then-MAC with AES-CBC, then RSA-OAEP."""
    if 12 in able.gcm_iv_sizes:
        return Verdict("aes-gcm", "A256GCM", "AES-GCM works, with an IV of 12 bytes")
    if able.gcm_iv_by_token:
        return Verdict("aes-gcm", "A256GCM", "AES-GCM works, with an IV of 16 bytes that the token chooses")
    if able.cbc and able.hmac_sha512:
        return Verdict("aes-cbc", "A256CBC-HS512", "there is no AES-GCM, but AES-CBC and HMAC with SHA-512")
    if able.cbc and able.hmac_sha256:
        return Verdict("aes-cbc", "A256CBC-HS256", "there is neither AES-GCM nor HMAC with SHA-512")
    if able.oaep_sha256:
        return Verdict("rsa-oaep", "RSA-OAEP-256", "no usable AES: second best, the content key leaves the token")
    missing = "HMAC" if able.cbc else "AES"
    return Verdict(
        "none", "", f"neither AES-GCM, nor AES-CBC with HMAC, nor RSA-OAEP with SHA-256; {missing} is missing"
    )


# State.


def _check_state(found: _Findings, module: Module, place: Place, token: TokenView) -> None:
    found.note(
        *("threads", "Threads"),
        "ok" if module.multithreaded else "warning",
        "many may be inside the module" if module.multithreaded else "the module cannot lock, so kmsd uses one",
        "nothing is broken; it is slower",
    )
    found.note("token", "Token", "ok", f"{token.label!r} ({token.manufacturer} {token.model}) in slot {place.slot}")
    if "WRITE_PROTECTED" in token.flags:
        found.note("writable", "Writable", "warning", "the token is read-only", "make keys where it can be written")
    with place.session() as session:
        logged_in = calls.logged_in(place.table, session)
    needed = "LOGIN_REQUIRED" in token.flags
    seen = "logged in" if logged_in else "not logged in" if needed else "no login is needed"
    found.note("login", "Login", "ok" if logged_in or not needed else "failed", seen, "correct kmsd's PIN, then reload")
    warnings = token.pin_warnings
    found.note(
        *("pin", "User PIN", "warning" if warnings and needed else "ok"),
        "; ".join(warnings) or "nothing to say",
        "find who tries wrong PINs; a locked one is unlocked with the SO PIN",
    )


def _check_random(found: _Findings, place: Place) -> None:
    trial = trials.random(place)
    found.note("random", "Random numbers", _outcome(trial.works), trial.seen, "the token is not well: see its vendor")
    if trial.works:
        with place.session() as session:
            found.timings.append(_timed("random", lambda: calls.random(place.table, session, 32)))


# Keys to try with.


@dataclass
class _Keys:
    """Handles of keys to try with: made for it, or the operator's own."""

    cryptoki: Cryptoki
    place: Place
    holder: int
    plan: Plan
    aes: int | None = None
    hmac: int | None = None

    def make(self, found: _Findings) -> None:
        self.aes = self._one(found, "generate_aes", "AES", self.plan.aes_id, _aes_template(), trials.CKM_AES_KEY_GEN)
        self.hmac = self._one(
            found, "generate_hmac", "HMAC", self.plan.hmac_id, _hmac_template(), trials.CKM_GENERIC_SECRET_KEY_GEN
        )

    def _one(
        self, found: _Findings, name: str, kind: str, cka_id: bytes | None, template: calls.Template, mechanism: int
    ) -> int | None:
        title = f"{kind} key generation"
        quirks = self.plan.quirks
        try:
            handle = calls.generate_key(self.place.table, self.holder, mechanism, template)
        except CkrError as error:
            if quirks.generates_through:
                seen = f"PKCS#11 makes none here ({error.name}); {quirks.generates_through} does"
                found.note(name, title, "ok", seen)
            else:
                found.note(name, title, "failed", str(error), "make the keys with the vendor's tool")
            own = self._own(cka_id, _CKK_AES if kind == "AES" else None)
            if own is None:
                found.note(
                    *(f"{name}_key", f"{kind} key to try with", "failed", "there is none"),
                    "kmsctl keygen LABEL makes one; then probe again",
                )
            return own
        found.facts[name] = True
        found.note(name, title, "ok", "256 bits, for a session only")
        return handle

    def _own(self, cka_id: bytes | None, key_type: int | None) -> int | None:
        if not cka_id:
            return None
        template: dict[int, bytes | int | bool] = {
            cryptoki.CKA_CLASS: cryptoki.CKO_SECRET_KEY,
            cryptoki.CKA_ID: cka_id,
            **({cryptoki.CKA_KEY_TYPE: key_type} if key_type is not None else {cryptoki.CKA_SIGN: True}),
        }
        handles = self.cryptoki.find(self.holder, template, most=1)
        return handles[0] if handles else None


def _aes_template() -> calls.Template:
    return {
        cryptoki.CKA_CLASS: cryptoki.CKO_SECRET_KEY,
        cryptoki.CKA_KEY_TYPE: _CKK_AES,
        cryptoki.CKA_TOKEN: False,
        cryptoki.CKA_PRIVATE: True,
        cryptoki.CKA_SENSITIVE: True,
        cryptoki.CKA_EXTRACTABLE: False,
        cryptoki.CKA_ENCRYPT: True,
        cryptoki.CKA_DECRYPT: True,
        cryptoki.CKA_VALUE_LEN: 32,
        cryptoki.CKA_LABEL: _label().encode(),
    }


def _hmac_template() -> calls.Template:
    return {
        cryptoki.CKA_CLASS: cryptoki.CKO_SECRET_KEY,
        cryptoki.CKA_KEY_TYPE: _CKK_GENERIC_SECRET,
        cryptoki.CKA_TOKEN: False,
        cryptoki.CKA_PRIVATE: True,
        cryptoki.CKA_SENSITIVE: True,
        cryptoki.CKA_EXTRACTABLE: False,
        cryptoki.CKA_SIGN: True,
        cryptoki.CKA_VERIFY: True,
        cryptoki.CKA_VALUE_LEN: 64,
        cryptoki.CKA_LABEL: _label().encode(),
    }


def _label() -> str:
    return LABEL + os.urandom(6).hex()


# Mechanisms.


def _check_mechanisms(found: _Findings, place: Place, keys: _Keys, listed: frozenset[int], plan: Plan) -> None:
    if keys.aes is not None:
        _check_gcm(found, place, keys.aes, listed)
        _check_blocks(found, place, keys.aes, listed, plan)
    if keys.hmac is not None:
        _check_hmac(found, place, keys.hmac, listed)
    usable = found.facts.get("gcm_iv_sizes") or (found.facts.get("cbc") and found.facts.get("hmac_sha256"))
    if plan.slow or not usable:
        _check_oaep(found, place, listed)


def _check_gcm(found: _Findings, place: Place, key: int, listed: frozenset[int]) -> None:
    works: list[int] = []
    for size in (12, 16):
        name, title = f"gcm_{size}", f"AES-GCM, {size}-byte IV"
        if trials.CKM_AES_GCM not in listed:
            found.note(name, title, "not applicable", "the token does not list it")
            continue
        trial = trials.gcm(place, key, size)
        if trial.works and trial.iv_by_token:
            found.facts["gcm_iv_by_token"] = True
            found.note(name, title, "ok", trial.seen)
        elif trial.works:
            works.append(size)
            found.note(name, title, "ok", trial.seen)
        else:
            found.note(name, title, "failed", trial.seen, "listed, but of no use: kmsd takes AES-CBC with HMAC instead")
    found.facts["gcm_iv_sizes"] = tuple(works)


def _check_blocks(found: _Findings, place: Place, key: int, listed: frozenset[int], plan: Plan) -> None:
    if trials.CKM_AES_CBC in listed:
        trial = trials.cbc(place, key)
        found.facts["cbc"] = trial.works
        found.note("cbc", "AES-CBC, whole blocks", _outcome(trial.works), trial.seen, "AES-GCM needs it not")
    else:
        found.note("cbc", "AES-CBC, whole blocks", "not applicable", "the token does not list it")
    if trials.CKM_AES_CBC_PAD in listed:
        trial = trials.cbc_pad(place, key)
        found.facts["cbc_pad"] = trial.works
        found.note(
            *("cbc_pad", "AES-CBC, padded by the token", "ok" if trial.works else "warning", trial.seen),
            "nothing: kmsd pads by itself and never uses this",
        )
    else:
        found.note("cbc_pad", "AES-CBC, padded by the token", "not applicable", "the token does not list it")
    if trials.CKM_AES_ECB in listed and plan.quirks.cbc_from_ecb:
        trial = trials.ecb(place, key)
        found.facts["ecb"] = trial.works
        found.note("ecb", "AES, single blocks", _outcome(trial.works), trial.seen, "the token's AES is of no use")


def _check_hmac(found: _Findings, place: Place, key: int, listed: frozenset[int]) -> None:
    for bits, mechanism in ((256, trials.CKM_SHA256_HMAC), (512, trials.CKM_SHA512_HMAC)):
        name, title = f"hmac_sha{bits}", f"HMAC with SHA-{bits}"
        if mechanism not in listed:
            found.note(name, title, "not applicable", "the token does not list it")
            continue
        trial = trials.hmac(place, key, mechanism, bits // 8)
        found.facts[name] = trial.works
        if trial.works and not found.facts.get("hmac_longest"):
            found.facts["hmac_empty"] = trial.empty
            found.facts["hmac_longest"] = trial.longest
        found.note(name, title, "ok" if trial.works else "warning", trial.seen, "AES-CBC pairs use the other one")


def _check_oaep(found: _Findings, place: Place, listed: frozenset[int]) -> None:
    name, title = "oaep_sha256", "RSA-OAEP with SHA-256"
    if not {trials.CKM_RSA_PKCS_OAEP, trials.CKM_RSA_PKCS_KEY_PAIR_GEN} <= listed:
        found.note(name, title, "not applicable", "the token does not list it")
        return
    label = _label().encode()
    # The least that tokens agree on; a pair of session objects is gone with its session.
    public: calls.Template = {
        cryptoki.CKA_TOKEN: False,
        cryptoki.CKA_LABEL: label,
        cryptoki.CKA_ENCRYPT: True,
        _CKA_MODULUS_BITS: 2048,
        0x122: b"\x01\x00\x01",
    }
    private: calls.Template = {
        cryptoki.CKA_TOKEN: False,
        cryptoki.CKA_LABEL: label,
        cryptoki.CKA_PRIVATE: True,
        cryptoki.CKA_SENSITIVE: True,
        cryptoki.CKA_EXTRACTABLE: False,
        cryptoki.CKA_DECRYPT: True,
    }
    with place.session(rw=True) as session:
        try:
            pair = calls.generate_key_pair(place.table, session, trials.CKM_RSA_PKCS_KEY_PAIR_GEN, public, private)
        except CkrError as error:
            found.note(name, title, "not applicable", f"no key pair to try with: {error}")
            return
        trial = trials.oaep(place, *pair)
        found.facts[name] = trial.works
        found.note(name, title, "ok" if trial.works else "warning", trial.seen, "AES is better in any case")


# Objects.


def _check_relabel(found: _Findings, token: Cryptoki, place: Place, plan: Plan) -> None:
    """With a key of the probe's own on the token; rotation moves labels."""
    name, title = "relabel", "Relabelling"
    if not found.facts.get("generate_aes"):
        outcome: Outcome = "ok" if plan.quirks.generates_through else "not applicable"
        seen = "not tried: the token makes no key to try it with"
        found.note(name, title, outcome, f"{seen}; known to work" if outcome == "ok" else seen)
        return
    first, second = _label(), _label()
    template = {
        **_aes_template(),
        cryptoki.CKA_TOKEN: True,
        cryptoki.CKA_ID: first.encode(),
        cryptoki.CKA_LABEL: first.encode(),
    }
    try:
        with place.session(rw=True) as session, _removed(token, session, first):
            handle = calls.generate_key(place.table, session, trials.CKM_AES_KEY_GEN, template)
            calls.set_attributes(place.table, session, handle, {cryptoki.CKA_LABEL: second.encode()})
            with place.session() as other:
                there = token.find(other, {cryptoki.CKA_LABEL: second.encode()})
                gone = not token.find(other, {cryptoki.CKA_LABEL: first.encode()})
    except CkrError as error:
        found.note(name, title, "failed", str(error), "kmsctl rotate cannot work here: make the token writable")
        return
    works = len(there) == 1 and gone
    found.facts[name] = works
    found.note(
        *(name, title, _outcome(works)),
        "a key made on the token was given another label, and destroyed" if works else "the label did not change",
        "kmsctl rotate cannot work here: see the token's vendor",
    )


@contextlib.contextmanager
def _removed(token: Cryptoki, session: int, cka_id: str) -> Iterator[None]:
    """Whatever happens, no object with this CKA_ID of the probe's own is left."""
    try:
        yield
    finally:
        with contextlib.suppress(CkrError):
            for handle in token.find(session, {cryptoki.CKA_ID: cka_id.encode()}):
                calls.destroy_object(token.table, session, handle)


def _check_sessions(found: _Findings, place: Place, plan: Plan, token: TokenView) -> None:
    name, title = "sessions", "Sessions"
    # One holds the login, and one is opened for each change.
    wanted = plan.sessions + 2
    opened: list[int] = []
    problem = ""
    try:
        for _ in range(wanted):
            opened.append(calls.open_session(place.table, place.slot))
    except CkrError as error:
        problem = f"; one more: {error.name}"
    finally:
        for handle in opened:
            with contextlib.suppress(CkrError):
                calls.close_session(place.table, handle)
    found.facts[name] = len(opened)
    most = calls.token_info(place.table, place.slot).max_sessions
    bound = f"; the token names a bound of {most}" if most else ""
    found.note(
        *(name, title, "warning" if problem else "ok"),
        f"{len(opened)} more could be opened, of {wanted}{problem}{bound}",
        "lower token.sessions, or close those of other programs",
    )


def _check_foreign(found: _Findings, token: Cryptoki, place: Place, plan: Plan) -> None:
    """Whether a key that another program makes is seen without initialising the module anew."""
    name, title = "foreign_changes", "Keys made by other programs"
    if plan.elsewhere is None or not found.facts.get("generate_aes"):
        known = plan.quirks.foreign_changes
        found.facts[name] = known
        found.note(name, title, "not applicable", f"not tried; what is known: {known}")
        return
    label = _label()
    try:
        plan.elsewhere("make", label)
        try:
            with place.session() as session:
                at_once = bool(token.find(session, {cryptoki.CKA_LABEL: label.encode()}))
        finally:
            plan.elsewhere("destroy", label)
    except (CkrError, OSError, ValueError) as error:
        found.note(
            name, title, "warning", f"could not be tried: {error}", "kmsd looks again every keys.refresh seconds"
        )
        return
    found.facts[name] = "at once" if at_once else "after initialising anew"
    found.note(
        *(name, title, "ok" if at_once else "warning"),
        "seen at once" if at_once else "not seen before the module is initialised anew",
        "kmsd initialises the module anew when it meets a key id that it does not know",
    )


# Timing.


def _check_timing(found: _Findings, place: Place, keys: _Keys, plan: Plan, multithreaded: bool) -> None:
    threads = min(plan.sessions, 8) if multithreaded else 1
    message, iv = os.urandom(48), os.urandom(16)
    if keys.aes is not None and found.facts.get("gcm_iv_sizes"):
        parameter: calls.Parameter = trials.gcm_params(iv[:12], b"probe")
        found.timings.append(_encrypting(place, "AES-GCM", keys.aes, trials.CKM_AES_GCM, parameter, message, threads))
    elif keys.aes is not None and found.facts.get("cbc"):
        found.timings.append(_encrypting(place, "AES-CBC", keys.aes, trials.CKM_AES_CBC, iv, message, threads))
    if keys.hmac is not None and found.facts.get("hmac_sha256") and not found.facts.get("gcm_iv_sizes"):
        key = keys.hmac

        def sign(session: int) -> None:
            calls.sign(place.table, session, key, trials.CKM_SHA256_HMAC, message)

        found.timings.append(_together(place, "HMAC", sign, threads))
    for timing in found.timings:
        found.note(
            *(f"speed_{timing.operation.lower().replace('-', '_')}", f"Speed of {timing.operation}", "ok"),
            f"{timing.seconds * 1e6:.0f} us each, {timing.per_second:.0f} per second on {timing.threads} threads",
        )


def _encrypting(
    place: Place, name: str, key: int, mechanism: int, parameter: calls.Parameter, message: bytes, threads: int
) -> Timing:
    def encrypt(session: int) -> None:
        calls.encrypt(place.table, session, key, mechanism, parameter, message)

    return _together(place, name, encrypt, threads)


def _together(place: Place, name: str, work: Callable[[int], object], threads: int) -> Timing:
    """One thread alone for the time of an operation, then all of them for what they do together."""
    with place.session() as session:
        alone = _timed(name, lambda: work(session))
    done: list[int] = []

    def run() -> None:
        with contextlib.suppress(CkrError), place.session() as own:
            until, count = perf_counter() + _TIMED_SECONDS, 0
            while perf_counter() < until:
                work(own)
                count += 1
            done.append(count)

    workers = [threading.Thread(target=run, name=f"probe-{number}") for number in range(threads)]
    began = perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Timing(name, alone.seconds, sum(done) / (perf_counter() - began), threads)


def _timed(name: str, work: Callable[[], object]) -> Timing:
    times: list[float] = []
    began = perf_counter()
    while not times or (perf_counter() - began < _TIMED_SECONDS and len(times) < 1000):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return Timing(name, sorted(times)[len(times) // 2], len(times) / (perf_counter() - began), 1)


def _outcome(works: bool) -> Outcome:
    return "ok" if works else "failed"
