"""Choose the mechanisms that a token both lists and does: tried at each login, as far as kmsd chooses by it.

A list may promise what fails in use: a relay of one version before a server of another, an HSM whose policy forbids it.
AES-GCM is what is chosen wherever it is listed, so that is what is tried, with a key made for one session. Costs some
twenty calls, and nothing where AES-GCM is not listed: a TPM's few places for keys are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from kmsd.errors import Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.doctor.checks import session_key
from kmsd.hsm.host import calls, cryptoki, trials
from kmsd.hsm.host.trials import NoSession, Trial, TrialPlace
from kmsd.hsm.vendors.quirks import GcmIv, Quirks

T = TypeVar("T", bound=Trial)

_GCM: Final = "CKM_AES_GCM"
_CBC: Final = "CKM_AES_CBC"
_REFUSALS: Final = frozenset(
    {"CKR_MECHANISM_INVALID", "CKR_MECHANISM_PARAM_INVALID", "CKR_FUNCTION_NOT_SUPPORTED", "CKR_KEY_TYPE_INCONSISTENT"}
)
"""The answers by which a token refuses a mechanism for good. Any other failure may pass."""
_IV_BYTES: Final = 12
"""The bytes of an IV of AES-GCM (RFC 7518, 5.3)."""


@dataclass(frozen=True)
class Choice:
    """The mechanisms that may be chosen from.

    mechanisms: as listed, "CKM_AES_CBC", without AES-GCM if that does not work. gcm_iv: whose the IVs of AES-GCM are.
    gcm_refused: why AES-GCM is not used although it is listed; empty otherwise. gcm_unauthenticated: whether that
    is because the token decrypts what was changed.
    """

    mechanisms: frozenset[str]
    gcm_iv: GcmIv = "caller's"
    gcm_refused: str = ""
    gcm_unauthenticated: bool = False


def choose(place: TrialPlace, listed: frozenset[str], row: Quirks) -> Choice:
    """Choose what may be used. place: its token is logged in to. Raises CkrError if the token fails altogether, and
    Unavailable if it encrypts nothing."""
    as_listed = Choice(listed, row.gcm_iv)
    if _GCM not in listed:
        return as_listed
    trial = _try(place, lambda key: trials.gcm(place, key, _IV_BYTES))
    if trial is None:
        # The background round trip with the write key tells whether it works.
        return as_listed
    if not trial.works:
        # An AES key that has no HMAC key beside it serves no more without AES-GCM: that needs more than one bad moment.
        with contextlib.suppress(NoSession), place.session() as session:
            calls.random(place.table, session, 8)
        trial = _try(place, lambda key: trials.gcm(place, key, _IV_BYTES)) or trial
    if not trial.works and not trial.takes_changed and trial.error not in _REFUSALS and _CBC in listed:
        # If another mechanism fails as well, the token is unwell and may recover: AES-GCM is not at fault.
        other = _try(place, lambda key: trials.cbc(place, key))
        if other is not None and not other.works:
            raise Unavailable(
                f"the token encrypts nothing as it should: AES-GCM: {trial.seen}; AES-CBC: {other.seen}",
                "check the token; kmsd tries again by itself",
            )
    if not trial.works:
        return Choice(listed - {_GCM}, row.gcm_iv, trial.seen, trial.takes_changed)
    # Except for FIPS mode, which may be switched on later, what the trial saw counts.
    return Choice(listed, "appended" if row.gcm_iv == "appended" and trial.iv == "caller's" else trial.iv)


def _try(place: TrialPlace, trial: Callable[[int], T]) -> T | None:
    """Call a trial with an AES key. None: it cannot be tried, because the token makes no key for it, or has too few
    sessions."""
    try:
        with place.session() as holder:
            return trial(calls.generate_key(place.table, holder, cryptoki.CKM_AES_KEY_GEN, session_key("aes")))
    except (CkrError, NoSession):
        return None
