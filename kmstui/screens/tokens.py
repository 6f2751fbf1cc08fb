"""The slots of kmsd's PKCS#11 modules, the tokens in them, and what those can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Mechanism, Slot, Status, TokenStatus, Upstream, escape
from kmstui import plots, upstreams
from kmstui.messages import MechanismsWanted
from kmstui.screens.key_managers import UPSTREAMS, upstream_facts
from kmstui.screens.page import Page, note, waiting
from kmstui.styles import BAD, GOOD, WARN, Colour
from kmstui.text import count
from kmstui.view import Moment, Reading, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing

_METER = 12


def _state(slot: Slot) -> tuple[str, Colour]:
    if slot.in_use and slot.pin_warnings:
        return f"{WARN} in use", Colour.WARN
    if slot.in_use:
        return f"{GOOD} in use", Colour.GOOD
    return ("◦ not used", Colour.PLAIN) if slot.token_present else ("◦ empty", Colour.PLAIN)


def _sessions(slot: Slot) -> str:
    if slot.sessions is None:
        return "-"
    return f"{count(slot.sessions)} of {count(slot.sessions_max)}" if slot.sessions_max else count(slot.sessions)


SLOTS = ItemKind[Slot](
    "Slots",
    (
        Column(
            "state",
            lambda slot, _: _state(slot)[0],
            colour=lambda slot: _state(slot)[1],
            order=lambda slot: (not slot.in_use, not slot.token_present),
        ),
        Column("slot", lambda slot, _: str(slot.slot_id), right=True, order=lambda slot: slot.slot_id),
        Column("token", lambda slot, _: slot.token_label or "-", least=12, order=lambda slot: slot.token_label),
        Column("sessions", lambda slot, _: _sessions(slot), right=True, optional=True),
        Column("serial", lambda slot, _: slot.token_serial or "-", least=8, optional=True),
        Column("model", lambda slot, _: slot.token_model or "-", least=8, optional=True),
        Column(
            "PIN",
            lambda slot, _: ", ".join(slot.pin_warnings),
            least=12,
            optional=True,
            colour=lambda slot: Colour.WARN if slot.pin_warnings else Colour.PLAIN,
        ),
        Column("description", lambda slot, _: slot.description, least=16, optional=True),
    ),
    lambda slot: f"{slot.module}\0{slot.slot_id}",
    lambda slot: (escape(slot.token_label), slot.token_serial, slot.token_model, slot.description, str(slot.slot_id)),
    lambda slot: slot.token_serial,
    "serial number",
    faint=lambda slot: not slot.token_present,
    # Slot numbers are in no order that matters: SoftHSM draws them. The token that kmsd serves from comes first.
    order=("state", False),
    command=("slots",),
)

MECHANISMS = ItemKind[Mechanism](
    "Mechanisms",
    (
        Column("name", lambda each, _: each.name, least=24, order=lambda each: each.name),
        Column("keys", lambda each, _: _key_sizes(each), right=True, order=lambda each: (each.min_key, each.max_key)),
        Column(
            "used here for",
            lambda each, _: each.used_for,
            least=14,
            colour=lambda each: Colour.ACCENT,
            order=lambda each: each.used_for,
            falling=True,
        ),
        Column("can", lambda each, _: ", ".join(each.flags), least=20),
    ),
    lambda each: str(each.type),
    lambda each: (each.name, each.used_for, *each.flags),
    lambda each: each.name,
    "name",
    faint=lambda each: not each.used_for,
    order=("used here for", True),
    command=("mechanisms",),
)


def _key_sizes(each: Mechanism) -> str:
    if not each.max_key:
        return "-"
    return str(each.max_key) if each.min_key == each.max_key else f"{each.min_key}-{each.max_key}"


class TokensScreen(Page):
    """The screen of slots, tokens and what they can do."""

    NAME = "Tokens"
    WANTS = frozenset({Want.SLOTS, Want.MECHANISMS})
    WANTS_TOKEN = True
    HELP = (
        "Shows the slots that kmsd's PKCS#11 modules show, and the mechanisms of the chosen token, with what kmsd "
        "does with each. Key sizes are in the mechanism's own unit, bits or bytes (PKCS#11). Tab goes from table to "
        "table. A proxy has no token: its key managers are here, with the calls that each was asked and did not answer."
    )

    def data(self) -> Iterable[Widget]:
        with Container(id="tokens-above"):
            yield Listing(SLOTS, id="slots")
            yield Detail()
        yield Listing(MECHANISMS, id="mechanisms")

    def elsewhere(self) -> Iterable[Widget]:
        yield from super().elsewhere()
        with Container(id="beside"):
            yield Listing(UPSTREAMS, id="upstreams")
            yield Detail()

    def said_elsewhere(self, view: View, moment: Moment) -> Iterable[Content]:
        yield Content.styled("There is no token here: this kmsd is a proxy, and asks these.", "dim")

    def show_elsewhere(self, view: View, moment: Moment) -> None:
        super().show_elsewhere(view, moment)
        self._upstreams.show(view.upstreams, moment, empty="", note=upstreams.tally(view.upstreams))
        self.moved(view)

    @property
    def _upstreams(self) -> Listing[Upstream]:
        found: Listing[Upstream] = self.query_one("#upstreams", Listing)
        return found

    def show_data(self, view: View, moment: Moment) -> None:
        slots = self.query_one("#slots", Listing)
        slots.set_class(view.slots.error is not None, "-stale")
        empty = waiting(view, view.slots, "the PKCS#11 module shows no slots: is the HSM's client connected?")
        slots.show(view.slots.value or (), moment, empty=empty, note=note(view, view.slots, moment))
        self.moved(view)

    def moved(self, view: View) -> None:
        if view.upstreams:
            each = self._upstreams.current
            said = tuple(upstream_facts(each, self.moment)) if each is not None else ()
            self.query_one("#elsewhere Detail", Detail).show(escape(each.address) if each is not None else "", said)
            return
        slot: Slot | None = self.query_one("#slots", Listing).current
        title = escape(slot.token_label or f"slot {slot.slot_id}") if slot is not None else ""
        facts = tuple(slot_facts(slot, view.status.value)) if slot is not None else ()
        self.query_one("#data Detail", Detail).show(title, facts)
        name = slot.name if slot is not None else ""
        if name:
            self.post_message(MechanismsWanted(name))
        found = view.mechanisms.get(name, Reading())
        empty = waiting(view, found, "the token tells of none") if name else _not_ours(slot)
        mechanisms = self.query_one("#mechanisms", Listing)
        mechanisms.show(found.value or (), self.moment, empty=empty, note=f"token {escape(name)}" if name else "")


def _not_ours(slot: Slot | None) -> str:
    return "kmsd does not use this token, so it is not asked" if slot is not None else "no slot is chosen"


def slot_facts(slot: Slot, status: Status | None) -> Iterator[Fact]:
    """Return a slot as lines of names and values."""
    ours = next((each for each in status.tokens if each.name == slot.name), None) if status and slot.name else None
    for warning in slot.pin_warnings:
        yield Fact("PIN", f"{WARN} {escape(warning)}", Colour.WARN)
    if ours is not None:
        yield from _ours(ours)
    if slot.token_present:
        made = ", ".join(filter(None, (slot.token_model, slot.token_manufacturer)))
        yield Fact("token", escape(f"{made}, serial {slot.token_serial}"))
        yield Fact("flags", escape(", ".join(slot.flags)) or "none")
    if slot.sessions is not None:
        yield Fact("sessions", _use(slot.sessions, slot.sessions_max))
    if slot.rw_sessions is not None:
        yield Fact("writing", _use(slot.rw_sessions, slot.rw_sessions_max))
    yield Fact("slot", escape(f"{slot.slot_id}, {slot.description}, {slot.manufacturer}"))
    if slot.module:
        yield Fact("module", escape(slot.module))


def _ours(each: TokenStatus) -> Iterator[Fact]:
    role = "new keys are made here" if each.write else "its keys are read"
    yield Fact("kmsd", f"calls it {escape(each.name)}; {role}; {each.keys} keys")
    if not each.token.up:
        yield Fact("", f"{BAD} {escape(each.reason)}", Colour.BAD)
        yield Fact("", f"→ {escape(each.hint)}")
    if each.process.served > 1:
        yield Fact("", f"its module has been loaded by {each.process.served} processes, one after the other; the last:")
        yield Fact("", escape(each.process.reason))
    use = each.sessions
    stuck = f", {use.stuck} stuck" if use.stuck else ""
    queued = f", {use.queued} calls wait" if use.queued else ""
    bar = plots.meter(use.busy, use.configured, _METER)
    yield Fact(
        "",
        f"{bar} {use.busy} of {use.open} sessions busy{use.range}{stuck}{queued}",
        Colour.WARN if stuck else Colour.PLAIN,
    )


def _use(number: int, most: int | None) -> str:
    """Return how much of it all programs on the token use."""
    if not most:
        return f"{count(number)} open, by all programs"
    return f"{plots.meter(number, most, _METER)} {count(number)} of {count(most)} open, by all programs"
