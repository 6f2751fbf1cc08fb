"""All there is to say about one row, under its table: what the columns had to cut."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from kmsd.client import Key, Slot, escape
from kmstui.text import absolute, hang, key_type


class Detail(Static):
    """lines: (name, text) each; a line without a name belongs to the one before it. Text arrives escaped."""

    def show(self, lines: Sequence[tuple[str, str]]) -> None:
        self.display = bool(lines)
        width = self.screen.size.width - 4
        content = [Content.assemble((f"{name:<7}", "dim"), hang(text, width, 7)) for name, text in lines]
        self.update(Content("\n").join(content))


def of_key(key: Key) -> tuple[tuple[str, str], ...]:
    lines = []
    if key.unusable_reason:
        lines.append(("why", escape(key.unusable_reason)))
    if key.unusable_hint:
        lines.append(("", f"→ {escape(key.unusable_hint)}"))
    if key.key_id:
        lines += [("key id", escape(key.key_id)), ("sha256", escape(key.key_id_sha256))]
    made = f", made {absolute(key.created)}" if key.created is not None else ""
    lines += [("is", f"{key_type(key)}{made}, on {escape(key.token_label)}"), ("may", _attributes(key))]
    return tuple(lines)


def _attributes(key: Key) -> str:
    uses = {
        "encrypt": key.can_encrypt,
        "decrypt": key.can_decrypt,
        "sign": key.can_sign,
        "verify": key.can_verify,
    }
    told = ", ".join(name for name, allowed in uses.items() if allowed) or "do nothing"
    have = {"private": key.private, "sensitive": key.sensitive}
    kept = [name for name, holds in have.items() if holds]
    return f"{told}; {', '.join([*kept, 'EXTRACTABLE' if key.extractable else 'not extractable'])}"


def of_slot(slot: Slot) -> tuple[tuple[str, str], ...]:
    lines = [("slot", escape(f"{slot.slot_id}, {slot.description}, {slot.manufacturer}"))]
    if slot.token_present:
        token = ", ".join(filter(None, (slot.token_model, slot.token_manufacturer)))
        lines.append(("token", escape(f"{token}, serial {slot.token_serial}")))
        lines.append(("flags", escape(", ".join(slot.flags)) or "none"))
    lines.extend(("PIN", escape(warning)) for warning in slot.pin_warnings)
    return tuple(lines)
