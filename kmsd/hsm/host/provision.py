"""Making a token where there is none: C_InitToken and the user PIN (PKCS#11 3.0, 5.5)."""

from __future__ import annotations

from kmsd.errors import Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls
from kmsd.hsm.host.cryptoki import CKU_SO
from kmsd.hsm.host.module import Module


def ensure_token(module: Module, label: str, so_pin: str, pin: str) -> bool:
    """Make a token with this label and this user PIN in a free slot, unless it is there.

    Finishes what an interrupted run began. An initialised token is never touched. Returns whether anything was made.
    Raises Unavailable if there is no free slot, CkrError.
    """
    ours = [slot for slot in module.slots() if slot.token and slot.token.label == label]
    if not ours:
        free = [slot for slot in module.slots() if slot.token and "TOKEN_INITIALIZED" not in slot.token.flags]
        if not free:
            raise Unavailable(
                f"module {module.path} has no free slot for token {label!r}",
                "remove a token that is not needed, with the token's own tool",
            )
        module.cryptoki.init_token(free[0].slot_id, so_pin, label)
        ours = [slot for slot in module.slots() if slot.token and slot.token.label == label]
        if not ours:
            raise CkrError("the new token is not to be found", "C_InitToken")
    view = ours[0].token
    if view is not None and "USER_PIN_INITIALIZED" in view.flags:
        return False
    table = module.cryptoki.table
    session = calls.open_session(table, ours[0].slot_id, rw=True)
    try:
        module.cryptoki.login(session, so_pin, CKU_SO)
        calls.init_pin(table, session, pin)
    finally:
        # With the last session the SO is logged out.
        calls.close_session(table, session)
    return True
