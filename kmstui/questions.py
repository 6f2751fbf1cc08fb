"""The questions that kmsd is asked at each read, and what becomes of its answers. Knows no widget and no stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from kmsd.client import AuditRecord, ClientError, Request, Status, Unreachable
from kmstui import enrolment
from kmstui.board import Board
from kmstui.view import Reading, Tail, View, Want

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

CALL_TIMEOUT = 5.0
"""Seconds for one call; short, because a screen that waits shows old data."""
SHARE = 20
"""A question that took long is asked again after so many times that long, at the soonest."""
CONFIG_AFTER = 30.0
"""Seconds between looks at the configuration, which changes by a reload only."""
CA_AFTER = 10.0
"""Seconds between looks at the CA and what it has issued, which may be thousands of certificates."""
FAILED_AFTER = 20.0
"""Seconds after which a question that failed is asked again, at the latest."""
AHEAD = 10.0
"""Seconds between looks at the last items of a tail that no screen follows, so that it has something when kmsd goes."""
AHEAD_MOST = 200
"""The number of them that are looked at."""
TAILS = ("requests", "audit")
"""Fields of the View that streams fill while a screen shows them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A call of kmsd. field: of the View, which the answer fills; part: the key in it, where that is a mapping."""

    field: str
    ask: Callable[[AdminClient], Any]
    part: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer to a question. cost: seconds that it took."""

    question: Question
    reading: Reading[Any]
    cost: float


class Questions:
    """The questions that are asked, of all that a screen wants, when they are due: what takes long is asked for less
    often."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._mechanisms_of = ""
        self._callers_of = ""
        self._next: dict[str, float] = {}
        self._looked = False
        self._config_of: datetime | None = None
        """The time at which the kmsd was started whose configuration is known."""

    def forget(self, *, target: bool = False) -> None:
        """Let everything be due now. target: of another target from now on, of which nothing has been looked at."""
        self._next.clear()
        self._looked = self._looked and not target
        if target:
            self._callers_of = ""

    def want_mechanisms(self, token: str) -> bool:
        """Ask for the mechanisms of a token, by its name in kmsd's configuration; empty: of none. Return whether they
        are to be read."""
        new = bool(token) and token != self._mechanisms_of and token not in self._board.view.mechanisms
        self._mechanisms_of = token
        return new

    def want_callers(self, tenant: str) -> None:
        """Ask for who calls for a tenant, by its name, now and from now on."""
        self._callers_of = tenant
        self._next.pop("callers", None)

    def due(self) -> Iterable[Question]:
        """Return what is to be asked now, the status first."""
        yield Question("status", lambda kmsd: kmsd.get_status())
        status = self._board.view.status.value
        if status is None:
            return  # which questions there are depends on what it is
        now = monotonic()
        wanted = {Want.CONFIG: Question("config", lambda kmsd: kmsd.get_config())}
        if not self._board.view.upstreams:
            # A proxy has neither.
            wanted[Want.KEYS] = Question("keys", lambda kmsd: kmsd.list_keys())
            wanted[Want.SLOTS] = Question("slots", lambda kmsd: kmsd.list_slots())
        ahead = self._looks_ahead
        for want, question in wanted.items():
            due = want in self._board.wants and now >= self._next.get(question.field, 0.0)
            # Which screens there are depends on the configuration, and a restart may change it.
            restarted = want is Want.CONFIG and self._config_of not in (None, status.started)
            if due or restarted or (ahead and self.last(question).value is None):
                yield question
        for question in _of_enrolment(self._board.view):
            if Want(question.field) in self._board.wants and now >= self._next.get(question.field, 0.0):
                yield question
        yield from self._tails(now)
        if Want.MECHANISMS in self._board.wants:
            token = self._mechanisms_of
        else:
            token = _write_token(self._board.view) if ahead else ""
        if token and now >= self._next.get(f"mechanisms {token}", 0.0):
            yield Question("mechanisms", lambda kmsd: kmsd.list_mechanisms(token), token)
        tenant = self._callers_of
        if tenant and Want.CALLERS in self._board.wants and now >= self._next.get("callers", 0.0):
            yield Question("callers", lambda kmsd: kmsd.list_peers(tenant), tenant)

    def _tails(self, now: float) -> Iterable[Question]:
        """Return what is looked at of the calls and the audit while no screen follows them."""
        questions = (
            Question("requests", _last_requests),
            Question("audit", _last_records),
        )
        for question in questions:
            followed = Want(question.field) in self._board.wants
            answers = self._board.view.status.value is not None
            if answers and not followed and now >= self._next.get(question.field, 0.0):
                yield question

    @property
    def _looks_ahead(self) -> bool:
        """Whether what no screen has shown yet is read, too: once, so that all have something when kmsd goes."""
        return self._board.view.status.value is not None and not self._looked

    def last(self, question: Question) -> Reading[Any]:
        """Return what is known already of what a question asks."""
        if question.part:
            parts: Mapping[str, Reading[Any]] = getattr(self._board.view, question.field)
            return parts.get(question.part, Reading())
        if question.field in TAILS:
            return Reading()
        reading: Reading[Any] = getattr(self._board.view, question.field)
        return reading

    def take(self, answers: Sequence[Answer], read_at: float) -> dict[str, Any]:
        """Return what the answers change of the View. read_at: when they came, on the steady clock."""
        view, changes = self._board.view, dict[str, Any]()
        mechanisms = dict(view.mechanisms)
        for answer in answers:
            name = answer.question.field
            unwanted = name != "status" and Want(name) not in self._board.wants
            if name == "config" and view.status.value is not None:
                self._config_of = view.status.value.started
            if name in TAILS:
                self._next[name] = read_at + max(AHEAD, SHARE * answer.cost)
                # A screen that follows it by now has got more.
                if answer.reading.value is not None and unwanted:
                    changes[name] = self._board.longer(Tail(), answer.reading.value, 0, AHEAD_MOST)
            elif answer.reading.error is not None and unwanted:
                pass  # looked at ahead, in vain, and nobody has asked
            elif name == "callers":
                changes[name] = MappingProxyType({answer.question.part: answer.reading})
                self._next[name] = read_at + SHARE * answer.cost
            elif answer.question.part:
                mechanisms[answer.question.part] = answer.reading
                self._next[f"mechanisms {answer.question.part}"] = read_at + CONFIG_AFTER
            else:
                changes[name] = answer.reading
                least = {"config": CONFIG_AFTER, "ca": CA_AFTER}.get(name, 0.0)
                # What fails takes long, and is back of a sudden.
                most = FAILED_AFTER if answer.reading.error is not None else SHARE * answer.cost
                self._next[name] = read_at + max(least, min(most, SHARE * answer.cost))
        self._looked = self._looked or view.status.value is not None
        return {"mechanisms": MappingProxyType(mechanisms), **changes}


def answer(client: AdminClient, question: Question, last: Reading[Any]) -> Answer:
    """Ask kmsd. last: what was known before, which stays where kmsd refuses."""
    began = monotonic()
    try:
        value = guarded(lambda: question.ask(client))
    except ClientError as error:
        return Answer(question, last.failed(error), monotonic() - began)
    same = _same_tenants(last.value, value) if isinstance(value, Status) else _same(last.value, value)
    ended = monotonic()
    return Answer(question, Reading(same, ended), ended - began)


def _same(old: Any, new: Any) -> Any:
    """Return what says the same is the same object, each item of a list too: it is seen at once what is new."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        items = tuple(was if was == item else item for was, item in zip(old, new, strict=False))
        new = (*items, *new[len(items) :])
        unchanged = len(old) == len(new) and all(was is item for was, item in zip(old, new, strict=True))
        return old if unchanged else new
    return old if old == new else new


def _same_tenants(old: Status | None, new: Status) -> Status:
    """Return a status in which a tenant that says the same is the same object: there may be a thousand of them."""
    return replace(new, tenants=_same(old.tenants, new.tenants)) if old is not None and new.tenants else new


def guarded(call: Callable[[], T]) -> T:
    """Return what a call of kmsd returns. Raises Unreachable where its channel was closed meanwhile."""
    try:
        return call()
    except ValueError as error:
        if "closed channel" not in str(error):
            raise
        raise Unreachable("the connection was closed meanwhile", "", "UNAVAILABLE", retryable=True) from None


def _of_enrolment(view: View) -> Iterable[Question]:
    """Return what there is to ask about enrolment: nothing of what kmsd is not configured for."""
    if enrolment.has_ca(view):
        yield Question("ca", lambda kmsd: kmsd.get_ca(most=enrolment.CERTIFICATES))
    if enrolment.enrols(view):
        yield Question("enrolment_tokens", lambda kmsd: kmsd.list_enrolment_tokens())
        yield Question("enrolment_requests", lambda kmsd: kmsd.list_enrolment_requests())


def _write_token(view: View) -> str:
    """Return its name in kmsd's configuration; empty if it is not known."""
    status = view.status.value
    return next((each.name for each in status.tokens if each.write), "") if status is not None else ""


def _last_requests(kmsd: AdminClient) -> tuple[Request, ...]:
    with kmsd.watch_requests(backlog=AHEAD_MOST, follow=False, timeout=CALL_TIMEOUT) as batches:
        return tuple(request for batch in batches for request in batch.requests)


def _last_records(kmsd: AdminClient) -> tuple[AuditRecord, ...]:
    with kmsd.watch_audit(backlog=AHEAD_MOST, follow=False, timeout=CALL_TIMEOUT) as batches:
        return tuple(record for batch in batches for record in batch.records)
