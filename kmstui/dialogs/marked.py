"""One dialog for several keys: lists them all, asks once, as strictly as the most dangerous of them wants it, and shows
what came of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from kmsd.client import ClientError, Key, escape
from kmstui import actions, styles
from kmstui.action import Action, Done
from kmstui.dialogs.dialog import Dialog, field
from kmstui.dialogs.keys import warning
from kmstui.several import asked, several
from kmstui.styles import Colour
from kmstui.text import plural, short_hash, shorten

_LABEL_MOST = 40


@dataclass(frozen=True)
class Marked:
    """A key of several. One key of several. why_not: why it is left out; empty if it is not."""

    key: Key
    why_not: str


class SeveralDialog(Dialog):
    """A form for one action on several keys. rows: all that are marked."""

    VERB: ClassVar[str]
    DANGER: ClassVar[bool] = False

    def __init__(self, target: str, rows: Sequence[Marked]) -> None:
        self._rows = tuple(rows)
        self._keys = tuple(row.key for row in rows if not row.why_not)
        name = f"{self.VERB} {plural(len(self._keys), 'key')}"
        super().__init__(target, name, self.VERB, danger=self.DANGER)

    def fields(self) -> Iterable[Widget]:
        with VerticalScroll(id="rows"):
            yield Static(Content("\n").join(_line(row) for row in self._rows))
        yield from self.questions()

    def questions(self) -> Iterable[Widget]:
        """Return what is asked beside the list."""
        return ()

    def one(self, key: Key) -> Action:
        """Return the action on one of the keys."""
        raise NotImplementedError

    def chosen(self) -> tuple[Key, ...]:
        """Return the keys that it is going to be done to."""
        return self._keys

    def draft(self) -> Action:
        keys = self.chosen()
        return several(f"{self.VERB.lower()} {plural(len(keys), 'key')}", [self.one(key) for key in keys])

    def missing(self) -> str:
        return "" if self._keys else "none of these keys allows it"


class TestSeveralDialog(SeveralDialog):
    """A form that tries several keys."""

    __test__ = False
    VERB = "Test"
    AT_ONCE = True
    HELP = "Encrypts and decrypts random bytes with each of the marked keys, one after the other."

    def one(self, key: Key) -> Action:
        return actions.test(key)


class AdoptSeveralDialog(SeveralDialog):
    """A form that gives key ids to several keys."""

    VERB = "Adopt"
    HELP = "Gives each of the marked keys that has no CKA_ID an identity, for good, so that it can serve."

    def one(self, key: Key) -> Action:
        return actions.adopt(key)


class _LettingGoSeveral(SeveralDialog):
    """A form that retires or destroys several keys. kmsd kmsd is asked about each first. What it refuses is left out,
    unless the number of all is typed."""

    DANGER = True
    TYPED: ClassVar[bool] = False
    """Whether the number is to be typed even if kmsd refuses none."""

    def __init__(self, target: str, rows: Sequence[Marked], report: str = "") -> None:
        super().__init__(target, rows)
        self._given = report
        self._refused: dict[int, ClientError] = {}
        """The fields, by place among the keys."""

    def questions(self) -> Iterable[Widget]:
        hint = "a file that `kmsctl etcd scan --report FILE` wrote"
        yield field("report", Input(self._given, placeholder=hint, id="report", compact=True))
        yield field("confirm", Input(id="confirm", compact=True))

    def preview(self) -> Action | None:
        parts = [self._part(key, self._given, "", dry_run=True) for key in self._keys]
        return asked(parts) if parts else None

    def _previewed(self, done: Done) -> None:
        if done.outcome is not None:
            self._refused = {at: part.error for at, part in enumerate(done.outcome.parts) if part.error is not None}
        super()._previewed(done)
        if self.is_mounted:
            self.refresh_form()

    def _part(self, key: Key, report: str, confirm: str, *, dry_run: bool = False) -> Action:
        raise NotImplementedError

    def one(self, key: Key) -> Action:
        at = self._keys.index(key)
        overrides = at in self._refused and not self._report
        return self._part(key, self._report, key.label if overrides else "")

    def chosen(self) -> tuple[Key, ...]:
        """Return all of them if a report is to show kmsd that they may go, or if all was typed; else those not
        refused."""
        if self._report or self._typed == self._phrase(len(self._keys)):
            return self._keys
        return tuple(key for at, key in enumerate(self._keys) if at not in self._refused) or self._keys

    def missing(self) -> str:
        safe, every = len(self._keys) - len(self._refused), len(self._keys)
        entry = self.query_one("#confirm", Input)
        if self._report or not self._refused:
            wanted, entry.placeholder = {self._phrase(every)}, f"type {self._phrase(every)}"
        else:
            spared = f"{self._phrase(safe)}, or " if safe else ""
            entry.placeholder = f"type {spared}{self._phrase(every)} in spite of what is refused"
            wanted = {self._phrase(every), *([self._phrase(safe)] if safe else [])}
        if super().missing():
            return super().missing()
        needed = self.TYPED or (bool(self._refused) and not safe and not self._report)
        if self._typed in wanted or (not self._typed and not needed):
            return ""
        return "type it to confirm"

    def _phrase(self, number: int) -> str:
        return f"{self.VERB.lower()} {number}"

    @property
    def _report(self) -> str:
        return self.query_one("#report", Input).value

    @property
    def _typed(self) -> str:
        return self.query_one("#confirm", Input).value.strip()


class RetireSeveralDialog(_LettingGoSeveral):
    """A form that retires several keys."""

    VERB = "Retire"
    HELP = (
        "Marks each of these keys as needed no more. kmsd is asked about each first; those that it refuses are left "
        "out, unless what is typed names the number of all."
    )

    def _part(self, key: Key, report: str, confirm: str, *, dry_run: bool = False) -> Action:
        return actions.retire(key, report, confirm, dry_run=dry_run)


class DestroySeveralDialog(_LettingGoSeveral):
    """A form that destroys several keys."""

    VERB = "Destroy"
    TYPED = True
    HELP = (
        "Removes each of these keys from its token. What they encrypted can never be read again. kmsd is asked about "
        "each first; those that it refuses are left out, unless what is typed names the number of all."
    )

    def questions(self) -> Iterable[Widget]:
        yield warning("what they encrypted can never be read again; this cannot be undone")
        yield from super().questions()

    def _part(self, key: Key, report: str, confirm: str, *, dry_run: bool = False) -> Action:
        return actions.destroy(key, report, confirm, dry_run=dry_run)


def _line(row: Marked) -> Content:
    look = styles.key(row.key.state)
    label = shorten(escape(row.key.label), _LABEL_MOST)
    if row.why_not:
        return Content.assemble(("✕ ", f"${Colour.BAD}"), label, (f"  left out: {escape(row.why_not)}", "dim"))
    digest = short_hash(row.key.key_id_sha256)
    return Content.assemble((f"{look.glyph} ", f"${look.colour}"), label, (f"  {look.word}, hash {digest}", "dim"))
