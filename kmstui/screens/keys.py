"""Every key on kmsd's tokens, and what can be done with one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from shlex import quote
from typing import Final

from textual import on
from textual.containers import Container
from textual.widget import Widget

from kmsd.client import Filter, Key, KeyState, Status, escape
from kmstui import styles, traffic
from kmstui.action import ActionOutcome
from kmstui.commands import ScreenCommand
from kmstui.dialogs.keys import (
    AdoptDialog,
    DestroyDialog,
    GenerateDialog,
    RelabelDialog,
    RetireDialog,
    TestDialog,
)
from kmstui.dialogs.marked import (
    AdoptSeveralDialog,
    DestroySeveralDialog,
    Marked,
    RetireSeveralDialog,
    SeveralDialog,
    TestSeveralDialog,
)
from kmstui.dialogs.record import RecordDialog
from kmstui.messages import ShowRequests
from kmstui.screens.page import Page, note, waiting
from kmstui.styles import Colour
from kmstui.text import absolute, age, compact, key_type, rate, short_hash
from kmstui.view import Moment, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.table import Table

_STATES = ("write", "pending", "readable", "companion", "signing", "archived", "planted", "unusable")


def ident(key: Key) -> str:
    """Return what tells a key from all others: identities may be missing, and collide, and then the label does."""
    return f"{key.token}\0{key.key_id}\0{key.label}"


def _state_order(key: Key) -> tuple[int, str]:
    return _STATES.index(key.state) if key.state in _STATES else len(_STATES), key.label


KEYS = ItemKind[Key](
    "Keys",
    (
        Column(
            "state",
            lambda key, _: str(styles.key(key.state)),
            colour=lambda key: styles.key(key.state).colour,
            order=_state_order,
        ),
        Column("label", lambda key, _: key.label, least=26, order=lambda key: key.label),
        Column("type", lambda key, _: key_type(key), fixed=8, order=lambda key: (key.type, key.bits)),
        Column("hash", lambda key, _: short_hash(key.key_id_sha256), fixed=8, order=lambda key: key.key_id_sha256),
        Column(
            "uses",
            lambda key, _: _uses(key),
            fixed=6,
            right=True,
            order=lambda key: key.encrypts + key.decrypts,
            falling=True,
        ),
        Column(
            "last",
            lambda key, moment: age(key.last_used, moment.wall),
            fixed=6,
            right=True,
            order=lambda key: key.last_used.timestamp() if key.last_used else 0.0,
            falling=True,
        ),
        Column(
            "made",
            lambda key, moment: age(key.created, moment.wall),
            fixed=6,
            right=True,
            optional=True,
            order=lambda key: key.created.timestamp() if key.created else 0.0,
            falling=True,
        ),
        Column("key id", lambda key, _: key.key_id or "-", optional=True, order=lambda key: key.key_id),
        Column("token", lambda key, _: key.token_label, least=8, optional=True, order=lambda key: key.token_label),
        Column("purpose", lambda key, _: key.purpose, optional=True, order=lambda key: key.purpose),
    ),
    ident,
    lambda key: (
        escape(key.label),
        escape(key.key_id),
        key.key_id_sha256,
        styles.key(key.state).word,
        key_type(key),
        key.purpose,
        key.token_label,
        key.unusable_reason,
    ),
    lambda key: key.key_id,
    "key id",
    faint=lambda key: key.state == KeyState.ARCHIVED,
    order=("state", False),
    markable=True,
    command=(
        "keys",
        "list",
    ),
)


class KeysScreen(Page):
    """The screen of the keys."""

    NAME = "Keys"
    WANTS = frozenset({Want.KEYS})
    WANTS_TOKEN = True
    HELP = (
        "Shows every key on the tokens of this kmsd. The pane beside or below the table says all of the chosen one. "
        "Space marks a key, * all that are shown: T, a, R and D then ask once for all of them, and say what came of "
        "each."
    )
    SCREEN_COMMANDS = (
        ScreenCommand("generate", "n", "New", "Make a key: AES, HMAC, or a pair of both."),
        ScreenCommand(
            "test", "T", "Test", "Encrypt and decrypt with the chosen key, and show how long it takes.", changes=False
        ),
        ScreenCommand("relabel", "l", "Relabel", "Give the chosen key another label: its role, not its identity."),
        ScreenCommand("adopt", "a", "Adopt", "Give the chosen key a CKA_ID, if it has none."),
        ScreenCommand("retire", "R", "Retire", "Mark the chosen key as needed no more; it still decrypts."),
        ScreenCommand("destroy", "D", "Destroy", "Remove the chosen key from its token, for good."),
        ScreenCommand("requests", "u", "Uses", "Show the requests that used the chosen key.", changes=False),
    )
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        with Container(id="beside"):
            yield Listing(KEYS, id="keys")
            yield Detail()

    _sought: str = ""

    def show_data(self, view: View, moment: Moment) -> None:
        empty = waiting(view, view.keys, "the token holds no keys: n makes one")
        self._listing.set_class(view.keys.error is not None, "-stale")
        self._listing.show(view.keys.value or (), moment, empty=empty, note=note(view, view.keys, moment))
        if self._sought and self._listing.go_to(self._sought):
            self._sought = ""
        self.moved(view)

    def moved(self, view: View) -> None:
        key = self.chosen
        facts = tuple(key_facts(key, view, self.moment, self._refusals())) if key is not None else ()
        self.query_one(Detail).show(escape(key.label) if key is not None else "", facts)

    @property
    def chosen(self) -> Key | None:
        return self._listing.current

    @property
    def _listing(self) -> Listing[Key]:
        found: Listing[Key] = self.query_one("#keys", Listing)
        return found

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        if self.view is not None:
            facts = tuple(key_facts(event.item, self.view, self.moment, self._refusals()))
            self.app.push_screen(RecordDialog(escape(event.item.label), facts, event.item))

    def _go_to(self, outcome: ActionOutcome | None) -> None:
        """Go to the key that an action made or moved, as soon as it is listed."""
        if outcome is not None and outcome.key is not None:
            self._sought = ident(outcome.key)

    def go_to(self, ident: str) -> bool:
        """Move the cursor to a key; to one that is not listed yet, as soon as it is."""
        found = super().go_to(ident)
        self._sought = "" if found else ident
        return found

    def _refusals(self) -> tuple[tuple[ScreenCommand, str], ...]:
        return tuple((command, self.why_not(command.name)) for command in self.SCREEN_COMMANDS)

    def refusal(self, name: str) -> str:
        if name == "generate":
            return ""
        if name == "requests":
            return "" if self.chosen is not None and self.chosen.key_id_sha256 else "no key with a key id is chosen"
        marked = self._listing.marked
        if marked:
            if name not in _MANY:
                return "that is for one key at a time; Esc takes the marks away"
            reasons = [_why_not_among(name, key) for key in marked]
            return "" if not all(reasons) else f"none of the {len(marked)} marked keys: {reasons[0]}"
        key = self.chosen
        if key is None:
            return "no key is chosen"
        return why_not(name, key)

    def begin(self, name: str) -> None:
        view, key = self.view, self.chosen
        if view is None or view.status.value is None:
            return
        status, keys = view.status.value, view.keys.value or ()
        if name == "generate":
            taken = frozenset(each.label for each in keys)
            label = status.write_label if status.write_key is None else ""
            tokens = sorted(status.tokens, key=lambda token: not token.write)
            dialog = GenerateDialog(view.target, label, _write_labels(status), taken, [token.name for token in tokens])
            self.app.push_screen(dialog, self._go_to)
            return
        if name == "requests":
            self.post_message(ShowRequests(Filter(key_id_sha256=key.key_id_sha256 if key is not None else "")))
            return
        if self._listing.marked:
            self.app.push_screen(self._several(name, view), self._unmark)
            return
        if key is None:
            return
        match name:
            case "test":
                self.app.push_screen(TestDialog(view.target, key))
            case "relabel":
                self.app.push_screen(
                    RelabelDialog(view.target, key, _write_labels(status)),
                    self._go_to,
                )
            case "adopt":
                self.app.push_screen(AdoptDialog(view.target, key))
            case "retire":
                self.app.push_screen(RetireDialog(view.target, key, view.report[0] if view.report else ""))
            case "destroy":
                self.app.push_screen(DestroyDialog(view.target, key))

    def _several(self, name: str, view: View) -> SeveralDialog:
        rows = [Marked(key, _why_not_among(name, key)) for key in self._listing.marked]
        report = view.report[0] if view.report else ""
        match name:
            case "retire":
                return RetireSeveralDialog(view.target, rows, report)
            case "destroy":
                return DestroySeveralDialog(view.target, rows)
            case "adopt":
                return AdoptSeveralDialog(view.target, rows)
        return TestSeveralDialog(view.target, rows)

    def _unmark(self, outcome: ActionOutcome | None) -> None:
        if outcome is not None and not outcome.bad:
            self._listing.clear_marks()


_MANY = ("test", "adopt", "retire", "destroy")
"""The commands for several keys at once."""


def _why_not_among(name: str, key: Key) -> str:
    if name == "destroy" and key.state == KeyState.WRITE:
        return "it writes: destroy it by itself"
    if name == "destroy" and key.state == KeyState.COMPANION:
        return "it goes with its AES key: destroy that"
    return why_not(name, key)


def _write_labels(status: Status) -> dict[str, str]:
    """Return kmsd's own write label and those of its tenants, each with the name of its tenant."""
    return {status.write_label: "", **{each.write_label: each.name for each in status.tenants}}


def why_not(name: str, key: Key) -> str:
    """Return why a command makes no sense for a key; empty if it does. kmsd has the last word. Pure."""
    match name:
        case "adopt":
            return "it has a key id already" if key.key_id else ""
        case _ if key.state == KeyState.PLANTED and name != "generate":
            return "it is a public object, which kmsd does not touch"
        case "test" if key.state == KeyState.UNUSABLE:
            return f"it is unusable: {key.unusable_reason}"
        case "test" if not key.seals:
            return "only AES and RSA keys encrypt"
        case "retire":
            return _why_not_retire(key)
        case "relabel" if key.state == KeyState.SIGNING:
            return "it signs, and by its label it is known which one does"
        case "relabel" if not key.key_id and not key.label:
            return "it has neither a key id nor a label to call it by"
    return ""


_NEXT: Final = {"ca": "kmsctl ca roll", "jwt": "kmsctl jwt rotate"}
"""The command that has another key sign, by purpose."""


def _why_not_retire(key: Key) -> str:
    match key.state:
        case KeyState.WRITE:
            return "it writes: rotate first (5)"
        case KeyState.ARCHIVED:
            return "it is retired already"
        case KeyState.PENDING:
            return "a rotation is going to need it"
        case KeyState.COMPANION:
            return "it goes with its AES key: retire that"
        case KeyState.SIGNING:
            return f"it signs: {_NEXT.get(key.purpose, 'a newer kmstui')} makes the next one"
        case KeyState.UNUSABLE:
            return f"it is unusable: {key.unusable_reason}"
    return ""


def key_facts(
    key: Key, view: View, moment: Moment, commands: Sequence[tuple[ScreenCommand, str]] = ()
) -> Iterator[Fact]:
    """Return a key as lines of names and values."""
    if key.unusable_reason:
        yield Fact("✕", escape(key.unusable_reason), Colour.BAD)
        yield Fact("", f"→ {escape(key.unusable_hint)}")
    yield Fact("key id", escape(key.key_id) or "none")
    if key.key_id_sha256:
        yield Fact("sha256", escape(key.key_id_sha256))
    writes = f", writes {escape(key.enc)}" if key.enc else ""
    signs = f", signs for the purpose {escape(key.purpose)}" if key.state == KeyState.SIGNING else ""
    yield Fact("is", f"{key_type(key)}{writes}{signs}, on {escape(key.token_label)}")
    if key.state == KeyState.SIGNING and key.purpose == "jwt":
        yield Fact("kid", f"kmsctl jwt show {quote(escape(key.label))} tells it, and who has fetched it")
    yield Fact("may", _permissions(key))
    if key.created is not None:
        yield Fact("made", f"{absolute(key.created)}, {age(key.created, moment.wall)} ago")
    yield Fact("used", _used(key, view, moment))
    yield Fact("object", _attributes(key))
    for command, why in commands:
        if why and command.name != "generate":
            yield Fact(f"{command.key} {command.title.lower()}", f"✕ {escape(why)}")


def _used(key: Key, view: View, moment: Moment) -> str:
    last = f"last {absolute(key.last_used)}" if key.last_used is not None else "not that kmsd knows of"
    current = traffic.key_rates(view.traffic).get(key.key_id)
    pace = f", {rate(current)}/s now" if current else ""
    return f"{last}; {key.encrypts:,} encrypts, {key.decrypts:,} decrypts since it started{pace}"


def _uses(key: Key) -> str:
    total = key.encrypts + key.decrypts
    return compact(total) if total else "-"


def _permissions(key: Key) -> str:
    uses = {"encrypt": key.can_encrypt, "decrypt": key.can_decrypt, "sign": key.can_sign, "verify": key.can_verify}
    return ", ".join(name for name, allowed in uses.items() if allowed) or "do nothing"


def _attributes(key: Key) -> str:
    have = {
        "private": key.private,
        "PUBLIC": not key.private,
        "sensitive": key.sensitive,
        "not SENSITIVE": not key.sensitive,
        "EXTRACTABLE": key.extractable,
        "made here": key.local,
        "brought here": key.local is False,
        "always sensitive": key.always_sensitive,
        "never extractable": key.never_extractable,
    }
    return ", ".join(name for name, holds in have.items() if holds)
