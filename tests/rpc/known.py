"""Keys with known values, imported into tokens, so that another JOSE library can check what kmsd writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class KnownKey:
    label: str
    key_id: str
    value: bytes
    type: Literal["aes", "hmac"] = "aes"

    @property
    def step(self) -> dict[str, str]:
        """For SoftToken.objects."""
        return {
            "do": "import",
            "type": self.type,
            "label": self.label,
            "value": self.value.hex(),
            "id": self.key_id.encode().hex(),
        }

    @property
    def enc(self) -> str:
        return f"A{len(self.value) * 8}GCM"


WRITE = KnownKey("k8s-kek", "01990000-0000-7000-8000-000000000256", bytes(range(32)))
AES192 = KnownKey("older-192", "01980000-0000-7000-8000-000000000192", bytes(range(100, 124)))
AES128 = KnownKey("older-128", "01970000-0000-7000-8000-000000000128", bytes(range(50, 66)))
KEYS = (WRITE, AES192, AES128)
