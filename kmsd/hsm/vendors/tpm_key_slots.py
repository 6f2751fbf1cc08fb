"""Count the keys that one login uses where nothing shares out the memory of the device: a TPM without a resource
manager.

Such a TPM keeps what was used loaded until the login ends, and refuses what finds no place with CKR_GENERAL_ERROR, as
it refuses everything. So it is counted which keys were used. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmsd.errors import KmsdError, Unavailable

MANAGE: Final = (
    "use one: set TPM2_PKCS11_TCTI=device:/dev/tpmrm0 for kmsd (or tabrmd:, where tpm2-abrmd runs), and restart it"
)


@dataclass(frozen=True)
class Room:
    """The places for keys. most: distinct keys that one login may use. used: those that were asked for since the login,
    in order, by CKA_ID and kind."""

    most: int
    used: tuple[tuple[bytes, str], ...]

    @property
    def crowded(self) -> bool:
        return len(self.used) > self.most

    @property
    def inside(self) -> tuple[tuple[bytes, str], ...]:
        """The keys that found a place."""
        return self.used[: self.most]

    def shuts_out(self, *cka_ids: bytes | None) -> bool:
        """Return whether a key of these was asked for when all places were taken."""
        return any(cka_id in cka_ids for cka_id, _ in self.used[self.most :])

    def error(self, token: str) -> KmsdError:
        """Return the error of a key that found no place. token: in words."""
        return Unavailable(
            f"the TPM behind {token} has no resource manager, so one login can use {self.most} keys; "
            f"{len(self.used)} are in use",
            MANAGE,
        )
