"""Choose the token that an address means, and tell how to use it. Pure: works on what the module shows, calls
nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmsd.errors import Misconfigured, Unavailable
from kmsd.hsm.host.info import SlotView

AUTO_SESSIONS: Final = 4
"""The number of sessions that a login opens to serve with, where no number is configured."""
AUTO_SESSIONS_GROWN: Final = 32
"""The most sessions that there may be once more are opened for a slow token; each has a thread of the host."""


@dataclass(frozen=True)
class TokenAddress:
    """The address of a token, and how to use it.

    module: path; empty: found by the provider, whose ways are in `kmsd.hsm.vendors.quirks`.
    slot: slot id, wins over label. sessions: how many a login opens to serve with. queue: how many calls may wait.
    timeout: seconds for a call that has no deadline of its own. stuck_after: seconds.
    trusted_public: CKA_IDs of keys that are used although their objects are public.
    sessions_grown: how many sessions there may become while calls wait for a slow token; 0: no more than there are.
    """

    module: str
    provider: str
    label: str
    slot: int | None
    sessions: int
    queue: int
    timeout: float
    stuck_after: float
    trusted_public: frozenset[bytes] = frozenset()
    sessions_grown: int = 0

    @property
    def most_sessions(self) -> int:
        """The most sessions that may serve."""
        return max(self.sessions, self.sessions_grown)

    def __str__(self) -> str:
        return f"token {self.label!r}" if self.slot is None else f"the token in slot {self.slot}"


def choose_slot(slots: list[SlotView], address: TokenAddress, module: str) -> SlotView:
    """Return the one slot that the address means. Raises Misconfigured, or Unavailable if the token may yet come."""
    present = [slot for slot in slots if slot.token and "TOKEN_INITIALIZED" in slot.token.flags]
    shown = ", ".join(f"{s.token.label!r} in slot {s.slot_id}" for s in present if s.token) or "none"
    if address.slot is not None:
        for slot in present:
            if slot.slot_id == address.slot:
                if address.label and slot.token and slot.token.label != address.label:
                    raise Misconfigured(
                        f"slot {address.slot} holds token {slot.token.label!r}, not {address.label!r}",
                        "correct --p11-slot or --p11-label",
                    )
                return slot
        raise Unavailable(
            f"there is no initialised token in slot {address.slot}; module {module} shows: {shown}",
            "correct --p11-slot, or name the token with --p11-label",
        )
    if not address.label:
        if len(present) == 1:
            return present[0]
        raise Misconfigured(
            f"no token is configured; module {module} shows: {shown}", "name the token with --p11-label"
        )
    found = [slot for slot in present if slot.token and slot.token.label == address.label]
    if not found:
        raise Unavailable(
            f"there is no token labelled {address.label!r}; module {module} shows: {shown}",
            "correct --p11-label, or initialise the token; kmsd goes on looking",
        )
    if len(found) > 1:
        ids = ", ".join(str(slot.slot_id) for slot in found)
        raise Misconfigured(
            f"{len(found)} tokens are labelled {address.label!r} (slots {ids})",
            "name one slot with --p11-slot",
        )
    return found[0]
