"""The dialogs for keys: make, relabel, adopt, test, retire, destroy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual import on
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from kmsd.client import Key, KeyState, KeyType, escape
from kmstui import actions
from kmstui.actions import Action
from kmstui.dialogs.dialog import Dialog, field
from kmstui.text import absolute, key_type, short_hash

LABEL_MOST = 255
"""Bytes of a label."""
_TYPES = (
    ("AES: encrypts, with AES-GCM", KeyType.AES),
    ("AES and HMAC: a pair, for AES-CBC", KeyType.PAIR),
    ("HMAC alone", KeyType.HMAC),
)
_BITS = {
    KeyType.AES: (256, 192, 128),
    KeyType.PAIR: (256, 192, 128),
    KeyType.HMAC: (512, 384, 256),
}


class GenerateDialog(Dialog):
    """label: to begin with. taken: labels that keys have. tokens: names of those that keys can be made on, the write
    token first."""

    HELP = "Makes a key on the token. It writes only if it has the write label and no key had it before."

    def __init__(self, target: str, label: str, write_label: str, taken: frozenset[str], tokens: Sequence[str]) -> None:
        super().__init__(target, "New key", "Make it")
        self._label = label
        self._write_label = write_label
        self._taken = taken
        self._tokens = tuple(tokens)

    def fields(self) -> Iterable[Widget]:
        yield field("label", Input(self._label, id="label", max_length=LABEL_MOST, compact=True))
        yield field("type", Select(_TYPES, value=KeyType.AES, allow_blank=False, id="type", compact=True))
        yield field("bits", Select(_options(KeyType.AES), allow_blank=False, value=256, id="bits", compact=True))
        if len(self._tokens) > 1:
            names = [(name, name) for name in self._tokens]
            yield field("token", Select(names, value=self._tokens[0], allow_blank=False, id="token", compact=True))
        yield Static(id="says")

    @on(Select.Changed, "#type")
    def _type_chosen(self) -> None:
        self.query_one("#bits", Select).set_options(_options(self._type))

    @property
    def _type(self) -> KeyType:
        chosen = self.query_one("#type", Select).value
        return chosen if isinstance(chosen, KeyType) else KeyType.AES

    def action_to_do(self) -> Action:
        label = checked_label(self.query_one("#label", Input).value)
        self.query_one("#says", Static).update(Content.styled(self._says(label), "dim"))
        if label in self._taken:
            raise ValueError("a key has this label already")
        bits = self.query_one("#bits", Select).value
        token = self.query_one("#token", Select).value if len(self._tokens) > 1 else ""
        other = str(token) if token and token != self._tokens[0] else ""
        return actions.generate(label, self._type, int(bits) if isinstance(bits, int) else 256, other)

    def _says(self, label: str) -> str:
        if label == self._write_label:
            return "this is the write label: the new key writes at once"
        return f"it will not write: the write label is {escape(self._write_label)}"


class RelabelDialog(Dialog):
    HELP = "Changes CKA_LABEL, the role of a key. Its identity, CKA_ID, stays, and so does everything it can read."

    def __init__(self, target: str, key: Key, write_label: str) -> None:
        super().__init__(target, f"Relabel {escape(key.label)}", "Relabel")
        self._key = key
        self._write_label = write_label

    def fields(self) -> Iterable[Widget]:
        yield field("from", Static(Content(escape(self._key.label))))
        yield field("to", Input(self._key.label, id="label", max_length=LABEL_MOST, compact=True))
        if self._key.state == KeyState.WRITE:
            yield warning(f"this is the write key: without the label {escape(self._write_label)} nothing may write")
            yield field("confirm", Input(placeholder=f"type {escape(self._key.label)}", id="confirm", compact=True))

    def action_to_do(self) -> Action:
        label = checked_label(self.query_one("#label", Input).value)
        if label == self._key.label:
            raise ValueError("it has this label")
        return actions.relabel(self._key, label, typed(self, self._key))


class AdoptDialog(Dialog):
    HELP = "Gives a key without CKA_ID an identity, so that it can serve."

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, f"Adopt {escape(key.label)}", "Adopt")
        self._key = key

    def fields(self) -> Iterable[Widget]:
        yield Static(
            Content("It has no CKA_ID, so nothing stored can name it. It gets a new UUID as its key id, for good.")
        )

    def action_to_do(self) -> Action:
        return actions.adopt(self._key)


class TestDialog(Dialog):
    __test__ = False
    AT_ONCE = True
    HELP = "Encrypts and decrypts random bytes with a key, and shows how long it takes."

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, f"Test {escape(key.label)}", "Test again")
        self._key = key

    def fields(self) -> Iterable[Widget]:
        yield key_facts(self._key)

    def action_to_do(self) -> Action:
        return actions.test(self._key)


class RetireDialog(Dialog):
    HELP = (
        "Marks a key that nothing needs any more. It still decrypts until it is destroyed. kmsd refuses while recent "
        "calls show use, unless the label is typed."
    )

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, f"Retire {escape(key.label)}", "Retire", danger=True)
        self._key = key

    def fields(self) -> Iterable[Widget]:
        yield key_facts(self._key)
        yield Static(Content("It will still decrypt, and may be destroyed later."))
        yield field(
            "confirm", Input(placeholder=f"type {escape(self._key.label)} if it is refused", id="confirm", compact=True)
        )

    def preview(self) -> Action:
        return actions.retire(self._key, dry_run=True)

    def action_to_do(self) -> Action:
        return actions.retire(self._key, confirm=typed(self, self._key, needed=False))


class DestroyDialog(Dialog):
    HELP = "Removes a key from the token. What it encrypted can never be read again."

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, f"Destroy {escape(key.label)}", "Destroy", danger=True)
        self._key = key

    def fields(self) -> Iterable[Widget]:
        yield key_facts(self._key)
        yield warning("what it encrypted can never be read again; this cannot be undone")
        yield field("confirm", Input(placeholder=f"type {escape(self._key.label)}", id="confirm", compact=True))

    def preview(self) -> Action:
        return actions.destroy(self._key, dry_run=True)

    def action_to_do(self) -> Action:
        return actions.destroy(self._key, typed(self, self._key))


def checked_label(label: str) -> str:
    """Raises ValueError with what is wrong with it."""
    if not label:
        raise ValueError("a label is needed")
    if len(label.encode(errors="replace")) > LABEL_MOST:
        raise ValueError(f"a label has at most {LABEL_MOST} bytes")
    if not label.isprintable():
        raise ValueError("a label has no control characters")
    return label


def typed(dialog: Dialog, key: Key, *, needed: bool = True) -> str:
    """The label as typed into #confirm; empty where that is not there. Raises ValueError until it is right.

    A label that no keyboard has is typed as it is shown.
    """
    if not dialog.query("#confirm"):
        return ""
    text = dialog.query_one("#confirm", Input).value
    if not text and not needed:
        return ""
    if text not in (key.label, escape(key.label)):
        raise ValueError("type the label to confirm")
    return key.label


def warning(text: str) -> Static:
    return Static(Content.assemble(("◐ ", "$text-warning"), text), classes="warning")


def key_facts(key: Key) -> Static:
    made = f", made {absolute(key.created)}" if key.created is not None else ""
    used = f"{key.encrypts:,} encrypts and {key.decrypts:,} decrypts since kmsd started"
    lines = [
        f"{escape(key.key_id) or 'no key id'}",
        f"hash {short_hash(key.key_id_sha256)}, {key_type(key)}, on {escape(key.token_label)}{made}",
        used,
    ]
    return Static(Content("\n").join(Content.styled(line, "dim") for line in lines))


def _options(key_type_: KeyType) -> list[tuple[str, int]]:
    return [(f"{bits}", bits) for bits in _BITS[key_type_]]
