"""A rotation of the key of service account tokens, run step by step: at most one step, or all of them.

What is to be done next is told by `kmsd.client.jwt_rotation` from what the nodes say; nothing is remembered here.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import confirm, diagnostics, documents, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.jwt import view
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsctl.rotate.rotating import THIS_NODE
from kmsctl.text import timestamp
from kmsd.client import ClientError, Conflict, Jwt, Unhealthy, Unreachable, connect, escape, options_of
from kmsd.client.jwt_rotation import JwtRotation, JwtStage, rotation_of, signing

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

TICK = 1.0
"""Seconds between two looks."""

Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        parser=options.duration,
        help="With --watch: how long it may take in all; default: no limit. Else for each call, 10s.",
    ),
]


@dataclass(frozen=True)
class JwtRotationRun:
    """The way to rotate. type: of the next key; empty: as the present one. token: where it is made. nodes: name and
    socket of the other nodes. again: begin another one although the last is not finished. force: do not wait for those
    who fetch the keys. yes: do not ask."""

    type: str
    token: str
    tenant: str
    nodes: tuple[tuple[str, str], ...]
    again: bool
    force: bool
    yes: bool


@dataclass
class _Rotating:
    """A rotation that is at hand. clients: of the nodes, by name; the first is the target."""

    clients: Mapping[str, AdminClient]
    plan: JwtRotationRun

    @property
    def _kmsd(self) -> AdminClient:
        return next(iter(self.clients.values()))

    def look(self) -> JwtRotation:
        """Return the rotation as it stands. Raises ClientError; Conflict if a node has other keys."""
        found = {name: kmsd.get_jwt(tenant=self.plan.tenant) for name, kmsd in self.clients.items()}
        _check_alike(found)
        now = rotation_of(found)
        if self.plan.again and now.stage in (JwtStage.FOLLOW, JwtStage.WAIT, JwtStage.RETIRE):
            return JwtRotation(JwtStage.PUBLISH, now.new, None)
        if self.plan.force and now.stage is JwtStage.FETCH:
            return JwtRotation(JwtStage.SIGN, now.old, now.new)
        return now

    def do(self, now: JwtRotation) -> str:
        """Do the step that a rotation is at; return what was done, in words. Raises ClientError."""
        match now.stage:
            case JwtStage.PUBLISH:
                with diagnostics.working("the token makes a key"):
                    made = self._kmsd.publish_jwt_key(
                        type=self.plan.type, token=self.plan.token, tenant=self.plan.tenant
                    )
                return f"{view.short(made.key)} is published"
            case JwtStage.SIGN if now.new is not None:
                done = self._kmsd.switch_jwt_key(now.new.kid, force=self.plan.force, tenant=self.plan.tenant)
                return f"{view.short(done.key)} signs"
            case JwtStage.RETIRE if now.old is not None:
                self._kmsd.retire_jwt_key(now.old.kid, tenant=self.plan.tenant)
                return f"{view.short(now.old)} is retired"
            case _:
                return ""


@contextlib.contextmanager
def _at_hand(opts: Options, plan: JwtRotationRun) -> Iterator[_Rotating]:
    with contextlib.ExitStack() as held:
        clients = {THIS_NODE: held.enter_context(connect(opts.target, timeout=opts.timeout))}
        for name, socket in plan.nodes:
            clients[name] = held.enter_context(connect(socket, timeout=opts.timeout))
        yield _Rotating(clients, plan)


def once(opts: Options, plan: JwtRotationRun, form: OutputFormat, *, dry_run: bool) -> None:
    """Do the step whose time has come, or say what is waited for. Raises ClientError, UsageError."""
    with _at_hand(opts, plan) as rotating:
        now = after = rotating.look()
        stage, told = now.stage, ""
        if not now.waits and not dry_run:
            _agree(now, plan)
            told = rotating.do(now)
            after = rotating.look()
    keys = now if now.new is not None else after
    now = JwtRotation(stage, keys.old, keys.new, after.waits, after.until)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"step": stage.value, "done": bool(told), "dry_run": dry_run, **_document(now)}, form)
    else:
        rows = [("STEP", stage.value), ("OLD KEY", view.short(now.old)), ("NEW KEY", view.short(now.new))]
        rows += [("WAITS FOR" if not number else "", escape(each)) for number, each in enumerate(now.waits)]
        if now.until is not None:
            rows.append(("UNTIL", str(timestamp(now.until))))
        output.emit(output.sheet(rows))
    if told:
        diagnostics.note(told)
    elif dry_run:
        diagnostics.note(f"the next step is to {_DEEDS[now.stage]}; nothing was done")
    else:
        diagnostics.note("nothing is to be done now")
    if stage is not JwtStage.RETIRE:
        diagnostics.hint(f"`{_resume(plan, opts)}` goes on to the end")


_DEEDS = {
    JwtStage.PUBLISH: "publish a new key",
    JwtStage.FETCH: "wait",
    JwtStage.SIGN: "have the new key sign",
    JwtStage.FOLLOW: "wait",
    JwtStage.WAIT: "wait",
    JwtStage.RETIRE: "retire the old key",
}


def _agree(now: JwtRotation, plan: JwtRotationRun) -> None:
    """Ask before a rotation begins, and before what --force skips; the other steps only go on with it."""
    if now.stage is JwtStage.PUBLISH:
        why = "a rotation changes which key signs"
        confirm.agree(f"rotate away from {view.short(now.old)}?", yes=plan.yes, why=why)
    elif now.stage is JwtStage.SIGN and plan.force:
        why = "tokens may be refused where the new key is not known"
        confirm.agree(f"have {view.short(now.new)} sign now?", yes=plan.yes, why=why)


def follow(opts: Options, plan: JwtRotationRun, form: OutputFormat, seconds: float | None) -> None:
    """Go on until the old key is retired. Raises ClientError, UsageError, KeyboardInterrupt."""
    if form is OutputFormat.YAML:
        raise UsageError("--watch writes a line for each event", "take -o json, or leave out --output")
    ends = time.monotonic() + seconds if seconds is not None else None
    with _at_hand(opts, plan) as rotating:
        try:
            _Following(rotating, plan, form, ends).run()
        except KeyboardInterrupt:
            diagnostics.note("left; what is published and signs stays as it is")
            diagnostics.hint(f"`{_resume(plan, opts)}` resumes")
            raise
        except ClientError as error:
            again = f"`{_resume(plan, opts)}` resumes; nothing is lost by waiting"
            error.hint = f"{error.hint}; {again}" if error.hint else again
            raise


@dataclass
class _Following:
    """A rotation that is followed to its end. ends: when it has taken too long, by the monotonic clock."""

    rotating: _Rotating
    plan: JwtRotationRun
    form: OutputFormat
    ends: float | None
    begun: bool = False
    shown: tuple[JwtStage, tuple[str, ...]] | None = None
    trouble: str = ""

    def run(self) -> None:
        progress = diagnostics.ProgressLine()
        try:
            while True:
                now = self._look()
                if now is not None:
                    if now.finished and self.begun:
                        return
                    self._step(now, progress)
                if self.ends is not None and time.monotonic() >= self.ends:
                    what = f"the rotation is not finished: {now.stage if now else self.trouble}"
                    raise ClientError(what, "", "DEADLINE_EXCEEDED", retryable=True)
                time.sleep(TICK)
        finally:
            progress.clear()

    def _look(self) -> JwtRotation | None:
        """Return the rotation as it stands; None while a node does not answer, which is said once."""
        try:
            found = self.rotating.look()
        except (Unreachable, Unhealthy) as error:
            if not self.begun:
                raise
            if error.message != self.trouble:
                diagnostics.warning(error.message)
            self.trouble = error.message
            return None
        self.trouble = ""
        return found

    def _step(self, now: JwtRotation, progress: diagnostics.ProgressLine) -> None:
        if not self.begun:
            _agree(now, self.plan)
            if now.stage is not JwtStage.PUBLISH:
                diagnostics.note("a rotation is not finished: going on with it; --again begins another one")
            self.rotating.plan = replace(self.plan, again=False)
            self.begun = True
        progress.clear()
        if now.waits and self.shown != (now.stage, now.waits):
            until = f", until {timestamp(now.until)}" if now.until is not None else ""
            self._tell(now, f"waits: {'; '.join(now.waits)}{until}")
            self.shown = now.stage, now.waits
        try:
            told = self.rotating.do(now)
        except Conflict as error:
            # What has changed since the look; the next look tells it.
            told = ""
            progress.show(error.message)
        if told:
            self._tell(now, told)
            self.shown = None
        elif now.until is not None:
            progress.show(f"{now.stage}: until {timestamp(now.until)}")

    def _tell(self, now: JwtRotation, text: str) -> None:
        moment = datetime.now(UTC)
        if self.form is OutputFormat.JSON:
            output.emit_line({"time": timestamp(moment), "step": now.stage.value, "text": text, **_document(now)})
        else:
            output.emit(f"{moment:%H:%M:%S}   {now.stage.value:<7}   {escape(text)}")


def _check_alike(found: Mapping[str, Jwt]) -> None:
    """Check that all nodes sign with keys of one token: a node with another one would not follow."""
    (first, own), *others = found.items()
    kids = {key.kid for key in own.keys}
    for name, each in others:
        key = signing(each)
        if key is not None and key.kid not in kids:
            raise Conflict(
                f"{name} signs with {view.short(key)}, which {first} does not have",
                "nodes rotate together if they share a token; leave out --node for one that does not, and have each "
                "trust the other's keys (kmsctl jwt trust)",
                "FAILED_PRECONDITION",
            )


def _document(now: JwtRotation) -> output.Document:
    return {
        "old_key": documents.or_none(now.old),
        "new_key": documents.or_none(now.new),
        "waits_for": list(now.waits),
        "until": timestamp(now.until),
    }


def _resume(plan: JwtRotationRun, opts: Options) -> str:
    """Return the command that goes on with the same rotation."""
    words = ["kmsctl", "jwt", "rotate", "--watch"]
    if opts.target is not None:
        words += options_of(opts.target)
    if plan.tenant:
        words += ["--tenant", plan.tenant]
    for name, socket in plan.nodes:
        words += ["--node", f"{name}={socket}"]
    return shlex.join(words)
