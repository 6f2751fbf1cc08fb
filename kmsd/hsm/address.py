"""Choose the token that an address means, and tell how to use it. Pure: works on what the module shows, calls
nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmsd.errors import Misconfigured, Unavailable
from kmsd.hsm.host.info import SlotView, TokenView

AUTO_SESSIONS: Final = 4
"""The number of sessions that a login opens to serve with, where no number is configured."""
AUTO_SESSIONS_GROWN: Final = 32
"""The most sessions that there may be once more are opened for a slow token; each has a thread of the host."""


@dataclass(frozen=True)
class KeyName:
    """The name of one key pair on a token, whoever made it. label, cka_id: empty for any."""

    label: str
    cka_id: bytes

    def __str__(self) -> str:
        label = f"labelled {self.label!r}" if self.label else ""
        cka_id = f"with CKA_ID {self.cka_id.hex()}" if self.cka_id else ""
        return " and ".join(filter(None, (label, cka_id)))


@dataclass(frozen=True)
class TokenAddress:
    """The address of a token, and how to use it.

    module: path; empty: found by the provider, whose ways are in `kmsd.hsm.vendors.quirks`.
    slot: slot id, wins over label. sessions: how many a login opens to serve with. queue: how many calls may wait.
    timeout: seconds for a call that has no deadline of its own. stuck_after: seconds.
    trusted_public: CKA_IDs of keys that are used although their objects are public.
    sessions_grown: how many sessions there may become while calls wait for a slow token; 0: no more than there are.
    manufacturer, model, serial: as the token tells them; empty for any. tls_key: the one key pair that may sign TLS
    handshakes, with those that kmsd made after it; None for none.
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
    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    tls_key: KeyName | None = None

    @property
    def most_sessions(self) -> int:
        """The most sessions that may serve."""
        return max(self.sessions, self.sessions_grown)

    def __str__(self) -> str:
        if self.slot is not None:
            return f"the token in slot {self.slot}"
        if self.serial and not self.label:
            return f"the token with serial number {self.serial}"
        return f"token {self.label!r}"

    def fits(self, token: TokenView) -> bool:
        """Return whether a token tells of itself what the address says, but for its label."""
        told = ((self.manufacturer, token.manufacturer), (self.model, token.model), (self.serial, token.serial))
        return all(wanted in ("", found) for wanted, found in told)


def choose_slot(slots: list[SlotView], address: TokenAddress, module: str) -> SlotView:
    """Return the one slot that the address means. Raises Misconfigured, or Unavailable if the token may yet come."""
    present = [slot for slot in slots if slot.token and "TOKEN_INITIALIZED" in slot.token.flags]
    shown = ", ".join(f"{s.token.label!r} in slot {s.slot_id}" for s in present if s.token) or "none"
    present = [slot for slot in present if slot.token and address.fits(slot.token)]
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
        if address.serial and not present:
            raise Unavailable(
                f"there is no token with serial number {address.serial!r}; module {module} shows: {shown}",
                "correct the number, or attach the token; kmsd goes on looking",
            )
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
