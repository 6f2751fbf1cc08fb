"""Is it serving, with which key, since when, what is wrong, and what happened last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual import events, on
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Filter, Key, Sessions, Status, Token, TokenStatus, escape
from kmstui import styles, tenants, upstreams
from kmstui.commands import ScreenCommand
from kmstui.event_log import happenings
from kmstui.limits import GCM_MOST
from kmstui.messages import LookInto, ShowRequests
from kmstui.screens.key_managers import KeyManagersPanel
from kmstui.screens.page import PLOTTED, Page, tail_waiting
from kmstui.screens.rotation import rotate_dialog
from kmstui.styles import BAD, GOOD, WARN, Colour
from kmstui.text import (
    absolute,
    ago,
    clock,
    compact,
    duration,
    key_type,
    pad,
    plural,
    short_hash,
    shorten,
    shorten_left,
    width,
)
from kmstui.view import Moment, View, Want
from kmstui.widgets.panel import WAITING, Panel
from kmstui.widgets.plot import ErrorsPlot, LatencyPlot, RequestsPlot
from kmstui.widgets.problem import TroubleList


class OverviewScreen(Page):
    """The screen that says whether kmsd serves."""

    NAME = "Overview"
    AUTO_FOCUS = ""
    WANTS = frozenset({Want.AUDIT})
    HELP = (
        "Shows how this kmsd is, with which key it writes, what it is asked, and what happened last. Up and down "
        "choose one of the problems at the top; Enter, or a click on it, leads to the requests that failed because of "
        "it, else to its key, its setting, or the doctor of its token."
    )
    SCREEN_COMMANDS = (
        ScreenCommand("copy", "c", "Copy key id", "Copy the key id of the write key.", changes=False),
        ScreenCommand("rotate", "R", "Rotate", "Make a new write key.", token=True),
        ScreenCommand(
            "errors", "e", "Errors", "Show the requests that failed; a click on the errors does it, too.", changes=False
        ),
    )
    BINDINGS = [*(command.binding for command in SCREEN_COMMANDS), *PLOTTED]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        yield Container(
            WriteKeyPanel("Write key"),
            HealthPanel("Health"),
            TokensPanel("Tokens", id="tokens", classes="-of-token"),
            CertificatePanel("Certificate", id="certificate", classes="-of-proxy"),
            id="panels",
        )
        yield KeyManagersPanel("Key managers", id="key-managers", classes="-of-proxy")
        yield RequestsPlot("Requests/s", id="requests")
        yield Container(LatencyPlot("Latency"), ErrorsPlot("Errors/s"), id="plots")
        yield EventsPanel("Last events", id="events")

    def show_data(self, view: View, moment: Moment) -> None:
        for panel in self.query(Panel):
            if panel.display:
                panel.show(view, moment)
        troubles = self.query_one(TroubleList)
        if self.focused is troubles and not troubles.can_focus:
            self.set_focus(None)
        elif troubles.can_focus and self.focused is None and self.zoomed is None:
            troubles.focus(scroll_visible=False)

    @on(TroubleList.Chosen)
    def _chosen(self, event: TroubleList.Chosen) -> None:
        self.post_message(LookInto(event.trouble))

    def on_click(self, event: events.Click) -> None:
        if isinstance(event.widget, ErrorsPlot):
            self.action_do("errors")

    def refusal(self, name: str) -> str:
        if name == "errors":
            return ""
        status = self.view.status.value if self.view is not None else None
        key = None if status is None else status.replaceable if name == "rotate" else status.write_key
        if key is None:
            proxy = self.view is not None and self.view.upstreams
            return "no key manager has named a key" if proxy else "there is no write key: make one (3, n)"
        return ""

    def begin(self, name: str) -> None:
        if name == "errors":
            self.post_message(ShowRequests(Filter(failed=True)))
            return
        status = self.view.status.value if self.view is not None else None
        if status is None:
            return
        if name == "copy" and status.write_key is not None:
            self.app.copy_to_clipboard(status.write_key.key_id)
            self.notify(f"copied {escape(status.write_key.key_id)}", markup=False)
        elif name == "rotate" and self.view is not None:
            self.app.push_screen(rotate_dialog(self.view.target, status))


class WriteKeyPanel(Panel):
    """A panel of the key that encrypts."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        status = view.status.value
        if status is None:
            yield WAITING
        elif status.upstreams:
            yield from self._of_proxy(status, moment)
        elif status.write_key is None:
            yield Content.assemble((f"{BAD} ", f"${Colour.BAD}"), ("none", "bold"))
            held = status.replaceable is not None
            yield self.field("label", f"{escape(status.write_label)} {'cannot serve' if held else 'is missing'}", 6)
            way = "R makes a key that serves" if held else "kmsctl keygen makes it, or 3 and n"
            yield self.field("", way, 6)
        else:
            yield Content.styled(shorten(escape(status.write_key.label), self.columns), "bold")
            for name, text in _key_facts(status.write_key, status, moment):
                yield self.field(name, text, 6)

    def _of_proxy(self, status: Status, moment: Moment) -> Iterator[Content]:
        key, following = status.write_key, status.following
        if key is None:
            yield Content.assemble((f"{BAD} ", f"${Colour.BAD}"), ("not known", "bold"))
            yield self.field("", "no key manager has named one yet", 6)
            return
        yield self.field("hash", short_hash(key.key_id_sha256), 6)
        yield self.field("id", escape(key.key_id), 6)
        yield self.field("where", "at the key managers; no token", 6)
        if following.since is not None:
            before = short_hash(following.previous_key_id_sha256) if following.previous_key_id else ""
            yield self.field("since", f"{ago(following.since, moment.wall)}{f', after {before}' if before else ''}", 6)
        last = following.last_encrypt
        yield self.field("used", f"last Encrypt {ago(last, moment.wall)}" if last is not None else "no Encrypt yet", 6)


def _key_facts(key: Key, status: Status, moment: Moment) -> Iterator[tuple[str, str]]:
    yield "id", escape(key.key_id)
    writes = escape(key.enc or status.write_format)
    yield "hash", f"{short_hash(key.key_id_sha256)}   {key_type(key)}  {writes}"
    when = f" ({key.created:%Y-%m-%d})" if key.created is not None else ""
    yield "made", f"{ago(key.created, moment.wall)}{when}"
    last = f", last {ago(key.last_used, moment.wall)}" if key.last_used is not None else ""
    yield "used", f"{compact(key.encrypts)} encrypts, {compact(key.decrypts)} decrypts{last}"
    following = status.following
    if following.since is not None and following.previous_key_id:
        # Without a key before it this kmsd has only seen that it writes, and not since when.
        before = short_hash(following.previous_key_id_sha256)
        yield "since", f"{ago(following.since, moment.wall)}, after {before}"
    if key.enc.endswith("GCM"):
        yield "left", f"{100 * (1 - key.encrypts / GCM_MOST):.1f} % of 2³² encrypts"


class HealthPanel(Panel):
    """A panel of what is well and what is not."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        status = view.status.value
        if status is None:
            yield WAITING
            return
        rows = list(_health(status, moment))[: self.content_size.height]
        wide = max(width(name) for _, name, _ in rows)
        for glyph, name, text in rows:
            room = self.columns - wide - 4
            yield self.state(glyph, name, shorten_left(text, room) if text.startswith("/") else text, wide)


def _health(status: Status, moment: Moment) -> Iterator[tuple[str, str, str]]:
    probe, sessions, token = status.probe, status.sessions, status.token
    if probe.last_success is None:
        yield BAD, "round trip", "none has succeeded yet"
    else:
        age = ago(probe.last_success, moment.wall)
        yield GOOD if status.healthy else BAD, "round trip", f"{probe.round_trip_ms:.1f} ms, {age}"
    if status.upstreams:
        away = sum(not each.up for each in status.upstreams)
        glyph = GOOD if not away else BAD if away == len(status.upstreams) else WARN
        yield glyph, "managers", upstreams.tally(status.upstreams)
    else:
        yield from _token_health(sessions, token)
    if status.tenants:
        glyph, served = tenants.tally(status.tenants, brief=True)
        yield glyph, "tenants", served
    if status.certificate is not None:
        glyph, left = upstreams.remaining(status.certificate, moment.wall)
        yield glyph, "certificate", left
    for listener in status.listeners:
        yield GOOD, escape(" ".join(listener.apis)), escape(listener.socket)
    up = (moment.wall - status.started).total_seconds() if status.started else None
    yield GOOD, f"kmsd {escape(status.version)}", f"up {duration(up)}" if up is not None else ""


def _token_health(sessions: Sessions, token: Token) -> Iterator[tuple[str, str, str]]:
    glyph = WARN if sessions.stuck or sessions.open < sessions.configured else GOOD
    queued = f", {sessions.queued} queued" if sessions.queued else ""
    stuck = f", {sessions.stuck} stuck" if sessions.stuck else ""
    yield (
        glyph if sessions.open else BAD,
        "sessions",
        f"{sessions.open} of {sessions.configured}{stuck}{queued}, {sessions.busy} busy",
    )
    where = f"{escape(token.label)}, slot {token.slot_id}"
    yield GOOD if token.up else BAD, "token", f"{where}, {'up' if token.up else 'away'}"


class TokensPanel(Panel):
    """A panel of every configured token; shown where there is room."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        status = view.status.value
        if status is None:
            yield WAITING
            return
        for each in status.tokens:
            yield from self._token(each)

    def _token(self, each: TokenStatus) -> Iterator[Content]:
        glyph = GOOD if each.token.up else BAD
        write = Content.styled("writes", f"${Colour.ACCENT}") if each.write else Content.styled("reads", "dim")
        name = Content.assemble(
            (f"{glyph} ", f"${styles.COLOURS[glyph]}"), (escape(each.token.label or each.name), "bold")
        )
        yield self.sides(name, write)
        if each.token.up:
            keys, sessions = plural(each.keys, "key"), each.sessions
            text = f"{keys}, {sessions.open} of {sessions.configured} sessions, slot {each.token.slot_id}"
            yield Content.styled(f"  {shorten(text, self.columns - 2)}", "dim")
        else:
            yield Content(f"  {shorten(escape(each.reason), self.columns - 2)}")
            yield Content(f"  → {shorten(escape(each.hint), self.columns - 4)}")


class CertificatePanel(Panel):
    """A panel of the certificate that a proxy shows to key managers; shown where there is room."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        status = view.status.value
        own = status.certificate if status is not None else None
        if own is None:
            yield WAITING if status is None else Content.styled("no certificate could be read", "dim")
            return
        glyph, left = upstreams.remaining(own, moment.wall)
        yield Content.styled(shorten(escape(own.subject), self.columns), "bold")
        yield self.state(glyph, "ends", f"{left} ({absolute(own.not_after)[:10]})", 4)
        for name in own.names:
            yield Content(shorten(escape(name), self.columns))
        yield self.field("serial", escape(own.serial), 7)


class EventsPanel(Panel):
    """A panel of what happened last."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        found = happenings(view, self.content_size.height)
        if not found:
            yield Content.styled(tail_waiting(view, view.audit, "nothing has happened yet"), "dim")
        action = max((width(each.action) for each in found), default=0)
        times = [clock(each.time, moment.wall) for each in found]
        people = max((width(each.who) for each in found), default=0)
        for each, time in zip(found, times, strict=True):
            head = f"{pad(time, max(len(time) for time in times))}  "
            name = f" {pad(each.action, action)}  {pad(each.key_hash, 8)}  "
            room = self.columns - width(head) - width(name) - people - 3
            said = (
                each.text
                if each.look.colour is not Colour.BAD or not each.look.word
                else f"{each.look.word}: {each.text}"
            )
            text = pad(said, max(0, room))
            yield Content.assemble(
                (head, "dim"), (each.look.glyph, f"${each.look.colour}"), name, text, (f"  {each.who}", "dim")
            )
