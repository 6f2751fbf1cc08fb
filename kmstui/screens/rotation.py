"""The rotation that is under way, guided to its end; or what there is to rotate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual.containers import Container, Vertical
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Following, Key, Status, escape
from kmsd.client.rotation import StageProgress
from kmstui import plots, rotation_view, styles, tenants, traffic
from kmstui.commands import ScreenCommand
from kmstui.dialogs.keys import RetireDialog
from kmstui.dialogs.rotation import ReportDialog, RevertDialog, RotateDialog
from kmstui.screens.page import PLOTTED, Page
from kmstui.screens.traffic_panels import use_rates, use_spark
from kmstui.styles import Colour
from kmstui.text import ago, clock, compact, key_type, rate, short_hash, shorten, width
from kmstui.traffic import Traffic
from kmstui.view import Moment, View, Want
from kmstui.widgets.panel import WAITING, Panel
from kmstui.widgets.plot import Plot, whole_ticks
from kmstui.widgets.steady import set_subtitle, set_title
from kmstui.widgets.timeline import TimelineView


class RotationScreen(Page):
    """The screen of a rotation."""

    NAME = "Rotation"
    AUTO_FOCUS = "TimelineView"
    WANTS = frozenset({Want.KEYS, Want.PEERS})
    WANTS_TOKEN = True
    HELP = (
        "Shows a rotation, whoever began it: a new write key is made, every kube-apiserver takes it up, what is stored "
        "is written anew, and then the old key is retired. Name every node with --target to see all."
    )
    SCREEN_COMMANDS = (
        ScreenCommand("rotate", "R", "Rotate", "Make a new write key; the old one goes on reading."),
        ScreenCommand(
            "revert", "V", "Revert", "Make a new write key after a bad rotation, on the token of the key before it."
        ),
        ScreenCommand("retire", "X", "Retire old", "Mark the old key as needed no more."),
        ScreenCommand("report", "s", "Scan report", "Read what a scan of etcd counted.", changes=False),
        ScreenCommand("copy", "c", "Copy command", "Copy the next command that is left to run.", changes=False),
        ScreenCommand("own", "o", "Own key", "Show the rotation of this kmsd's own key again.", changes=False),
    )
    BINDINGS = [*(command.binding for command in SCREEN_COMMANDS), *PLOTTED]  # noqa: RUF012 - as Textual has it

    tenant = ""
    """The tenant whose key's rotation is shown; empty: that of kmsd's own key."""

    def choose(self, tenant: str) -> None:
        """Show the rotation of a tenant's key, by its name; empty: of kmsd's own."""
        self.tenant = tenant
        self._show_again()

    def is_offered(self, name: str) -> bool:
        return super().is_offered(name) and (name != "own" or bool(self.tenant))

    @property
    def _chosen(self) -> View | None:
        """Return the View with the key whose rotation is shown in the place of kmsd's own."""
        return tenants.as_own(self.view, self.tenant) if self.view is not None else None

    def data(self) -> Iterable[Widget]:
        with Container(id="rotation"):
            with Vertical(id="stages") as box:
                box.border_title = "Rotation"
                yield TimelineView()
            yield UsesPlot("Uses/s of both keys, as watched from here", id="turn-uses")
            with Container(id="turn-keys"):
                yield KeyPanel("New key", new=True)
                yield KeyPanel("Old key", new=False)
                yield EarlierPanel("Wrote before, last used", id="earlier")

    def show_data(self, view: View, moment: Moment) -> None:
        if view.status.value is not None and tenants.find(view, self.tenant) is None:
            self.tenant = ""
        view = tenants.as_own(view, self.tenant)
        found = rotation_view.current(view, moment)
        box = self.query_one("#stages")
        set_title(box, Content(_title(view, self.tenant)))
        set_subtitle(box, Content(_began(view, moment)))
        timeline = self.query_one(TimelineView)
        if found is None:
            timeline.say(_nothing(view))
        else:
            timeline.show(found, moment)
        for panel in self.query(Panel):
            if panel.display:
                panel.show(view, moment)

    def said_elsewhere(self, view: View, moment: Moment) -> Iterable[Content]:
        yield from super().said_elsewhere(view, moment)
        status = view.status.value
        if status is not None and status.write_key is not None:
            yield Content("")
            yield from _followed(status.write_key, status.following, moment)

    def refusal(self, name: str) -> str:
        view = self._chosen
        status = view.status.value if view is not None else None
        if view is None or status is None:
            return "kmsd has not answered yet"
        if (status.replaceable if name == "rotate" else status.write_key) is None and name in ("revert", "rotate"):
            return "there is no write key: make one (3, n)"
        if name == "revert" and not status.following.previous_key_id and not rotation_view.earlier(view):
            return "no key wrote before this one"
        if name == "own":
            return "" if self.tenant else "it is shown already"
        if name == "retire":
            return "" if self._old(view) is not None else "there is no old key that is not retired"
        if name == "copy" and not self._commands(view):
            return "no stage that is left has a command"
        return ""

    def begin(self, name: str) -> None:
        view = self._chosen
        status = view.status.value if view is not None else None
        if view is None or status is None:
            return
        match name:
            case "rotate":
                self.app.push_screen(rotate_dialog(view.target, status))
            case "revert" if status.write_key is not None:
                self.app.push_screen(
                    RevertDialog(view.target, status.write_label, status.write_key, own=not self.tenant)
                )
            case "retire":
                old = self._old(view)
                if old is not None:
                    self.app.push_screen(RetireDialog(view.target, old, view.report[0] if view.report else ""))
            case "own":
                self.choose("")
            case "report":
                self.app.push_screen(ReportDialog(view.target, view.report[0] if view.report else ""))
            case "copy":
                command = self._commands(view)[0]
                self.app.copy_to_clipboard(command)
                self.notify(f"copied {escape(command)}", markup=False)

    def _old(self, view: View) -> Key | None:
        """Return the old key of the rotation, if it is there and not retired."""
        turn = rotation_view.present(view)
        found = rotation_view.key_now(turn.old, view) if turn is not None and turn.old is not None else None
        return found if found is not None and found.state != "archived" else None

    def _commands(self, view: View) -> tuple[str, ...]:
        found = rotation_view.current(view, self.moment)
        stages = found.stages if found is not None else ()
        left = (stage for stage in stages if stage.progress is not StageProgress.DONE)
        return tuple(command for stage in left for command in stage.commands)


def rotate_dialog(target: str, status: Status) -> RotateDialog:
    """Make the form for a rotation."""
    tokens = sorted(status.tokens, key=lambda token: not token.write)
    return RotateDialog(
        target,
        status.write_label,
        status.replaceable,
        [token.name for token in tokens],
        serves=status.write_key is not None,
    )


def _title(view: View, tenant: str) -> str:
    status = view.status.value
    whose = f" of tenant {escape(tenant)}" if tenant else ""
    return f"Rotation of {escape(status.write_label)}{whose}" if status is not None else "Rotation"


def _began(view: View, moment: Moment) -> str:
    turn = rotation_view.present(view)
    if turn is None or turn.started is None:
        return ""
    return f"began {clock(turn.started, moment.wall)} UTC, {ago(turn.started, moment.wall)}"


def _nothing(view: View) -> Iterator[Content]:
    status = view.status.value
    if status is None:
        yield WAITING
        return
    yield Content.styled("No rotation is under way.", "bold")
    yield Content("")
    if status.replaceable is None:
        yield Content(f"There is no write key to rotate: {escape(status.write_label)} is missing (3, n makes it).")
        return
    if status.write_key is None:
        yield Content(
            f"Nothing writes: {escape(status.write_label)} cannot serve. R makes a key that serves in its place."
        )
        yield Content("")
    yield Content(
        "R makes a new write key. Nothing restarts, and the old key goes on reading. What follows is shown here:"
    )
    yield Content("")
    for number, text in enumerate(_STAGES, 1):
        yield Content.assemble(("○ ", "dim"), (f"{number} ", "dim"), text)


def _followed(key: Key, following: Following, moment: Moment) -> Iterator[Content]:
    """Yield how far kube-apiserver has followed to the key that a proxy names."""
    before = f", after {short_hash(following.previous_key_id_sha256)}" if following.previous_key_id else ""
    since = f" {ago(following.since, moment.wall)}{before}" if following.since is not None else ""
    yield Content.assemble("It names this key since", (since or " an unknown time", "bold"), ":")
    yield Content.styled(f"  {escape(key.key_id)}  hash {short_hash(key.key_id_sha256)}", f"${Colour.ACCENT}")
    calls = (
        ("Status", following.first_status, following.last_status),
        ("Encrypt", following.first_encrypt, following.last_encrypt),
    )
    for name, first, last in calls:
        if first is None:
            yield Content(f"○ kube-apiserver's {name} with it: none yet")
        else:
            times = f"first {clock(first, moment.wall)} UTC, last {ago(last, moment.wall)}"
            yield Content.assemble(("● ", f"${Colour.GOOD}"), f"kube-apiserver's {name} with it: {times}")


_STAGES = (
    "a new key is made and tested, and the write label moved to it",
    "every kmsd on the token writes with it, within seconds",
    "every kube-apiserver follows: it asks for the key id about once a minute",
    "you have what is stored written anew, with a command that is shown",
    "a scan of etcd counts what still needs the old key (kmsctl etcd scan)",
    "the old key is retired, when nothing needs it",
)


class KeyPanel(Panel):
    """A panel of one of the two keys of the rotation; without one, of the write key."""

    def __init__(self, title: str, *, new: bool) -> None:
        super().__init__(title)
        self._new = new

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        status = view.status.value
        if status is None:
            yield WAITING
            return
        turn = rotation_view.present(view)
        key = (turn.new if self._new else turn.old) if turn is not None else status.write_key if self._new else None
        if key is None:
            yield Content.styled("none" if self._new else "no old key is waiting to be retired", "dim")
            return
        now = rotation_view.key_now(key, view)
        yield from self._key(now or key, view, moment, gone=now is None and view.keys.value is not None)

    def _key(self, key: Key, view: View, moment: Moment, *, gone: bool) -> Iterator[Content]:
        look = styles.key(key.state)
        state = ("✕ gone", f"${Colour.BAD}") if gone else (str(look), f"${look.colour}")
        yield self.sides(Content.styled(escape(key.label), "bold"), Content.styled(*state))
        yield self.field("hash", f"{short_hash(key.key_id_sha256)}  {key_type(key)}", 6)
        yield self.field("id", escape(key.key_id), 6)
        current = traffic.key_rates(view.traffic).get(key.key_id, 0.0)
        last = f", last {ago(key.last_used, moment.wall)}" if key.last_used is not None else ", not used"
        yield self.field("used", f"{rate(current)}/s{last}", 6)
        yield self.field("", f"{compact(key.encrypts)} encrypts, {compact(key.decrypts)} decrypts", 6)
        yield Content.assemble(" " * 6, (use_spark(view.traffic, key.key_id, max(1, self.columns - 6)), "$accent"))


class UsesPlot(Plot):
    """A plot of how calls move from the old key to the new one; shown where there is room."""

    def drawing(self, known: Traffic, span: int, rows: int, columns: int) -> Iterator[Content]:
        turn = rotation_view.present(self.view) if self.view is not None else None
        ids = (turn.new.key_id, turn.old.key_id if turn.old is not None else "") if turn is not None else self._write()
        series = [use_rates(known, key_id, columns * 2, span) for key_id in ids]
        top = plots.ceiling([value for values in series for value in values], 1.0)
        layers = tuple((plots.linear(values, top), not at) for at, values in enumerate(series))
        yield from self.layered(layers, rows, whole_ticks(rows, top))

    def grounds(self, view: View, moment: Moment) -> tuple[object, ...] | None:
        return view.traffic, view.status.value, view.keys.value, view.turn, view.lost, view.span

    def _write(self) -> tuple[str, ...]:
        status = self.view.status.value if self.view is not None else None
        return (status.write_key.key_id,) if status is not None and status.write_key is not None else ("",)

    def summary(self, known: Traffic, span: int) -> Content:
        return Content.assemble(("⣿", f"${Colour.ACCENT}"), " new key   ", ("⠉", f"${Colour.WARN}"), " old key")


class EarlierPanel(Panel):
    """A panel of earlier write keys; shown where there is room."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        found = rotation_view.earlier(view)
        if not found:
            yield Content.styled("none", "dim")
        for key in found[: self.content_size.height]:
            look = styles.key(key.state)
            used = f"{ago(key.last_used, moment.wall)}" if key.last_used is not None else "not used"
            name = Content.assemble((look.glyph, f"${look.colour}"), " ", short_hash(key.key_id_sha256), "  ")
            label = shorten(escape(key.label), max(8, self.columns - 13 - width(used)))
            yield self.sides(Content.assemble(name, label), Content.styled(used, "dim"))
