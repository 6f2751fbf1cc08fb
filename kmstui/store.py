"""Finds out what a View shows: one worker asks, one feed follows each stream, and actions run beside them.

Widgets are shown a `View` and never ask themselves. Knows no widget: whoever makes a Store says what to call with
each new View. Everything here runs on the event loop, except what `in_thread` is given, for the client blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from kmsd.client import ClientError, Conflict, Filter, Unreachable, connect, default_target
from kmsd.client.clientconfig import Thresholds
from kmstui import observed_changes, traffic
from kmstui.action import Action, Done
from kmstui.board import Board
from kmstui.others import Others, beside
from kmstui.questions import CALL_TIMEOUT, Answer, Question, Questions, answer, guarded
from kmstui.streams import Streams
from kmstui.threads import in_thread
from kmstui.view import Moment, View, Want

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

RETRY_MOST = 5.0
"""Seconds between attempts while kmsd does not answer, at the most."""
INTERVALS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between reads that the keys offer."""
SPANS = (60, 300, traffic.HISTORY)
"""Seconds that plots may cover."""


class Store:
    """The source of each View. targets: each as `kmsd.client.connect`; None: the default, looked for again at each
    attempt. interval: seconds between reads. tell: called with each new View. read_only: refuse what changes anything.
    beside: more targets, which can be switched to and are no nodes of the same cluster. limits: what is warned of."""

    def __init__(
        self,
        targets: Sequence[str | None],
        interval: float,
        tell: Callable[[View], None],
        *,
        read_only: bool = False,
        beside: Sequence[str] = (),
        limits: Thresholds = Thresholds(),  # noqa: B008 - it is frozen
    ) -> None:
        nodes = tuple(targets) or (None,)
        self._named = (*nodes, *beside)
        self._target = self._named[0]
        names = tuple(target or default_target() for target in self._named)
        self._nodes = names[: len(nodes)]
        view = View(names[0], interval, names, read_only, limits=limits, **self._beside(names[0]))
        self._board = Board(view, tell)
        self._questions = Questions(self._board)
        self._streams = Streams(self._board)
        self._others = Others(self._board)
        self._client: AdminClient | None = None
        self._closed = False
        self._generation = 0
        self._read_at = 0.0
        self._actions: set[asyncio.Task[None]] = set()

    @property
    def view(self) -> View:
        return self._board.view

    @view.setter
    def view(self, view: View) -> None:
        self._board.view = view

    async def run(self) -> None:
        """Read for ever."""
        others = [asyncio.create_task(self._others.watch_peers())]
        others += [
            asyncio.create_task(self._others.watch_member(target)) for target in dict.fromkeys(self.view.targets)
        ]
        try:
            while True:
                self._board.publish(due=None)
                await self._read()
                self._streams.tend(self._client)
                await self._rest()
        finally:
            # Ends calls that still run, so that leaving never waits for a kmsd that hangs.
            self._closed = True
            for task in (*others, *self._actions):
                task.cancel()
            self._drop()
            self._others.close()

    # What the keys do.

    def refresh(self) -> None:
        """Read everything that is wanted at once, even while paused; and take note of a changed token."""
        self._questions.forget()
        self._others.refresh()
        if self.view.changed_token:
            self._board.publish(changed_token="")
        self._board.ask_now()

    def toggle_pause(self) -> None:
        """Pause, or go on."""
        self._board.publish(paused=not self.view.paused)
        self._streams.tend(self._client)
        self._board.wake.set()

    def slower(self) -> None:
        """Read less often."""
        longer = [each for each in INTERVALS if each > self.view.interval]
        self._set_interval(longer[0] if longer else self.view.interval)

    def faster(self) -> None:
        """Read more often."""
        shorter = [each for each in INTERVALS if each < self.view.interval]
        self._set_interval(shorter[-1] if shorter else self.view.interval)

    def next_span(self) -> None:
        """Let plots cover the next longer time, after the longest the shortest."""
        longer = [each for each in SPANS if each > self.view.span]
        self._board.publish(span=longer[0] if longer else SPANS[0])

    def want(self, wants: Iterable[Want]) -> None:
        """Ask for these besides the status from now on; for what was not wanted before, at once."""
        wants = frozenset(wants)
        if wants - self._board.wants:
            self._board.ask_now()
        self._board.wants = wants
        self._others.want(fleet=Want.FLEET in wants)
        self._streams.tend(self._client)

    def choose(self, wanted: Filter) -> None:
        """Have kmsd tell which requests are of one sort; the filter that wants all ends that."""
        if wanted == self.view.wanted:
            return
        self._streams.choose(wanted)
        self._streams.tend(self._client)

    def want_mechanisms(self, token: str) -> None:
        """Ask for what a token can do, by its name in kmsd's configuration; empty: of none."""
        if self._questions.want_mechanisms(token):
            self._board.ask_now()

    def want_callers(self, tenant: str) -> None:
        """Ask for who calls for a tenant, by its name."""
        self._questions.want_callers(tenant)
        self._board.ask_now()

    def switch(self, target: str) -> None:
        """Look at another of the targets."""
        view = self.view
        if target == view.target or target not in view.targets:
            return
        self._generation += 1
        self._target = self._named[view.targets.index(target)]
        self._drop()
        self._questions.forget(target=True)
        fresh = View(target, view.interval, view.targets, view.read_only, view.paused, **self._beside(target))
        self.view = replace(fresh, working=view.working, fleet=view.fleet, limits=view.limits, span=view.span)
        self._board.ask_now()
        self._board.publish()

    def act(self, action: Action, reply: Callable[[Done], None]) -> None:
        """Do it, beside everything else; reply is called on the event loop with what came of it."""
        task = asyncio.create_task(self._perform(action, reply))
        self._actions.add(task)
        task.add_done_callback(self._actions.discard)

    # Reading.

    async def _read(self) -> None:
        generation, questions = self._generation, tuple(self._questions.due())
        target = self._target or default_target()
        answers, error = await in_thread(lambda: self._ask(target, questions))
        if generation != self._generation:
            return
        self._read_at = monotonic()
        if error is not None:
            # A new channel next time: an old one waits out its own backoff after kmsd is back.
            self._drop()
            before = self.view
            self._board.publish(target=target, status=before.status.failed(error))
            self._saw(observed_changes.lost(before, error, Moment.now()))
        else:
            self._take(target, answers)

    def _ask(self, target: str, questions: Sequence[Question]) -> tuple[list[Answer], ClientError | None]:
        """Ask in a thread. Return the answers, or the error of the first question, the status; without it the others
        are not asked."""
        answers = []
        try:
            client = self._connected(target)
            for question in questions:
                found = answer(client, question, self._questions.last(question))
                if question.field == "status" and found.reading.error is not None:
                    return [], found.reading.error
                answers.append(found)
        except ClientError as error:
            return [], error
        return answers, None

    def _take(self, target: str, answers: Sequence[Answer]) -> None:
        before = self.view
        self._board.publish(target=target, **self._questions.take(answers, self._read_at))
        if before.status.value is None:
            self._board.ask_now()
        status = self.view.status.value
        if status is not None:
            self._saw(observed_changes.compared(before, status, Moment.now()))
            changed = observed_changes.changed_token(before.status.value, status)
            if changed:
                self._board.publish(changed_token=changed)

    def _saw(self, seen: Sequence[observed_changes.ObservedChange]) -> None:
        if seen:
            self._board.publish(sightings=(*self.view.sightings, *seen)[-observed_changes.MOST :])

    def _connected(self, target: str) -> AdminClient:
        if self._client is None:
            self._client = connect(target, timeout=CALL_TIMEOUT)
            if self._closed:
                self._client.close()
        return self._client

    def _drop(self) -> None:
        self._streams.stop()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _rest(self) -> None:
        """Wait until the next read is due or asked for."""
        while not self._board.asked:
            self._board.wake.clear()
            pause = min(self.view.interval, RETRY_MOST) if self.view.lost else self.view.interval
            due = None if self.view.paused else self._read_at + pause
            self._board.publish(due=due)
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - monotonic())):
                    await self._board.wake.wait()
            except TimeoutError:
                break
        self._board.asked = False

    def _set_interval(self, seconds: float) -> None:
        if seconds == self.view.interval:
            return
        self._board.publish(interval=seconds)
        self._streams.pace(seconds)
        self._streams.tend(self._client)
        self._board.wake.set()

    def _beside(self, target: str) -> dict[str, Any]:
        return beside(self._nodes, target)

    # Actions.

    async def _perform(self, action: Action, reply: Callable[[Done], None]) -> None:
        self._board.publish(working=(*self.view.working, action.name))
        try:
            done = await self._done(action)
        finally:
            working = list(self.view.working)
            working.remove(action.name)
            self._board.publish(working=tuple(working))
        if done.outcome is not None and done.outcome.effect is not None:
            self._board.publish(**_changed(self.view, done.outcome.effect(self.view, monotonic())))
        if action.changes:
            self._questions.forget()
            self._board.ask_now()
        reply(done)

    async def _done(self, action: Action) -> Done:
        client, here = self._client, action.here
        if action.changes and self.view.read_only:
            error: ClientError = Conflict(
                "kmstui was started with --read-only", "start it without", "FAILED_PRECONDITION"
            )
            return Done(action, error=error)
        if here is None and (client is None or self.view.status.error is not None):
            missing = Unreachable("there is no connection to kmsd yet", "", "UNAVAILABLE", retryable=True)
            return Done(action, error=self.view.status.error or missing)
        try:
            call = here or partial(action.call, cast("AdminClient", client))
            return Done(action, await in_thread(lambda: guarded(call)))
        except ClientError as error:
            return Done(action, error=error)


def _changed(before: View, after: View) -> dict[str, Any]:
    names = before.__dataclass_fields__
    return {name: getattr(after, name) for name in names if getattr(after, name) is not getattr(before, name)}
