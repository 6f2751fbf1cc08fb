"""The checks of a probe, one function each: what was seen goes into the findings, in words and with a fix.

None of them changes what others made, and none tries a PIN. Knows nothing of the order, or of a verdict.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kmsd.hsm.ckr import CkrError
from kmsd.hsm.doctor import pace
from kmsd.hsm.doctor.findings import NOTHING_FITS, PROBE_LABEL, Findings, Outcome, ProbePlan
from kmsd.hsm.host import calls, cryptoki, info, trials
from kmsd.hsm.host.cryptoki import Cryptoki, Template
from kmsd.hsm.host.info import SlotView, TokenView
from kmsd.hsm.host.keys import new_rsa, new_secret
from kmsd.hsm.host.module import Module
from kmsd.hsm.host.trials import TrialPlace
from kmsd.hsm.vendors.quirks import Quirks
from kmsd.hsm.vendors.tpm_key_slots import Room

_KEY_TYPES_OF_SHA: Final = {256: 0x2B, 512: 0x2D}
"""CKK_SHA256_HMAC, CKK_SHA512_HMAC: such a key serves one hash."""

_SLOTS_SHOWN: Final = 8
_GCM_FIX: Final = {
    12: "kmsd does without, with AES-CBC pairs; what is between it and the token may be too old (p11-kit)",
    16: "only what k8s-kms-plugin wrote with AES-GCM needs this, and writing its format",
}
_LONGEST: Final = 65536
"""Bytes of a message to try where no bound is known: more than kmsd ever authenticates at once."""


@dataclass(frozen=True)
class ProbeKeys:
    """The handles of keys to try with; None where there is none."""

    aes: int | None
    hmac: int | None
    hmac_type: int = cryptoki.CKK_GENERIC_SECRET
    """CKA_KEY_TYPE of the HMAC key."""


def new_label() -> str:
    """Make a label of the probe's own that nobody else has."""
    return PROBE_LABEL + os.urandom(6).hex()


def _outcome(works: bool, otherwise: Outcome = "failed") -> Outcome:
    return "ok" if works else otherwise


# The token as it is.


def module(found: Findings, loaded: Module) -> None:
    """Note what the module says of itself."""
    info = loaded.info()
    said = f"{info.manufacturer}: {info.description} {info.version}"
    found.note("module", "PKCS#11 module", "ok", f"{said} (Cryptoki {info.cryptoki}), {loaded.path}")
    found.note(
        *("threads", "Threads", _outcome(loaded.multithreaded, "warning")),
        "many may be inside the module" if loaded.multithreaded else "the module cannot lock, so kmsd uses one",
        "nothing is broken; it is slower than it could be",
    )


def slots(found: Findings, views: Sequence[SlotView]) -> None:
    """Note which tokens are there."""
    present = [each for each in views if each.token is not None and "TOKEN_INITIALIZED" in each.token.flags]
    shown = [f"{each.token.label!r} in slot {each.slot_id}" for each in present[:_SLOTS_SHOWN] if each.token]
    if len(present) > _SLOTS_SHOWN:
        shown.append(f"{len(present) - _SLOTS_SHOWN} more")
    found.note(
        *("slots", "Slots", _outcome(bool(present))),
        f"{len(views)} in all; tokens: {', '.join(shown) or 'none'}",
        "connect the device, or what stands for it; initialise a token",
    )


def token(found: Findings, place: TrialPlace, view: TokenView) -> None:
    """Note what the token says of itself."""
    is_what = f"{view.manufacturer} {view.model}".strip()
    found.note("token", "Token", "ok", f"{view.label!r} in slot {place.slot} ({is_what}, serial number {view.serial})")
    if "WRITE_PROTECTED" in view.flags:
        found.note("writable", "Writable", "warning", "the token is read-only", "make keys where it can be written")


def login(found: Findings, place: TrialPlace, view: TokenView) -> None:
    """Note whether the token is logged in to."""
    needed = "LOGIN_REQUIRED" in view.flags
    with place.session() as session:
        logged_in = calls.logged_in(place.table, session)
    seen = "logged in" if logged_in else "not logged in" if needed else "no login is needed"
    found.note(
        *("login", "Login", _outcome(logged_in or not needed), seen),
        "correct the PIN that kmsd reads, then reload kmsd",
    )


def pin(found: Findings, view: TokenView) -> None:
    """Note what the token's flags say of the PIN; nothing is called."""
    warnings = view.pin_warnings if "LOGIN_REQUIRED" in view.flags else ()
    found.note(
        *("pin", "User PIN", _outcome(not warnings, "warning"), "; ".join(warnings) or "no warning of the token's"),
        "find out who tries wrong PINs; a locked one is unlocked with the SO PIN",
    )


def random(found: Findings, place: TrialPlace) -> None:
    """Note what the random generator does."""
    trial = trials.random(place)
    found.note("random", "Random numbers", _outcome(trial.works), trial.seen, "see the token's vendor: nothing is safe")
    if trial.works:
        with place.session() as session:
            found.timings.append(pace.alone("random", lambda: calls.random(place.table, session, 32)))


def sessions(found: Findings, place: TrialPlace, wanted: int, plan: ProbePlan) -> None:
    """Note how many sessions the token opens. wanted: how many are to be open at once, besides those that this process
    has open."""
    opened: list[int] = []
    problem = ""
    try:
        # What was opened before an error is in the list.
        opened.extend(calls.open_session(place.table, place.slot) for _ in range(wanted))
    except CkrError as error:
        problem = f"; then {error.name}"
    finally:
        for handle in opened:
            with contextlib.suppress(CkrError):
                calls.close_session(place.table, handle)
    found.able["sessions"] = len(opened)
    most = info.token_view(place.table, place.slot)[1].most
    bound = f"; the token names a bound of {most}" if most else ""
    grown = f", and opens up to {plan.sessions_grown} to serve with" if plan.sessions_grown > plan.sessions else ""
    beside = f"; kmsd has {plan.opened} open{grown}" if plan.opened else ""
    found.note(
        *("sessions", "Sessions", _outcome(not problem, "warning")),
        f"{len(opened)} more of {wanted} could be opened{problem}{beside}{bound}",
        "lower token.sessions, or end other programs that use the token",
    )


def room(found: Findings, row: Quirks, places: Room | None) -> None:
    """Note how many places for keys there are, on a kind of token that has few. places: None if a resource manager
    shares them out."""
    if row.keys_per_login is None:
        return
    name, title = "room", "Room for keys"
    if places is None:
        found.note(name, title, "ok", "a resource manager shares out the memory of the device")
        return
    error = places.error("this token")
    found.note(name, title, "failed" if places.crowded else "warning", error.message, error.hint)


# Keys to try with.


def keys(found: Findings, token: Cryptoki, place: TrialPlace, holder: int, plan: ProbePlan) -> ProbeKeys:
    """Make session keys to try with, gone with the session `holder`; else take the operator's own."""
    aes = _generate(found, place, holder, plan.quirks, "aes")
    if aes is None:
        aes = _own(found, token, holder, plan.aes_id, {cryptoki.CKA_KEY_TYPE: cryptoki.CKK_AES}, "AES")
    hmac = _generate(found, place, holder, plan.quirks, "hmac")
    hmac_type = cryptoki.CKK_GENERIC_SECRET
    if hmac is None:
        hmac = _own(found, token, holder, plan.hmac_id, {cryptoki.CKA_SIGN: True}, "HMAC")
        if hmac is not None:
            raw = token.attributes(holder, hmac, (cryptoki.CKA_KEY_TYPE,)).get(cryptoki.CKA_KEY_TYPE, b"")
            hmac_type = int.from_bytes(raw, "little") if raw else hmac_type
    return ProbeKeys(aes, hmac, hmac_type)


def _generate(
    found: Findings, place: TrialPlace, holder: int, quirks: Quirks, kind: Literal["aes", "hmac"]
) -> int | None:
    name, title = f"generate_{kind}", f"{kind.upper()} key generation"
    if quirks.generates_through:
        found.note(name, title, "ok", f"by {quirks.generates_through}; PKCS#11 makes none on this kind of token")
        return None
    mechanism = cryptoki.CKM_AES_KEY_GEN if kind == "aes" else cryptoki.CKM_GENERIC_SECRET_KEY_GEN
    try:
        handle = calls.generate_key(place.table, holder, mechanism, session_key(kind))
    except CkrError as error:
        found.note(name, title, "failed", str(error), "make keys with the vendor's tool, then kmsctl keys adopt LABEL")
        return None
    found.able[name] = True
    found.note(name, title, "ok", "a key for one session was made")
    return handle


def _own(found: Findings, token: Cryptoki, holder: int, cka_id: bytes | None, which: Template, kind: str) -> int | None:
    """Return the operator's own key. It is tried only with zeros and random bytes, which no reader of etcd sees."""
    handles = []
    if cka_id:
        handles = token.find(
            holder, {cryptoki.CKA_CLASS: cryptoki.CKO_SECRET_KEY, cryptoki.CKA_ID: cka_id, **which}, most=1
        )
    found.note(
        *(f"{kind.lower()}_key", f"{kind} key to try with", _outcome(bool(handles), "warning")),
        "the one that kmsd uses" if handles else "there is none, so what follows is not tried",
        "make a key with kmsctl keygen LABEL, then look again",
    )
    return handles[0] if handles else None


def probe_key(label: str) -> Template:
    """Return the template of an AES key on the token itself, to be destroyed again."""
    return new_secret("aes", 256, label, label.encode())


def session_key(kind: Literal["aes", "hmac"]) -> Template:
    """Return the template of a key that is gone with the session that makes it."""
    return new_secret(kind, 256 if kind == "aes" else 512, new_label(), on_token=False)


# Mechanisms.


def gcm(found: Findings, place: TrialPlace, key: int, listed: frozenset[int]) -> None:
    """Note whether AES-GCM works."""
    works: list[int] = []
    for size in (12, 16):
        name, title = f"gcm_{size}", f"AES-GCM, IV of {size} bytes"
        if cryptoki.CKM_AES_GCM not in listed:
            found.note(name, title, "not applicable", "the token does not list CKM_AES_GCM")
            continue
        trial = trials.gcm(place, key, size)
        if trial.works and trial.iv != "caller's":
            found.able["gcm_iv_by_token"] = True
        elif trial.works:
            works.append(size)
        found.note(name, title, _outcome(trial.works, "warning"), trial.seen, _GCM_FIX[size])
    found.able["gcm_iv_sizes"] = tuple(works)


def blocks(found: Findings, place: TrialPlace, key: int, listed: frozenset[int], quirks: Quirks) -> None:
    """Note which of the modes work that do not authenticate."""
    rows: list[tuple[str, str, int, str, Callable[[TrialPlace, int], trials.Trial], str]] = [
        ("cbc", "AES-CBC, whole blocks", cryptoki.CKM_AES_CBC, "CKM_AES_CBC", trials.cbc, "AES-GCM does without it"),
        (
            *("cbc_pad", "AES-CBC, padded by the token", cryptoki.CKM_AES_CBC_PAD, "CKM_AES_CBC_PAD"),
            *(trials.cbc_pad, "nothing: kmsd pads by itself, and never uses this"),
        ),
    ]
    if quirks.cbc_from_ecb and cryptoki.CKM_AES_CBC not in listed:
        rows.append(
            ("ecb", "AES, single blocks", cryptoki.CKM_AES_ECB, "CKM_AES_ECB", trials.ecb, "this AES is of no use")
        )
    for name, title, mechanism, constant, tried, fix in rows:
        if mechanism not in listed:
            found.note(name, title, "not applicable", f"the token does not list {constant}")
            continue
        trial = tried(place, key)
        found.able[name] = trial.works
        if name == "cbc_pad" and not trial.works and not quirks.cbc_pad_trusted:
            seen = f"of no use, as is known of this kind of token ({trial.seen}); kmsd pads by itself"
            found.note(name, title, "not applicable", seen)
            continue
        found.note(name, title, _outcome(trial.works, "warning"), trial.seen, fix)


def hmac(found: Findings, place: TrialPlace, made: ProbeKeys, listed: frozenset[int], quirks: Quirks) -> None:
    """Note which HMACs work."""
    if made.hmac is None:
        return
    for bits, mechanism in ((256, cryptoki.CKM_SHA256_HMAC), (512, cryptoki.CKM_SHA512_HMAC)):
        name, title = f"hmac_sha{bits}", f"HMAC with SHA-{bits}"
        if mechanism not in listed:
            found.note(name, title, "not applicable", f"the token does not list CKM_SHA{bits}_HMAC")
            continue
        if made.hmac_type not in {cryptoki.CKK_GENERIC_SECRET, _KEY_TYPES_OF_SHA[bits]}:
            found.note(name, title, "not applicable", "the key to try with is made for another hash")
            continue
        trial = trials.hmac(place, made.hmac, mechanism, bits // 8, quirks.hmac_longest or _LONGEST)
        found.able[name] = trial.works
        if trial.works and not found.able.get("hmac_longest"):
            found.able["hmac_empty"] = trial.empty
            found.able["hmac_longest"] = trial.longest
        found.note(name, title, _outcome(trial.works, "warning"), trial.seen, "AES-CBC pairs use the other hash")


def oaep(found: Findings, place: TrialPlace, listed: frozenset[int], quirks: Quirks, *, needed: bool) -> None:
    """Note whether RSA-OAEP works. needed: nothing else works."""
    name, title = "oaep_sha256", "RSA-OAEP with SHA-256"
    if not {cryptoki.CKM_RSA_PKCS_OAEP, cryptoki.CKM_RSA_PKCS_KEY_PAIR_GEN} <= listed:
        found.note(name, title, "not applicable", "the token does not list CKM_RSA_PKCS_OAEP and RSA key generation")
        return
    if quirks.generates_through:
        found.note(name, title, "not applicable", "PKCS#11 makes no key pair to try with on this kind of token")
        return
    public, private = new_rsa(2048, new_label(), on_token=False)
    with place.session(rw=True) as session:
        try:
            pair = calls.generate_key_pair(place.table, session, cryptoki.CKM_RSA_PKCS_KEY_PAIR_GEN, public, private)
        except CkrError as error:
            found.note(name, title, "not applicable", f"no key pair to try with could be made: {error}")
            return
        trial = trials.oaep(place, *pair)
    found.able[name] = trial.works
    # Where AES works, nobody needs RSA-OAEP.
    otherwise: Outcome = "failed" if needed else "not applicable"
    found.note(name, title, _outcome(trial.works, otherwise), trial.seen, NOTHING_FITS)


# Objects.


def relabel(found: Findings, token: Cryptoki, place: TrialPlace, quirks: Quirks) -> None:
    """Note whether a key of the probe's own can be relabelled on the token: rotation moves labels."""
    name, title = "relabel", "Relabelling"
    if not found.able.get("generate_aes"):
        seen = "not tried, as no key of the probe's own can be made"
        found.note(name, title, "not applicable", seen + ("; known to work" if quirks.generates_through else ""))
        return
    first, second = new_label(), new_label()
    with place.session(rw=True) as session, _removed(token, session, first):
        handle = calls.generate_key(place.table, session, cryptoki.CKM_AES_KEY_GEN, probe_key(first))
        calls.set_attributes(place.table, session, handle, {cryptoki.CKA_LABEL: second.encode()})
        with place.session() as other:
            there = token.find(other, {cryptoki.CKA_LABEL: second.encode()})
            left = token.find(other, {cryptoki.CKA_LABEL: first.encode()})
    works = len(there) == 1 and not left
    found.able[name] = works
    found.note(
        *(name, title, _outcome(works)),
        "a key made on the token got another label, and was destroyed" if works else "the key kept its label",
        "rotation cannot work here: see the token's vendor",
    )


@contextlib.contextmanager
def _removed(token: Cryptoki, session: int, cka_id: str) -> Iterator[None]:
    """Leave no object with this CKA_ID, which is the probe's own, whatever happens: a token whose objects change may
    show it at the second look only."""
    try:
        yield
    finally:
        for pause in (0.0, 0.02, 0.2):
            time.sleep(pause)
            with contextlib.suppress(CkrError):
                for handle in token.find(session, {cryptoki.CKA_ID: cka_id.encode()}):
                    calls.destroy_object(token.table, session, handle)
                if pause:
                    break


def foreign(found: Findings, token: Cryptoki, place: TrialPlace, plan: ProbePlan) -> None:
    """Note whether a key that another program makes is seen without initialising the module anew."""
    name, title = "foreign_changes", "Keys made by other programs"
    if plan.elsewhere is None or not found.able.get("generate_aes"):
        found.able[name] = plan.quirks.foreign_changes
        found.note(name, title, "not applicable", f"not tried; known of this kind: seen {plan.quirks.foreign_changes}")
        return
    label = new_label()
    try:
        plan.elsewhere("make", label)
        try:
            with place.session() as session:
                at_once = bool(token.find(session, {cryptoki.CKA_LABEL: label.encode()}))
        finally:
            plan.elsewhere("destroy", label)
    except (OSError, ValueError) as error:
        found.note(name, title, "warning", f"could not be tried: {error}", "kmsctl keys list shows what kmsd sees")
        return
    found.able[name] = "at once" if at_once else "after initialising anew"
    found.note(
        *(name, title, _outcome(at_once, "warning")),
        "seen at once" if at_once else "not seen before the module is initialised anew",
        "kmsd initialises the module anew when it meets a key id that it does not know; to have it now, restart kmsd",
    )


# Speed.


def speed(found: Findings, place: TrialPlace, made: ProbeKeys, threads: int) -> None:
    """Note the speed of what kmsd would do."""
    message, iv = os.urandom(48), os.urandom(16)
    aes = made.aes
    if aes is not None and found.able.get("gcm_iv_sizes"):
        _encrypting(
            found, place, "AES-GCM", aes, cryptoki.CKM_AES_GCM, trials.gcm_params(iv[:12], b""), message, threads
        )
    else:
        if aes is not None and found.able.get("cbc"):
            _encrypting(found, place, "AES-CBC", aes, cryptoki.CKM_AES_CBC, iv, message, threads)
        elif aes is not None and found.able.get("ecb"):
            _encrypting(found, place, "one AES block", aes, cryptoki.CKM_AES_ECB, None, message[:16], threads)
        for bits, mechanism in ((512, cryptoki.CKM_SHA512_HMAC), (256, cryptoki.CKM_SHA256_HMAC)):
            if made.hmac is not None and found.able.get(f"hmac_sha{bits}"):
                _signing(found, place, f"HMAC-SHA-{bits}", made.hmac, mechanism, message, threads)
                break
    for timing in found.timings:
        name = f"speed_{timing.operation.lower().replace('-', '_').replace(' ', '_')}"
        at_once = f"{timing.threads} threads" if timing.threads > 1 else "one thread"
        found.note(
            *(name, f"Speed of {timing.operation}", "ok"),
            f"{timing.seconds * 1e6:.0f} us each; {timing.per_second:.0f} a second on {at_once}",
        )


def _encrypting(
    found: Findings,
    place: TrialPlace,
    name: str,
    key: int,
    mechanism: int,
    parameter: calls.Parameter,
    message: bytes,
    threads: int,
) -> None:
    def encrypt(session: int) -> None:
        calls.encrypt(place.table, session, key, mechanism, parameter, message)

    found.timings.append(pace.together(place, name, encrypt, threads))


def _signing(
    found: Findings, place: TrialPlace, name: str, key: int, mechanism: int, message: bytes, threads: int
) -> None:
    def sign(session: int) -> None:
        calls.sign(place.table, session, key, mechanism, message)

    found.timings.append(pace.together(place, name, sign, threads))
