"""Every target in one table, the odd one out first; Enter opens one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual import on
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import ServingState, Status, escape
from kmsd.client.fleet import Kind, kind
from kmstui import fleet, shell, upstreams
from kmstui.commands import ScreenCommand
from kmstui.fleet import FleetRow
from kmstui.messages import Open
from kmstui.screens.page import Page
from kmstui.styles import Colour
from kmstui.text import absolute, age, duration, milliseconds, plural, rate, short_hash, shorten
from kmstui.view import Moment, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.steady import Said
from kmstui.widgets.table import Table

_REMARKS_MOST = 3
"""Targets that stand out, of which the table is headed; on a small terminal only the first."""
_ROOMY = 32
"""Rows of the terminal."""

FLEET = ItemKind[FleetRow](
    "Fleet",
    (
        Column("", lambda row, _: row.look.glyph, fixed=1, colour=lambda row: row.look.colour),
        Column("target", lambda row, _: row.name, least=10, order=lambda row: row.name),
        Column("kind", lambda row, _: _kind(row), fixed=7, order=lambda row: _kind(row)),
        Column(
            "state",
            lambda row, _: row.look.word,
            fixed=9,
            colour=lambda row: row.look.colour,
            order=lambda row: row.look.word,
        ),
        Column("write key", lambda row, _: _key_hash(row), fixed=8, order=lambda row: _key_hash(row)),
        Column("since", lambda row, moment: _since(row, moment), fixed=6, right=True),
        Column("req/s", lambda row, _: _rate(row), fixed=6, right=True, order=lambda row: _number(row), falling=True),
        Column("p99", lambda row, _: _p99(row), fixed=7, right=True, order=lambda row: _slow(row), falling=True),
        Column("skew", lambda row, _: _skew(row), fixed=7, right=True, optional=True),
        Column("answered", lambda row, moment: _answered(row, moment), fixed=8, right=True),
        Column("version", lambda row, _: _version(row), optional=True, order=lambda row: _version(row)),
        Column("", lambda row, _: "; ".join(row.standing.remarks), least=20, optional=True),
    ),
    lambda row: row.target,
    lambda row: (
        row.name,
        escape(row.target),
        row.look.word,
        _kind(row),
        _key_hash(row),
        _version(row),
        *row.standing.remarks,
    ),
    lambda row: row.target,
    "target",
    data=lambda row: row.standing.member if row.last is None else row.last,
    faint=lambda row: row.old,
    command=("targets",),
)


class FleetScreen(Page):
    """The screen of all targets side by side."""

    NAME = "Fleet"
    WANTS = frozenset({Want.FLEET})
    HELP = (
        "Shows every kmsd that was named with --target or in the configuration file of kmsctl, the odd one first: "
        "another write key than the rest, no answer, not healthy, another version, a wrong clock. A proxy asks key "
        "managers, and those have a token, as a local kmsd has; keys are compared within a kind. One that does not "
        "answer keeps what it last said, dimmed, with its age. p99 and requests per second are of its last ten "
        "seconds."
    )
    SCREEN_COMMANDS = (ScreenCommand("open", "o", "Open", "Look at the chosen target, as Enter does.", changes=False),)
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        yield Said(id="fleet-head")
        with Container(id="beside"):
            yield Listing(FLEET, id="fleet")
            yield Detail()

    def show_data(self, view: View, moment: Moment) -> None:
        found = fleet.rows(view)
        most = _REMARKS_MOST if self.size.height >= _ROOMY else 1
        head = list(_head(found, most, self.size.width - 2))
        self.query_one("#fleet-head").display = bool(head)
        self.query_one("#fleet-head", Said).say(Content("\n").join(head))
        self._listing.show(found, moment, empty="no target is known", note=fleet.headline(found))
        self.moved(view)

    def moved(self, view: View) -> None:
        row = self._listing.current
        facts = tuple(row_facts(row, self.moment)) if row is not None else ()
        self.query_one(Detail).show(row.name if row is not None else "", facts)

    @property
    def _listing(self) -> Listing[FleetRow]:
        found: Listing[FleetRow] = self.query_one("#fleet", Listing)
        return found

    def why_not(self, name: str) -> str:
        """Return why a command cannot be done; it does not matter here whether the present target answers."""
        return "" if self._listing.current is not None else "no target is known"

    def begin(self, name: str) -> None:
        row = self._listing.current
        if row is not None:
            self.post_message(Open(row.target))

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        self.post_message(Open(event.item.target))


def _head(found: tuple[FleetRow, ...], most: int, columns: int) -> Iterator[Content]:
    said = list(fleet.remarks(found))
    for at, (look, name, sentence) in enumerate(said[:most], 1):
        more = f"  (and {len(said) - most} more)" if at == most and len(said) > most else ""
        text = shorten(f"{name}: {sentence}", columns - 2 - len(more))
        yield Content.assemble((f"{look.glyph} ", f"${look.colour}"), (text, "bold"), (more, "dim"))
    if len(found) < 2:
        text = "name others with --target, or as [[targets]] in the configuration file of kmsctl"
        yield Content.styled(shorten(text, columns), "dim")


def row_facts(row: FleetRow, moment: Moment) -> Iterator[Fact]:
    """Return a target as lines of names and values."""
    error = row.reading.error
    if error is not None:
        yield Fact("✕", escape(error.message), Colour.BAD)
        if error.hint:
            yield Fact("", f"→ {escape(error.hint)}")
    else:
        for said in row.standing.remarks:
            yield Fact(row.look.glyph, escape(said), row.look.colour)
    yield Fact("as", escape(shell.kmsctl(row.target, "status")))
    last = row.last
    if last is not None and last.status is not None:
        status, key = last.status, last.write_key
        yield Fact("kmsd", f"{escape(status.version)}, {escape(status.healthz)}")
        yield Fact("kind", _kind_words(status))
        if key is not None:
            label = f"{escape(key.label)}, " if key.label else ""
            yield Fact("write key", f"{label}hash {short_hash(key.key_id_sha256)}, {escape(key.key_id)}")
        else:
            named = "no key manager has named one" if status.upstreams else f"{escape(status.write_label)} is missing"
            yield Fact("write key", f"none: {named}")
        if status.following.since is not None:
            yield Fact("since", absolute(status.following.since))
        took = f" in {milliseconds(1000 * last.answered_in)}" if last.answered_in is not None else ""
        yield Fact("answered", f"{duration(moment.steady - row.reading.taken)} ago{took}, {absolute(last.asked)}")


def _kind(row: FleetRow) -> str:
    of_kind = row.last.kind if row.last is not None else None
    return of_kind.value if of_kind is not None else "-"


def _kind_words(status: Status) -> str:
    """Return what kind of kmsd it is, in words."""
    match kind(status):
        case Kind.PROXY:
            named = f"a proxy of {plural(len(status.upstreams), 'key manager')}"
            return f"{named}, {upstreams.tally(status.upstreams)}; no token"
        case Kind.MANAGER:
            down = sum(each.state is not ServingState.SERVING for each in status.tenants)
            return f"a key manager of {plural(len(status.tenants), 'tenant')}, {down} of them not served"
    return "a kmsd with a token, for its own machine"


def _key_hash(row: FleetRow) -> str:
    key = row.last.write_key if row.last is not None else None
    return short_hash(key.key_id_sha256) if key is not None else "-"


def _since(row: FleetRow, moment: Moment) -> str:
    status = row.last.status if row.last is not None else None
    return age(status.following.since, moment.wall) if status is not None else "-"


def _number(row: FleetRow) -> float:
    return (row.last.rate if row.last is not None else None) or 0.0


def _rate(row: FleetRow) -> str:
    return rate(_number(row)) if row.last is not None and row.last.rate is not None else "-"


def _slow(row: FleetRow) -> float:
    return (row.last.p99_ms if row.last is not None else None) or 0.0


def _p99(row: FleetRow) -> str:
    return milliseconds(_slow(row))


def _skew(row: FleetRow) -> str:
    skew = row.last.skew if row.last is not None else None
    return f"{skew:+.1f} s" if skew is not None else "-"


def _answered(row: FleetRow, moment: Moment) -> str:
    return duration(moment.steady - row.reading.taken).replace(" days", " d") if row.last is not None else "-"


def _version(row: FleetRow) -> str:
    status = row.last.status if row.last is not None else None
    return escape(status.version) if status is not None else "-"
