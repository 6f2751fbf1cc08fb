"""The dialogs for keys: make, relabel, adopt, test, retire, destroy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from textual import on
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from kmsd.client import Key, KeyState, KeyType, escape
from kmsd.client.names import former_label
from kmstui import actions
from kmstui.action import Action
from kmstui.dialogs.dialog import Dialog, field
from kmstui.text import absolute, key_type, short_hash

LABEL_MOST = 255
"""Bytes of a label."""
_TYPES = (
    ("AES: encrypts, with AES-GCM", KeyType.AES),
    ("AES and HMAC: a pair, for AES-CBC", KeyType.PAIR),
    ("HMAC alone", KeyType.HMAC),
    ("RSA: for a token without AES", KeyType.RSA),
)
_BITS = {
    KeyType.AES: (256, 192, 128),
    KeyType.PAIR: (256, 128),
    KeyType.HMAC: (512, 384, 256),
    KeyType.RSA: (3072, 2048, 4096),
}


class GenerateDialog(Dialog):
    """A form for a new key. label: to begin with. write_labels: kmsd's own, which comes first, and its tenants', each
    with the name of its tenant. taken: labels that keys have. tokens: names of those that keys can be made on, the
    write token first."""

    HELP = "Makes a key on the token. It writes only if it has the write label and no key had it before."

    def __init__(
        self, target: str, label: str, write_labels: Mapping[str, str], taken: frozenset[str], tokens: Sequence[str]
    ) -> None:
        super().__init__(target, "New key", "Make it")
        self._label = label
        self._write_labels = write_labels
        self._taken = taken
        self._tokens = tuple(tokens)

    def fields(self) -> Iterable[Widget]:
        yield field("label", Input(self._label, id="label", max_length=LABEL_MOST, compact=True))
        yield field(
            "type", Select(_TYPES, value=KeyType.AES, allow_blank=False, type_to_search=False, id="type", compact=True)
        )
        yield field(
            "bits",
            Select(_options(KeyType.AES), allow_blank=False, type_to_search=False, value=256, id="bits", compact=True),
        )
        if len(self._tokens) > 1:
            names = [(name, name) for name in self._tokens]
            yield field(
                "token",
                Select(names, value=self._tokens[0], allow_blank=False, type_to_search=False, id="token", compact=True),
            )
        yield Static(id="says")

    @on(Select.Changed, "#type")
    def _type_chosen(self) -> None:
        self.query_one("#bits", Select).set_options(_options(self._type))

    @property
    def _type(self) -> KeyType:
        chosen = self.query_one("#type", Select).value
        return chosen if isinstance(chosen, KeyType) else KeyType.AES

    def draft(self) -> Action:
        bits = self.query_one("#bits", Select).value
        token = self.query_one("#token", Select).value if len(self._tokens) > 1 else ""
        other = str(token) if token and token != self._tokens[0] else ""
        return actions.generate(self._typed or "LABEL", self._type, int(bits) if isinstance(bits, int) else 256, other)

    def missing(self) -> str:
        label = self._typed
        self.query_one("#says", Static).update(Content.styled(self._says(label), "dim"))
        return what_is_wrong(label) or ("a key has this label already" if label in self._taken else "")

    @property
    def _typed(self) -> str:
        return self.query_one("#label", Input).value

    def _says(self, label: str) -> str:
        if not label:
            return ""
        if label in self._write_labels:
            tenant = self._write_labels[label]
            whose = f" of tenant {escape(tenant)}" if tenant else ""
            return f"this is the write label{whose}: the new key writes at once"
        own = next(iter(self._write_labels), "")
        tenants = len(self._write_labels) - 1
        return f"it will not write: the write label is {escape(own)}" + (", and tenants have others" if tenants else "")


class RelabelDialog(Dialog):
    """A form for another label of a key."""

    HELP = (
        "Changes CKA_LABEL, the role of a key. Its identity, CKA_ID, stays, and what names that is read as before. "
        "What k8s-kms-plugin wrote with AES-GCM names a label."
    )

    def __init__(self, target: str, key: Key, write_labels: Mapping[str, str]) -> None:
        super().__init__(target, f"Relabel {escape(key.label)}", "Relabel")
        self._key = key
        self._write_labels = write_labels

    def fields(self) -> Iterable[Widget]:
        yield field("from", Static(Content(escape(self._key.label))))
        yield field("to", Input(self._key.label, id="label", max_length=LABEL_MOST, compact=True))
        yield warning("", id="risk")
        yield confirmation(self._key)

    def draft(self) -> Action:
        return actions.relabel(self._key, self._label or "LABEL", self._key.label if self._risk else "")

    def missing(self) -> str:
        risk = self.query_one("#risk", Static)
        risk.update(warned(self._risk))
        for widget in (risk, self.query_one("#confirmation")):
            widget.display = bool(self._risk)
        if self._label == self._key.label:
            return "the key has this label already"
        return what_is_wrong(self._label) or (unconfirmed(self, self._key) if self._risk else "")

    @property
    def _label(self) -> str:
        return self.query_one("#label", Input).value

    @property
    def _risk(self) -> str:
        """Return why kmsd wants the label once more; empty if it does not."""
        if self._key.state == KeyState.WRITE or self._label in self._write_labels:
            tenant = self._write_labels.get(self._label) or self._write_labels.get(self._key.label)
            return f"this changes which key writes{f' for tenant {escape(tenant)}' if tenant else ''}"
        if self.refused:
            return "kmsd wants the label once more"
        former = former_label(self._key.label)
        if former and self._label != former:
            return f"what k8s-kms-plugin wrote as {escape(former)} finds this key by its label"
        return ""


class AdoptDialog(Dialog):
    """A form that gives a key id to a key."""

    HELP = "Gives a key without CKA_ID an identity, so that it can serve."

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, f"Adopt {escape(key.label)}", "Adopt")
        self._key = key

    def fields(self) -> Iterable[Widget]:
        yield Static(
            Content("It has no CKA_ID, so nothing stored can name it. It gets a new UUID as its key id, for good.")
        )

    def draft(self) -> Action:
        return actions.adopt(self._key)


class TestDialog(Dialog):
    """A form that tries a key."""

    __test__ = False
    AT_ONCE = True
    HELP = "Encrypts and decrypts random bytes with a key, and shows how long it takes."

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, f"Test {escape(key.label)}", "Test again")
        self._key = key

    def fields(self) -> Iterable[Widget]:
        yield key_facts(self._key)

    def draft(self) -> Action:
        return actions.test(self._key)


class LettingGo(Dialog):
    """The form to let a key go. report: path of what a scan of etcd counted, which shows kmsd that nothing needs it;
    empty: none. The label is typed to do it in spite of what speaks against it."""

    WHY_TYPED: ClassVar[str] = ""
    """The reason for which the label is typed."""

    def __init__(self, target: str, key: Key, verb: str, report: str = "") -> None:
        super().__init__(target, f"{verb} {escape(key.label)}", verb, danger=True)
        self._key = key
        self._given = report

    def fields(self) -> Iterable[Widget]:
        yield key_facts(self._key)
        yield from self.warnings()
        hint = "a file that `kmsctl etcd scan --report FILE` wrote"
        yield field("report", Input(self._given, placeholder=hint, id="report", compact=True))
        yield confirmation(self._key, self.WHY_TYPED)

    def warnings(self) -> Iterable[Widget]:
        """Return what is to be known before it is done."""
        return ()

    @property
    def report(self) -> str:
        return self.query_one("#report", Input).value

    @property
    def typed(self) -> str:
        return self.query_one("#confirm", Input).value


class RetireDialog(LettingGo):
    """A form that retires a key."""

    HELP = (
        "Marks a key that nothing needs any more. It still decrypts until it is destroyed. kmsd refuses unless the "
        "report of a scan of etcd shows that nothing needs it, or the label is typed."
    )
    WHY_TYPED = "only in spite of a refusal: "

    def __init__(self, target: str, key: Key, report: str = "") -> None:
        super().__init__(target, key, "Retire", report)

    def preview(self) -> Action:
        return actions.retire(self._key, self._given, dry_run=True)

    def draft(self) -> Action:
        return actions.retire(self._key, self.report, self._key.label if self.typed else "")

    def missing(self) -> str:
        return unconfirmed(self, self._key) if self.typed else ""


class DestroyDialog(LettingGo):
    """A form that destroys a key. It wants Wants the label typed, whatever kmsd says. It overrides only a refusal that
    was shown, and no report's."""

    HELP = (
        "Removes a key from the token. What it encrypted can never be read again. kmsd refuses unless the key is "
        "retired, or the report of a scan of etcd shows that nothing needs it; without a report, the label that is "
        "typed does it in spite of a refusal."
    )

    def __init__(self, target: str, key: Key) -> None:
        super().__init__(target, key, "Destroy")

    def warnings(self) -> Iterable[Widget]:
        """Return what is to be known before it is done."""
        yield warning("what it encrypted can never be read again; this cannot be undone")

    def preview(self) -> Action:
        return actions.destroy(self._key, self._given, dry_run=True)

    def draft(self) -> Action:
        overrides = self.refused and not self.report
        return actions.destroy(self._key, self.report, self._key.label if overrides else "")

    def missing(self) -> str:
        return unconfirmed(self, self._key)


def what_is_wrong(label: str) -> str:
    """Return what is wrong with a label that was typed; empty if nothing is."""
    if not label:
        return "a label is needed"
    if len(label.encode(errors="replace")) > LABEL_MOST:
        return f"a label must have {LABEL_MOST} bytes at most"
    return "" if label.isprintable() else "a label must have no control characters"


def confirmation(key: Key, why: str = "") -> Widget:
    """Make the field in which a label is typed once more."""
    line = field("confirm", Input(placeholder=f"{why}type {escape(key.label)}", id="confirm", compact=True))
    line.id = "confirmation"
    return line


def unconfirmed(dialog: Dialog, key: Key) -> str:
    """Return what is missing while #confirm does not hold the label. One that no keyboard has is typed as it is
    shown."""
    text = dialog.query_one("#confirm", Input).value
    return "" if text in (key.label, escape(key.label)) else "type the label to confirm"


def warning(text: str, id: str | None = None) -> Static:  # noqa: A002 - Textual's name
    """Make a line that warns."""
    return Static(warned(text), classes="warning", id=id)


def warned(text: str) -> Content:
    """Make the lines that warn."""
    return Content.assemble(("◐ ", "$text-warning"), text)


def key_facts(key: Key) -> Static:
    """Make the lines that say which key it is."""
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
