"""The inspection: what a stored value is, which key it needs, and whether that opens it, as `kmsctl inspect` says
it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual import events
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import ClientError, Key, Problem, escape
from kmstui import shell, styles
from kmstui.commands import ScreenCommand
from kmstui.dialogs.inspect import FileDialog, PasteDialog, TryDialog
from kmstui.screens.page import Page
from kmstui.styles import WARN, Colour
from kmstui.text import absolute, duration, key_type, short_hash
from kmstui.view import Inspected, Moment, View
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.steady import Said

OPENERS = ItemKind[Key](
    "Keys that may open it",
    (
        Column(
            "state",
            lambda key, _: str(styles.key(key.state)),
            colour=lambda key: styles.key(key.state).colour,
            order=lambda key: key.state,
        ),
        Column("label", lambda key, _: key.label, least=20, order=lambda key: key.label),
        Column("type", lambda key, _: key_type(key), fixed=8),
        Column("hash", lambda key, _: short_hash(key.key_id_sha256), fixed=8),
        Column("key id", lambda key, _: key.key_id or "-", optional=True),
        Column("token", lambda key, _: key.token_label, least=8, optional=True),
    ),
    lambda key: f"{key.token}\0{key.key_id}\0{key.label}",
    lambda key: (escape(key.label), escape(key.key_id), key.key_id_sha256),
    lambda key: key.key_id,
    "key id",
    command=("inspect",),
)


class InspectScreen(Page):
    """The screen that explains a value."""

    NAME = "Inspect"
    WANTS_TOKEN = True
    HELP = (
        "Explains a ciphertext, or a value as etcd holds it: its format, the key it needs, whether kmsd has that key. "
        "Paste it here, or name a file. It is taken as it is, in base64 or hexadecimal digits, or as etcdctl and "
        "kmsctl print it. Nothing is decrypted, unless T has kmsd try it: the audit records that, and what is in the "
        "value is never shown."
    )
    SCREEN_COMMANDS = (
        ScreenCommand("paste", "v", "Paste", "Inspect a value that is pasted or typed.", changes=False),
        ScreenCommand("file", "f", "File", "Inspect what a file holds.", changes=False),
        ScreenCommand("try", "T", "Try", "Have kmsd decrypt the value, and say whether it opens.", changes=False),
    )
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        yield Said(id="inspect-head")
        with Container(id="inspected"):
            yield Detail()
            yield Listing(OPENERS, id="openers")

    def show_data(self, view: View, moment: Moment) -> None:
        inspected = view.inspected
        self.query_one("#inspect-head", Said).say(Content("\n").join(_head(inspected, view, moment)))
        facts = tuple(inspection_facts(inspected)) if inspected is not None else ()
        self.query_one(Detail).show("Value", facts)
        keys = inspected.found.keys if inspected is not None else ()
        none = "this kmsd has no key that may open it" if inspected is not None else "nothing was inspected yet"
        listing: Listing[Key] = self.query_one("#openers", Listing)
        listing.show(keys, moment, empty=none)

    def refusal(self, name: str) -> str:
        missing = name == "try" and (self.view is None or self.view.inspected is None)
        return "there is no value yet: v takes one" if missing else ""

    def begin(self, name: str) -> None:
        if self.view is None:
            return
        target = self.view.target
        match name:
            case "paste":
                self.app.push_screen(PasteDialog(target))
            case "file":
                self.app.push_screen(FileDialog(target))
            case "try" if self.view.inspected is not None:
                self.app.push_screen(TryDialog(target, self.view.inspected))

    def on_paste(self, event: events.Paste) -> None:
        """Show a value that is pasted anywhere on this screen in the dialog, before it is sent."""
        event.stop()
        why = self.why_not("paste")
        if why:
            self.notify(f"Paste: {why}", severity="warning", markup=False)
        elif self.view is not None:
            self.app.push_screen(PasteDialog(self.view.target, event.text))


def _head(inspected: Inspected | None, view: View, moment: Moment) -> Iterator[Content]:
    if inspected is None:
        yield Content.styled("paste a value here, or v; f names a file", "dim")
    else:
        value = inspected.value
        form = f", read as {escape(value.form)}" if value.form else ""
        ago = duration(moment.steady - inspected.taken)
        yield Content(f"{escape(inspected.source)}{form}, {ago} ago")
        if value.note:
            yield Content.styled(f"{WARN} {value.note}", f"${Colour.WARN}")
    words = inspected.words if inspected is not None else ("inspect", "-")
    yield Content.styled(escape(shell.kmsctl(view.target, *words)), f"${Colour.ACCENT}")


def inspection_facts(inspected: Inspected) -> Iterator[Fact]:
    """Return an explanation as lines of names and values."""
    found = inspected.found
    yield Fact("format", escape(found.format))
    yield Fact("", escape(found.summary))
    match inspected.trial:
        case Key() as key:
            yield Fact("key", f"{styles.GOOD} it opens: decrypted with {escape(key.label)}", Colour.GOOD)
        case ClientError() as error:
            yield Fact("key", f"✕ it does not open: {escape(error.message)}", Colour.BAD)
            if error.hint:
                yield Fact("", f"→ {escape(error.hint)}")
        case None if found.readable:
            yield Fact("key", f"{styles.GOOD} this kmsd has a key for it; it was not tried (T tries it)", Colour.GOOD)
        case None:
            yield Fact("key", "✕ this kmsd cannot read it", Colour.BAD)
    for each in found.findings:
        yield from _finding(each)
    if (envelope := found.envelope) is not None:
        yield Fact("envelope", f"{escape(envelope.prefix)}, provider {escape(envelope.provider) or '-'}")
        yield Fact("", f"key {escape(envelope.key_id) or '-'}, hash {short_hash(envelope.key_id_sha256)}")
        sizes = f"{envelope.encrypted_data_bytes} bytes of data, {envelope.encrypted_dek_bytes} of encrypted DEK"
        yield Fact("", sizes)
        if envelope.source_type:
            yield Fact("", escape(envelope.source_type))
        if envelope.annotations:
            yield Fact("", escape(f"annotations: {', '.join(envelope.annotations)}"))
    if (jwe := found.jwe) is not None:
        yield Fact("JWE", escape(f"alg {jwe.alg}, enc {jwe.enc}"))
        yield Fact("", f"kid {escape(jwe.kid) or '-'}, hash {short_hash(jwe.kid_sha256)}")
        yield Fact("", f"IV {jwe.iv_bytes}, ciphertext {jwe.ciphertext_bytes}, tag {jwe.tag_bytes} bytes")
        yield Fact("", escape(jwe.header))
    for key in found.keys[:1]:
        if key.created is not None:
            yield Fact("made", absolute(key.created))


def _finding(problem: Problem) -> Iterator[Fact]:
    glyph, colour = ("✕", Colour.BAD) if problem.fatal else (WARN, Colour.WARN)
    yield Fact(glyph, escape(problem.message), colour)
    if problem.hint:
        yield Fact("", f"→ {escape(problem.hint)}")
