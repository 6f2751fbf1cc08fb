"""The slots of kmsd's PKCS#11 module and the tokens in them."""

from __future__ import annotations

from collections.abc import Iterable

from textual.widget import Widget

from kmsd.client import Slot, escape
from kmstui.looks import Colour
from kmstui.screens.page import Page, age, waiting
from kmstui.store import Moment, View
from kmstui.widgets.columns import Column
from kmstui.widgets.detail import Detail, of_slot
from kmstui.widgets.grid import Grid, Row

_COLUMNS = (
    Column("state"),
    Column("slot", right=True),
    Column("token", least=12),
    Column("serial", least=8),
    Column("model", least=8),
    Column("PIN", least=12, optional=True),
    Column("manufacturer", least=12, optional=True),
    Column("description", least=16, optional=True),
)


class SlotsScreen(Page):
    NAME = "Slots"

    def data(self) -> Iterable[Widget]:
        yield Grid("Slots", _COLUMNS, id="slots")

    def show_data(self, view: View, moment: Moment) -> None:
        grid = self.query_one(Grid)
        grid.set_class(view.slots.error is not None, "-stale")
        empty = waiting(view, view.slots, "the PKCS#11 module shows no slots: is the HSM's client connected?")
        grid.show([_row(slot) for slot in view.slots.value or ()], empty, age(view, view.slots, moment))

    def show_detail(self, key: str | None) -> None:
        slots = self.view.slots.value if self.view is not None else None
        found = next((slot for slot in slots or () if str(slot.slot_id) == key), None)
        self.query_one(Detail).show(of_slot(found) if found is not None else ())


def _row(slot: Slot) -> Row:
    if slot.in_use:
        state, colour = "● in use", Colour.GOOD
    elif slot.token_present:
        state, colour = "◦ not used", Colour.PLAIN
    else:
        state, colour = "◦ empty", Colour.PLAIN
    cells = (
        state,
        str(slot.slot_id),
        escape(slot.token_label) or "-",
        escape(slot.token_serial) or "-",
        escape(slot.token_model) or "-",
        escape(", ".join(slot.pin_warnings)),
        escape(slot.token_manufacturer or slot.manufacturer),
        escape(slot.description),
    )
    return Row(str(slot.slot_id), cells, colour, cells)
