"""Finds out what a View shows: one worker asks, one feed follows each stream, and actions run beside them.

Widgets are shown a `View` and never ask themselves. Knows no widget: whoever makes a Store says what to call with
each new View. Everything here runs on the event loop, except what `in_thread` is given, for the client blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kmsd.client import (
    AuditRecord,
    AuditRecords,
    ClientError,
    Conflict,
    Filter,
    Request,
    Requests,
    StatsFrame,
    Status,
    Unreachable,
    connect,
    default_target,
)
from kmsd.client.clientconfig import Target, Thresholds
from kmsd.client.fleet import ask
from kmstui import observed_changes, traffic
from kmstui.actions import Action, Done
from kmstui.feeds import StreamFollower
from kmstui.threads import in_thread
from kmstui.view import Moment, Numbered, Peer, Reading, Tail, View, Want

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

CALL_TIMEOUT = 5.0
"""Seconds for one call; short, because a screen that waits shows old data."""
RETRY_MOST = 5.0
"""Seconds between attempts while kmsd does not answer, at the most."""
INTERVALS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between reads that the keys offer."""
SPANS = (60, 300, traffic.HISTORY)
"""Seconds that plots may cover."""
SHARE = 20
"""A question that took long is asked again after so many times that long, at the soonest."""
CONFIG_AFTER = 30.0
"""Seconds between looks at the configuration, which changes by a reload only."""
BACKLOG = {Want.REQUESTS: 500, Want.AUDIT: 1000}
"""How many items a tail begins with."""
AHEAD = 10.0
"""Seconds between looks at the last items of a tail that no screen follows, so that it has something when kmsd goes."""
AHEAD_MOST = 200
"""How many of them are looked at."""
MOST = {Want.REQUESTS: 1000, Want.AUDIT: 5000}
"""How many a tail keeps."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Question:
    """field: of the View; part: the key in it, where that is a mapping."""

    field: str
    ask: Callable[[AdminClient], Any]
    part: str = ""


@dataclass(frozen=True)
class _Answer:
    question: _Question
    reading: Reading[Any]
    cost: float


class Store:
    """targets: each as `kmsd.client.connect`; None: the default, looked for again at each attempt.
    interval: seconds between reads. tell: called with each new View. read_only: refuse what changes anything.
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
        self._tell = tell
        self._client: AdminClient | None = None
        self._closed = False
        self._generation = 0
        self._wake = asyncio.Event()
        self._asked = False
        self._wants: frozenset[Want] = frozenset()
        self._mechanisms_of = ""
        self._next: dict[str, float] = {}
        self._looked = False
        self._read_at = 0.0
        self._number = 0
        self._actions: set[asyncio.Task[None]] = set()
        self._peers: dict[str, AdminClient] = {}
        self._stats: StreamFollower[StatsFrame] = self._stats_feed(interval)
        self._requests: StreamFollower[Requests] = StreamFollower(
            "requests", _open_requests, self._take_requests, self._tell_requests
        )
        self._chosen: StreamFollower[Requests] = StreamFollower(
            "chosen", self._open_chosen, self._take_chosen, self._tell_chosen
        )
        self._audit: StreamFollower[AuditRecords] = StreamFollower(
            "audit", _open_audit, self._take_audit, self._tell_audit
        )
        names = tuple(target or default_target() for target in self._named)
        self._nodes = names[: len(nodes)]
        self._fleet_wanted = asyncio.Event()
        self._fleet_now = asyncio.Event()
        self.view = View(names[0], interval, names, read_only, limits=limits, **self._beside(names[0]))

    async def run(self) -> None:
        """Read for ever."""
        others = [asyncio.create_task(self._watch_peers())]
        others += [asyncio.create_task(self._watch_member(target)) for target in dict.fromkeys(self.view.targets)]
        try:
            while True:
                self._publish(due=None)
                await self._read()
                self._tend()
                await self._rest()
        finally:
            # Ends calls that still run, so that leaving never waits for a kmsd that hangs.
            self._closed = True
            for task in (*others, *self._actions):
                task.cancel()
            self._drop()
            for client in self._peers.values():
                client.close()

    # What the keys do.

    def refresh(self) -> None:
        """Read everything that is wanted at once, even while paused; and take note of a changed token."""
        self._next.clear()
        self._fleet_now.set()
        self._fleet_now.clear()
        if self.view.changed_token:
            self._publish(changed_token="")
        self._ask_now()

    def toggle_pause(self) -> None:
        self._publish(paused=not self.view.paused)
        self._tend()
        self._wake.set()

    def slower(self) -> None:
        longer = [each for each in INTERVALS if each > self.view.interval]
        self._set_interval(longer[0] if longer else self.view.interval)

    def faster(self) -> None:
        shorter = [each for each in INTERVALS if each < self.view.interval]
        self._set_interval(shorter[-1] if shorter else self.view.interval)

    def next_span(self) -> None:
        """Let plots cover the next longer time, after the longest the shortest."""
        longer = [each for each in SPANS if each > self.view.span]
        self._publish(span=longer[0] if longer else SPANS[0])

    def want(self, wants: Iterable[Want]) -> None:
        """What is asked for besides the status, from now on; what was not wanted before, at once."""
        wants = frozenset(wants)
        if wants - self._wants:
            self._ask_now()
        self._wants = wants
        if Want.FLEET in wants:
            self._fleet_wanted.set()
        else:
            self._fleet_wanted.clear()
        self._tend()

    def choose(self, wanted: Filter) -> None:
        """Have kmsd tell which requests are of one sort; the filter that wants all ends that."""
        if wanted == self.view.wanted:
            return
        self._chosen.stop()
        self._publish(wanted=wanted, chosen=Tail())
        self._tend()

    def want_mechanisms(self, token: str) -> None:
        """Of which token, by its name in kmsd's configuration; empty: of none."""
        if token and token != self._mechanisms_of and token not in self.view.mechanisms:
            self._ask_now()
        self._mechanisms_of = token

    def switch(self, target: str) -> None:
        """Look at another of the targets."""
        view = self.view
        if target == view.target or target not in view.targets:
            return
        self._generation += 1
        self._target = self._named[view.targets.index(target)]
        self._looked = False
        self._drop()
        self._next.clear()
        fresh = View(target, view.interval, view.targets, view.read_only, view.paused, **self._beside(target))
        self.view = replace(fresh, working=view.working, fleet=view.fleet, limits=view.limits, span=view.span)
        self._ask_now()
        self._publish()

    def act(self, action: Action, reply: Callable[[Done], None]) -> None:
        """Do it, beside everything else; reply is called on the event loop with what came of it."""
        task = asyncio.create_task(self._perform(action, reply))
        self._actions.add(task)
        task.add_done_callback(self._actions.discard)

    # Reading.

    async def _read(self) -> None:
        generation, questions = self._generation, tuple(self._questions())
        target = self._target or default_target()
        answers, error = await in_thread(lambda: self._ask(target, questions))
        if generation != self._generation:
            return
        self._read_at = monotonic()
        if error is not None:
            # A new channel next time: an old one waits out its own backoff after kmsd is back.
            self._drop()
            before = self.view
            self._publish(target=target, status=before.status.failed(error))
            self._saw(observed_changes.lost(before, error, Moment.now()))
        else:
            self._take(target, answers)

    def _questions(self) -> Iterable[_Question]:
        yield _Question("status", lambda kmsd: kmsd.get_status())
        now = monotonic()
        wanted = {
            Want.KEYS: _Question("keys", lambda kmsd: kmsd.list_keys()),
            Want.SLOTS: _Question("slots", lambda kmsd: kmsd.list_slots()),
            Want.CONFIG: _Question("config", lambda kmsd: kmsd.get_config()),
        }
        ahead = self._looks_ahead
        for want, question in wanted.items():
            due = want in self._wants and now >= self._next.get(question.field, 0.0)
            if due or (ahead and self._last(question).value is None):
                yield question
        yield from self._tails(now)
        token = self._mechanisms_of if Want.MECHANISMS in self._wants else _write_token(self.view) if ahead else ""
        if token and now >= self._next.get(f"mechanisms {token}", 0.0):
            yield _Question("mechanisms", lambda kmsd: kmsd.list_mechanisms(token), token)

    def _tails(self, now: float) -> Iterable[_Question]:
        """What is looked at of the calls and the audit while no screen follows them."""
        questions = (
            _Question("requests", _last_requests),
            _Question("audit", _last_records),
        )
        for question in questions:
            followed = Want(question.field) in self._wants
            if not followed and self.view.status.value is not None and now >= self._next.get(question.field, 0.0):
                yield question

    @property
    def _looks_ahead(self) -> bool:
        """Whether what no screen has shown yet is read, too: once, so that all have something when kmsd goes."""
        return self.view.status.value is not None and not self._looked

    def _ask(self, target: str, questions: Sequence[_Question]) -> tuple[list[_Answer], ClientError | None]:
        """In a thread. An error: that of the first question, the status; without it the others are not asked."""
        answers = []
        try:
            client = self._connected(target)
            for question in questions:
                answer = _answer(client, question, self._last(question))
                if question.field == "status" and answer.reading.error is not None:
                    return [], answer.reading.error
                answers.append(answer)
        except ClientError as error:
            return [], error
        return answers, None

    def _last(self, question: _Question) -> Reading[Any]:
        if question.part:
            return self.view.mechanisms.get(question.part, Reading())
        if question.field in BACKLOG:
            return Reading()
        reading: Reading[Any] = getattr(self.view, question.field)
        return reading

    def _take(self, target: str, answers: Sequence[_Answer]) -> None:
        before, changes = self.view, dict[str, Any]()
        mechanisms = dict(before.mechanisms)
        for answer in answers:
            name = answer.question.field
            if name in BACKLOG:
                self._next[name] = self._read_at + max(AHEAD, SHARE * answer.cost)
                # A screen that follows it by now has got more.
                if answer.reading.value is not None and Want(name) not in self._wants:
                    changes[name] = self._longer(Tail(), answer.reading.value, 0, AHEAD_MOST)
                continue
            if name != "status" and answer.reading.error is not None and Want(name) not in self._wants:
                continue  # looked at ahead, in vain, and nobody has asked
            if answer.question.part:
                mechanisms[answer.question.part] = answer.reading
                self._next[f"mechanisms {answer.question.part}"] = self._read_at + CONFIG_AFTER
                continue
            changes[name] = answer.reading
            least = CONFIG_AFTER if name == "config" else 0.0
            self._next[name] = self._read_at + max(least, SHARE * answer.cost)
        self._publish(target=target, mechanisms=MappingProxyType(mechanisms), **changes)
        if before.status.value is None:
            self._ask_now()
        self._looked = self._looked or before.status.value is not None
        status = self.view.status.value
        if status is not None:
            self._saw(observed_changes.compared(before, status, Moment.now()))
            changed = observed_changes.changed_token(before.status.value, status)
            if changed:
                self._publish(changed_token=changed)

    def _saw(self, seen: Sequence[observed_changes.ObservedChange]) -> None:
        if seen:
            self._publish(sightings=(*self.view.sightings, *seen)[-observed_changes.MOST :])

    def _connected(self, target: str) -> AdminClient:
        if self._client is None:
            self._client = connect(target, timeout=CALL_TIMEOUT)
            if self._closed:
                self._client.close()
        return self._client

    def _drop(self) -> None:
        for feed in (self._stats, self._requests, self._chosen, self._audit):
            feed.stop()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _rest(self) -> None:
        """Until the next read is due or asked for."""
        while not self._asked:
            self._wake.clear()
            pause = min(self.view.interval, RETRY_MOST) if self.view.lost else self.view.interval
            due = None if self.view.paused else self._read_at + pause
            self._publish(due=due)
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                break
        self._asked = False

    def _ask_now(self) -> None:
        self._asked = True
        self._wake.set()

    def _set_interval(self, seconds: float) -> None:
        if seconds == self.view.interval:
            return
        self._publish(interval=seconds)
        self._stats.stop()
        self._stats = self._stats_feed(seconds)
        self._tend()
        self._wake.set()

    def _publish(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)
        self._tell(self.view)

    # Streams.

    def _tend(self) -> None:
        """Let the feeds run that are wanted, as long as kmsd answers."""
        client = None if self.view.paused or self.view.lost or self.view.status.value is None else self._client
        wanted: dict[StreamFollower[Any], bool] = {
            self._stats: True,
            self._requests: Want.REQUESTS in self._wants,
            self._chosen: Want.REQUESTS in self._wants and self.view.wanted != Filter(),
            self._audit: Want.AUDIT in self._wants,
        }
        for feed, want in wanted.items():
            if client is None or not want:
                feed.stop()
            else:
                feed.start(client)

    def _stats_feed(self, interval: float) -> StreamFollower[StatsFrame]:
        pause = max(1.0, interval)
        return StreamFollower(
            "stats", lambda kmsd: kmsd.watch_stats(interval=pause), self._take_frames, self._tell_stats
        )

    def _take_frames(self, frames: Sequence[StatsFrame], begins: bool) -> None:
        known = self.view.traffic
        for frame in frames:
            known = traffic.fold(known, frame, monotonic())
        self._publish(traffic=known)

    def _tell_stats(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        if (self.view.traffic.error, self.view.traffic.due) != (error, due):
            self._publish(traffic=traffic.failed(self.view.traffic, error, due))

    def _take_requests(self, batches: Sequence[Requests], begins: bool) -> None:
        new = [request for batch in batches for request in batch.requests]
        dropped = sum(batch.dropped for batch in batches)
        tail: Tail[Request] = Tail() if begins else self.view.requests
        longer = self._longer(tail, new, dropped, MOST[Want.REQUESTS])
        self._publish(requests=longer)

    def _tell_requests(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        self._publish(requests=replace(self.view.requests, error=error, due=due, following=error is None))

    def _open_chosen(self, kmsd: AdminClient) -> Any:
        return kmsd.watch_requests(backlog=BACKLOG[Want.REQUESTS], wanted=self.view.wanted)

    def _take_chosen(self, batches: Sequence[Requests], begins: bool) -> None:
        # A kmsd that knows no filter tells of all.
        new = [request for batch in batches for request in batch.requests if _wanted(self.view.wanted, request)]
        tail: Tail[Request] = Tail() if begins else self.view.chosen
        dropped = sum(batch.dropped for batch in batches)
        self._publish(chosen=self._longer(tail, new, dropped, MOST[Want.REQUESTS]))

    def _tell_chosen(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        self._publish(chosen=replace(self.view.chosen, error=error, due=due, following=error is None))

    def _take_audit(self, batches: Sequence[AuditRecords], begins: bool) -> None:
        new = [record for batch in batches for record in batch.records]
        dropped = sum(batch.dropped for batch in batches)
        tail: Tail[AuditRecord] = Tail() if begins else self.view.audit
        self._publish(audit=self._longer(tail, new, dropped, MOST[Want.AUDIT]))

    def _tell_audit(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        self._publish(audit=replace(self.view.audit, error=error, due=due, following=error is None))

    def _longer(self, tail: Tail[U], new: Sequence[U], dropped: int, most: int) -> Tail[U]:
        numbered = tuple(Numbered(self._number + at, item) for at, item in enumerate(new, 1))
        self._number += len(new)
        return Tail((*tail.items, *numbered)[-most:], tail.dropped + dropped, following=True)

    def _broke(self, error: ClientError | None) -> None:
        """A stream that breaks is the first to know that kmsd is gone."""
        if isinstance(error, Unreachable) and not self.view.paused:
            self._ask_now()

    # Other targets.

    async def _watch_peers(self) -> None:
        while True:
            if Want.PEERS in self._wants and not self.view.paused:
                await asyncio.gather(*(self._look_at(peer) for peer in self.view.peers))
            await asyncio.sleep(max(1.0, self.view.interval))

    async def _look_at(self, peer: Peer) -> None:
        reading: Reading[Status]
        try:
            reading = Reading(await in_thread(lambda: self._ask_peer(peer.target)), monotonic())
        except ClientError as error:
            client = self._peers.pop(peer.target, None)
            if client is not None:
                client.close()
            reading = peer.status.failed(error)
        peers = tuple(Peer(each.target, reading) if each.target == peer.target else each for each in self.view.peers)
        self._publish(peers=peers)

    def _ask_peer(self, target: str) -> Status:
        client = self._peers.get(target)
        if client is None:
            client = self._peers[target] = connect(target, timeout=CALL_TIMEOUT)
        return _guarded(client.get_status)

    async def _watch_member(self, target: str) -> None:
        """Each target for itself, so that one that hangs keeps no other one waiting."""
        while True:
            await self._fleet_wanted.wait()
            if not self.view.paused or target not in self.view.fleet:
                member = await in_thread(lambda: ask(Target(target, target), CALL_TIMEOUT))
                before = self.view.fleet.get(target, Reading())
                now = Reading(member, monotonic()) if member.error is None else before.failed(member.error)
                self._publish(fleet=MappingProxyType({**self.view.fleet, target: now}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(1.0, self.view.interval)):
                    await self._fleet_now.wait()

    def _beside(self, target: str) -> dict[str, Any]:
        """The nodes beside a target, which has none if it is not one of them."""
        nodes = self._nodes if target in self._nodes else (target,)
        return {"nodes": nodes, "peers": _others(nodes, target)}

    # Actions.

    async def _perform(self, action: Action, reply: Callable[[Done], None]) -> None:
        self._publish(working=(*self.view.working, action.name))
        try:
            done = await self._done(action)
        finally:
            working = list(self.view.working)
            working.remove(action.name)
            self._publish(working=tuple(working))
        if done.outcome is not None and done.outcome.effect is not None:
            self._publish(**_changed(self.view, done.outcome.effect(self.view, monotonic())))
        if action.changes:
            self._next.clear()
            self._ask_now()
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
            return Done(action, await in_thread(lambda: _guarded(call)))
        except ClientError as error:
            return Done(action, error=error)


def _answer(client: AdminClient, question: _Question, last: Reading[Any]) -> _Answer:
    began = monotonic()
    try:
        value = _guarded(lambda: question.ask(client))
    except ClientError as error:
        return _Answer(question, last.failed(error), monotonic() - began)
    same = _same(last.value, value)
    ended = monotonic()
    return _Answer(question, Reading(same, ended), ended - began)


def _same(old: Any, new: Any) -> Any:
    """What says the same is the same object, each item of a list too: it is seen at once what is new."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        items = tuple(was if was == item else item for was, item in zip(old, new, strict=False))
        new = (*items, *new[len(items) :])
        unchanged = len(old) == len(new) and all(was is item for was, item in zip(old, new, strict=True))
        return old if unchanged else new
    return old if old == new else new


def _wanted(wanted: Filter, request: Request) -> bool:
    return (
        (request.code != "OK" or not wanted.failed)
        and wanted.method in ("", request.method)
        and wanted.code in ("", request.code)
        and request.key_id_sha256.startswith(wanted.key_id_sha256)
    )


def _guarded(call: Callable[[], T]) -> T:
    try:
        return call()
    except ValueError as error:
        if "closed channel" not in str(error):
            raise
        raise Unreachable("the connection was closed meanwhile", "", "UNAVAILABLE", retryable=True) from None


def _changed(before: View, after: View) -> dict[str, Any]:
    names = before.__dataclass_fields__
    return {name: getattr(after, name) for name in names if getattr(after, name) is not getattr(before, name)}


def _others(targets: Sequence[str], target: str) -> tuple[Peer, ...]:
    return tuple(Peer(each) for each in dict.fromkeys(targets) if each != target)


def _write_token(view: View) -> str:
    """Its name in kmsd's configuration; empty if it is not known."""
    status = view.status.value
    return next((each.name for each in status.tokens if each.write), "") if status is not None else ""


def _last_requests(kmsd: AdminClient) -> tuple[Request, ...]:
    with kmsd.watch_requests(backlog=AHEAD_MOST, follow=False, timeout=CALL_TIMEOUT) as batches:
        return tuple(request for batch in batches for request in batch.requests)


def _last_records(kmsd: AdminClient) -> tuple[AuditRecord, ...]:
    with kmsd.watch_audit(backlog=AHEAD_MOST, follow=False, timeout=CALL_TIMEOUT) as batches:
        return tuple(record for batch in batches for record in batch.records)


def _open_requests(kmsd: AdminClient) -> Any:
    return kmsd.watch_requests(backlog=BACKLOG[Want.REQUESTS])


def _open_audit(kmsd: AdminClient) -> Any:
    return kmsd.watch_audit(backlog=BACKLOG[Want.AUDIT])
