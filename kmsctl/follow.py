"""Lists that go on: `requests` and `audit tail`, whole or as they come, in every format. Knows no command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kmsctl import output
from kmsctl.output import Document, OutputFormat
from kmsd.client import Unhealthy, Unreachable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

FORMATS = (OutputFormat.TABLE, OutputFormat.WIDE, OutputFormat.JSON, OutputFormat.YAML, OutputFormat.NAME)


class Messages(Protocol[T_co]):
    """A stream of the client, without what it loads."""

    def __iter__(self) -> Iterator[T_co]: ...
    def close(self) -> None:
        """End the stream; its iteration ends."""


def ended() -> Unreachable:
    """Raise for kmsd having closed, in good order, a stream that should have no end: it stops, or restarts."""
    return Unreachable(
        "kmsd ended the stream: it stops or restarts",
        "`kmsctl health --wait` returns when it is back",
        "UNAVAILABLE",
        retryable=True,
    )


def following(stream: Messages[T]) -> Iterator[T]:
    """Yield the messages of a stream. Raises Unreachable where kmsd says that it stops, and what else the stream
    raises."""
    try:
        yield from stream
    except Unhealthy as error:
        if error.code != "UNAVAILABLE":
            raise
        raise Unreachable(error.message, error.hint, error.code, retryable=True) from error


def endless(stream: Messages[T]) -> Iterator[T]:
    """Yield the messages of a stream that should have no end, while somebody reads what comes of them.

    Raises BrokenPipeError when nobody does, Unreachable when kmsd ends the stream, and what the stream raises.
    """
    unread = threading.Event()

    def leave() -> None:
        unread.set()
        stream.close()

    output.when_unread(leave)
    yield from following(stream)
    raise BrokenPipeError if unread.is_set() else ended()


@dataclass(frozen=True)
class ListColumn(Generic[T]):
    """A column of a list. width: what its cells mostly need, where they are not known yet. wide: for `-o wide`
    alone."""

    header: str
    width: int
    cell: Callable[[T], str]
    wide: bool = False


@dataclass(frozen=True)
class FollowedList(Generic[T]):
    """A list of T, as it reads. title: its name in a document."""

    title: str
    columns: Sequence[ListColumn[T]]
    document: Callable[[T], Document]
    name: Callable[[T], str]

    def emit(self, items: Sequence[T], form: OutputFormat) -> None:
        """Print all items, of which no more are to come."""
        match form:
            case OutputFormat.JSON | OutputFormat.YAML:
                output.emit_document({self.title: [self.document(each) for each in items]}, form)
            case OutputFormat.NAME:
                output.emit_names(filter(None, map(self.name, items)))
            case _:
                columns = self._columns(form)
                rows = [[column.cell(each) for column in columns] for each in items]
                output.emit(output.table([column.header for column in columns], rows))

    def emit_stream(self, batches: Iterable[Sequence[T]], form: OutputFormat) -> None:
        """Print items as they come: rows under one header, JSON objects or names, one a line, or items of one YAML
        list."""
        columns = self._columns(form)
        widths = [column.width for column in columns]
        for index, batch in enumerate(batches):
            if index == 0 and form in (OutputFormat.TABLE, OutputFormat.WIDE):
                output.emit(output.row([column.header for column in columns], widths))
            for each in batch:
                match form:
                    case OutputFormat.JSON:
                        output.emit_line(self.document(each))
                    case OutputFormat.YAML:
                        output.emit_item(self.document(each))
                    case OutputFormat.NAME:
                        output.emit_names(filter(None, [self.name(each)]))
                    case _:
                        output.emit(output.row([column.cell(each) for column in columns], widths))

    def _columns(self, form: OutputFormat) -> list[ListColumn[T]]:
        return [column for column in self.columns if form is OutputFormat.WIDE or not column.wide]
