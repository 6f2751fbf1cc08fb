"""Find the lines of a chain: its files, in order, and their lines, in bounded memory."""

from __future__ import annotations

import errno
import heapq
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from kmsd.audit.chain.record import MAX_LINE, NotARecord, Record, parse

_BLOCK: Final = 65536
_PAUSE_LINES: Final = 1000


@dataclass(frozen=True)
class Source:
    """A file of the chain. size: bytes of it to read; None: all. first_seq: of its first record, as far as it is known
    from elsewhere (the name of a file that was put aside)."""

    name: str
    stream: BinaryIO
    size: int | None = None
    first_seq: int | None = None


def files_of(path: Path) -> list[Path]:
    """Return the files of the chain whose present file is `path`, oldest first: those put aside (`audit-57.jsonl`
    beside `audit.jsonl`), then itself if it is there. Raises OSError if the directory cannot be read."""
    pattern = re.compile(re.escape(path.stem) + r"-([1-9][0-9]{0,18})" + re.escape(path.suffix))
    aside = [
        (int(match[1]), other)
        for other in path.parent.iterdir()
        if (match := pattern.fullmatch(other.name)) is not None
    ]
    return [other for _, other in sorted(aside)] + ([path] if path.exists() else [])


def sources_of(path: Path, stack: ExitStack) -> list[Source]:
    """Open the files of the chain whose present file is `path`; `stack` closes them. Raises OSError."""
    files = files_of(path)
    return [
        # Putting a file aside always leaves it beside the next: a present file alone begins with record 1.
        Source(
            str(file),
            stack.enter_context(_opened(file)),
            first_seq=int(file.stem.rpartition("-")[2]) if file != path else 1 if len(files) == 1 else None,
        )
        for file in files
    ]


def _opened(path: Path) -> BinaryIO:
    """Open a file to read. Raises OSError, also for a pipe, which would wait for its other end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def lines_of(source: Source) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (number from 1, line, whether it ends with a newline). A line that is too long is given by its beginning,
    more than MAX_LINE bytes."""
    left = source.size if source.size is not None else 2**63
    number = 0
    while raw := source.stream.readline(min(MAX_LINE + 1, left)):
        left -= len(raw)
        number += 1
        rest = raw
        while len(raw) > MAX_LINE and not rest.endswith(b"\n"):
            rest = source.stream.readline(min(_BLOCK, left))
            left -= len(rest)
            if not rest:
                break
        yield number, raw, rest.endswith(b"\n")


def tail(chains: Sequence[Sequence[Source]], count: int, page: int) -> Iterator[list[tuple[int, Record]]]:
    """Yield the last `count` records of one or more chains together, oldest first by their times, each with the place
    of its chain in `chains`, in lists of at most `page`. Lines that are no records are passed over: `verify` tells of
    them. The streams must be seekable."""
    ends = [_end(sources, count) for sources in chains]
    merged = heapq.merge(
        *(_records(place, parts) for place, (parts, _) in enumerate(ends)), key=lambda each: each[1].unix_ms
    )
    last = islice(merged, max(0, sum(lines for _, lines in ends) - count), None)
    while found := list(islice(last, page)):
        yield found


def matching(
    chains: Sequence[Sequence[Source]],
    count: int,
    may_be: Callable[[bytes], bool],
    wanted: Callable[[Record], bool],
    pause: Callable[[], object],
) -> list[Record]:
    """Return the last `count` wanted records of one or more chains together, oldest first by their times.

    may_be: tells quickly which lines are worth parsing. pause: called every 1000 lines or so, to let others run. Reads
    from the end, and no further than it must. The streams must be seekable.
    """

    def found(sources: Sequence[Source]) -> Iterator[Record]:
        for source in reversed(sources):
            for number, line in enumerate(_backwards(source), 1):
                if number % _PAUSE_LINES == 0:
                    pause()
                if may_be(line):
                    with suppress(NotARecord):
                        record = parse(line)
                        if wanted(record):
                            yield record

    merged = heapq.merge(*map(found, chains), key=lambda each: each.unix_ms, reverse=True)
    return list(islice(merged, count))[::-1]


def _backwards(source: Source) -> Iterator[bytes]:
    """Yield the lines of a file, the last first; of a line longer than MAX_LINE a piece, which is no record."""
    end = source.size if source.size is not None else source.stream.seek(0, os.SEEK_END)
    rest = b""
    while end:
        begin = max(0, end - _BLOCK)
        source.stream.seek(begin)
        first, *lines = (source.stream.read(end - begin) + rest).split(b"\n")
        yield from filter(None, reversed(lines))
        rest, end = first[-(MAX_LINE + 1) :], begin
    yield from filter(None, (rest,))


def _end(sources: Sequence[Source], count: int) -> tuple[list[Source], int]:
    """Return the parts of a chain's files that hold its last `count` lines, oldest first, and how many lines there
    are."""
    parts: list[Source] = []
    left = count
    for source in reversed(sources):
        if left <= 0:
            break
        size = source.size if source.size is not None else source.stream.seek(0, os.SEEK_END)
        offset, lines = _back(source.stream, size, left)
        left -= lines
        source.stream.seek(offset)
        parts.append(replace(source, size=size - offset))
    return parts[::-1], count - left


def _records(place: int, parts: Sequence[Source]) -> Iterator[tuple[int, Record]]:
    for part in parts:
        for _, raw, _ in lines_of(part):
            with suppress(NotARecord):
                yield place, parse(raw)


def _back(stream: BinaryIO, size: int, count: int) -> tuple[int, int]:
    """Return the offset of the `count`-th line from the end and the number of lines from there on; 0 and all lines if
    there are fewer."""
    lines, end = 0, size
    while end:
        begin = max(0, end - _BLOCK)
        stream.seek(begin)
        block = stream.read(end - begin)
        place = len(block)
        while (place := block.rfind(b"\n", 0, place)) >= 0:
            if begin + place + 1 < size:
                lines += 1
                if lines == count:
                    return begin + place + 1, lines
        end = begin
    return 0, lines + (size > 0)
