"""The audit's file: appends records, puts full files aside, and finds its place again after a crash.

Synchronous: every call may wait for the disk. Belongs to one thread at a time. Nothing that was written is ever
changed but for one thing: a piece of a line that a crash has left at the end is moved to a file beside
(`audit-torn-<seq>`), and the next record says so. The chain goes on behind it, so the files always hold whole lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from kmsd import plainfile
from kmsd.audit import disk, torn
from kmsd.audit.chain import (
    MAX_LINE,
    START,
    Entry,
    NotARecord,
    Record,
    Source,
    files_of,
    make,
    parse,
    sources_of,
    verify,
)
from kmsd.audit.lock import claim
from kmsd.audit.torn import MENDED, Note

_EXAMINE_SECONDS: Final = 60.0
"""Seconds between two examinations of a file whose time was changed, which a file system may do for reasons of its
own."""
_EXAMINED: Final = 16 * 1024 * 1024
"""Bytes at the end of such a file that are examined."""
BREATH: Final = 0.0005
"""Seconds for which a thread that reads a chain sleeps now and then, so that the event loop can run."""

DISTURBED: Final = "audit disturbed"
"""The event that says that another program has changed the audit."""
PUT_ASIDE: Final = "audit file put aside"


class AuditFile:
    """The files of one chain, in the only process that writes them.

    path: of the present file; what is put aside and the lock lie beside it. max_bytes: size from which a file is put
    aside. keep: how many of those stay.

    recall: words; records with one of them are looked for when the file is opened first.

    head: of the last record written, or found by `open`. oldest: seq that the files begin with. recalled: what `open`
    has found with one of the words, in the present file and the last one that was put aside, oldest first.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int, recall: Sequence[bytes] = ()) -> None:
        self.path = path
        self.head = START
        self.oldest: int | None = None
        self.recalled: list[Record] = []
        self._recall = recall
        self._max_bytes = max_bytes
        self._keep = keep
        self._file: int | None = None
        self._lock: int | None = None
        self._size = 0
        self._first = 1
        self._changed_ns = 0
        self._suspect = False
        """Whether somebody else may have written to the file after `_changed_ns`."""
        self._examined_at = -inf
        self._sure = False
        """Whether `head` is what this process wrote last: then the file must agree."""

    @property
    def is_open(self) -> bool:
        return self._file is not None

    @property
    def full(self) -> bool:
        return self._size >= self._max_bytes

    def open(self) -> list[Note]:
        """Take the file, and find where the chain goes on. Returns what the next records have to say.

        Raises InUse, Misconfigured for a file or a directory that others may write to, OSError.
        """
        self.shut()
        disk.prepare(self.path.parent)
        if self._lock is None:
            self._lock = claim(self.path)
        self._file = disk.open_file(self.path)
        try:
            notes = self._find_place(self._file)
            if not self._sure:
                self._look_back()
        except BaseException:
            self.shut()
            raise
        self._sure, self._suspect = True, False
        self._changed_ns = os.fstat(self._file).st_mtime_ns
        return notes

    def _look_back(self) -> None:
        aside = self._aside()
        self.oldest = _seq_in_name(aside[0]) if aside else self._first
        if self._recall:
            self.recalled = [found for path in (*aside[-1:], self.path) for found in _with_words(path, self._recall)]

    def append(self, entries: Sequence[Entry]) -> list[Record]:
        """Write records for the entries: all or, when it raises OSError, none. They survive the end of the process;
        the end of the machine only after `sync`."""
        records: list[Record] = []
        head = self.head
        for entry in entries:
            records.append(make(entry, head))
            head = records[-1].head
        data = "".join(f"{record.line}\n" for record in records).encode("ascii")
        file = self._opened()
        try:
            disk.write(file, data)
        except OSError:
            try:
                os.ftruncate(file, self._size)
                self._written()
            except OSError:
                # `open` finds out which part of it stands in the file.
                self._sure = False
                self.shut()
            raise
        self._size += len(data)
        self._written()
        self.head = head
        return records

    def _written(self) -> None:
        """Take note of the time of a change of one's own, that it is not taken for another program's."""
        if not self._suspect:
            self._changed_ns = os.fstat(self._opened()).st_mtime_ns

    def sync(self) -> None:
        """Put what was written on the disk. Raises OSError."""
        os.fsync(self._opened())

    def disturbed(self) -> str:
        """Return, as a sentence, what somebody else has done to the file since it was written last; empty if nothing.
        The file has to be opened anew then."""
        there = None
        with suppress(FileNotFoundError):
            there = self.path.stat(follow_symlinks=False)
        here = os.fstat(self._opened())
        if there is None:
            return f"{self.path} was deleted or moved away by another program"
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return f"{self.path} was replaced by another program"
        if here.st_size != self._size:
            return f"{self.path} was changed by another program: {here.st_size} bytes instead of {self._size}"
        self._suspect = here.st_mtime_ns != self._changed_ns
        if self._suspect and monotonic() - self._examined_at >= _EXAMINE_SECONDS:
            self._examined_at, self._changed_ns, self._suspect = monotonic(), here.st_mtime_ns, False
            return self._examine()
        return ""

    def _examine(self) -> str:
        """Return what was done to a file that is as long as it was, by its content; this takes a second at the
        longest."""
        begin = max(0, self._size - _EXAMINED)
        with self.path.open("rb") as stream:
            stream.seek(begin)
            if begin:
                begin += len(stream.readline())
            source = Source(self.path.name, stream, self._size - begin, self._first if not begin else None)
            verdict = verify([source], [self.head] if self._size else (), pause=lambda: sleep(BREATH))
        return "" if verdict.intact else f"{self.path} was changed by another program: {verdict.problem}"

    def rotate(self) -> list[Note]:
        """Put the file aside and begin the next. Raises OSError; the chain is whole even then."""
        aside = self.path.with_name(f"{self.path.stem}-{self._first}{self.path.suffix}")
        if aside.exists():
            raise FileExistsError(f"{aside} is there already: move it away")
        file = self._opened()
        os.fsync(file)
        self.path.rename(aside)
        self.shut()
        self._file = disk.open_file(self.path)
        self._size, self._first = 0, self.head.seq + 1
        disk.sync_directory(self.path.parent)
        self._changed_ns, self._suspect = os.fstat(self._file).st_mtime_ns, False
        return [(PUT_ASIDE, f"{aside.name}, which ends with record {self.head.seq}")]

    def prune(self) -> list[Note]:
        """Delete the oldest of the files put aside, so that `keep` stay. Raises OSError."""
        aside = self._aside()
        gone = aside[: -self._keep]
        if not gone:
            return []
        for file in gone:
            file.unlink()
        self.oldest = _seq_in_name(aside[-self._keep])
        for seq, piece in torn.found(self.path):
            if seq < _seq_in_name(aside[-self._keep]):
                piece.unlink()
        names = ", ".join(file.name for file in gone)
        return [("audit files deleted", f"{names}: {self._keep} files are kept (audit.keep)")]

    def sources(self, stack: ExitStack) -> list[Source]:
        """Open the files of the chain, as long as they are now; `stack` closes them. Raises OSError."""
        return [
            replace(source, size=os.fstat(source.stream.fileno()).st_size) for source in sources_of(self.path, stack)
        ]

    def shut(self) -> None:
        """Close the file, but keep the lock."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self.shut()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _aside(self) -> list[Path]:
        return [other for other in files_of(self.path) if other != self.path]

    def _opened(self) -> int:
        if self._file is None:
            raise OSError("the audit file is not open")
        return self._file

    def _find_place(self, file: int) -> list[Note]:
        size = os.fstat(file).st_size
        end = disk.line_end(file, size, self.path)
        aside = self._aside()
        before = _last_of(aside[-1]) if aside else None
        last, notes = self._last_record(file, end, before)
        if end < size:
            completed = self._complete(file, end, last)
            if completed is not None:
                last, end = completed, size + 1
                notes.append((MENDED, f"record {last.seq} lacked its newline: kmsd was stopped while writing"))
            else:
                notes.append(torn.move_aside(self.path, last.seq + 1 if last else 1, file, end, size))
        elif (left := torn.name(self.path, last.seq + 1 if last else 1)).exists():
            # The piece was moved aside just before another crash, and the record that should say so was not written.
            notes.append(torn.note(left, left.stat().st_size))
        found = last.head if last else START
        if self._sure and found != self.head:
            notes.append(
                (
                    DISTURBED,
                    f"{self.path} does not end with record {self.head.seq}, which kmsd wrote last: "
                    "changed, cut or replaced by another program",
                )
            )
        else:
            self.head = found
        self._size = end
        # The file is named by this seq when it is put aside. A first line that is no record stands in the place of one.
        self._first = self.head.seq + 1 if end == 0 else _first_seq(file, end) or (before.seq + 1 if before else 1)
        disk.sync_directory(self.path.parent)
        return notes

    def _last_record(self, file: int, end: int, before: Record | None) -> tuple[Record | None, list[Note]]:
        """Return the record that the chain goes on from, and notes of what was found behind it. before: the last record
        that was put aside."""
        last, behind = _last_record(file, end)
        notes: list[Note] = []
        if behind:
            notes.append((DISTURBED, f"{self.path} does not end with a record that kmsd wrote"))
        elif last is not None and not last.intact:
            notes.append((DISTURBED, f"record {last.seq}, the last in {self.path}, was changed"))
        if before is not None and (last is None or last.seq < before.seq):
            last = before
        return last, notes

    def _complete(self, file: int, end: int, last: Record | None) -> Record | None:
        """Add the newline to the record behind `end` if it lacks nothing else; return the record, or None if there is
        none."""
        try:
            record = parse(os.pread(file, MAX_LINE, end))
        except NotARecord:
            return None
        if not record.intact or record.prev != (last.head if last else START).hash:
            return None
        disk.write(file, b"\n")
        return record


def _last_record(file: int, end: int) -> tuple[Record | None, bool]:
    """Return the last line before `end` that is a record, if there is one, and whether other lines come after it."""
    for behind, line in enumerate(disk.lines_back(file, end, MAX_LINE)):
        with suppress(NotARecord):
            return parse(line), behind > 0
    return None, end > 0


def _last_of(path: Path) -> Record | None:
    file = plainfile.open_regular(path, os.O_RDONLY)
    try:
        return _last_record(file, disk.line_end(file, os.fstat(file).st_size, path))[0]
    finally:
        os.close(file)


def _with_words(path: Path, words: Sequence[bytes]) -> Iterator[Record]:
    """Yield the records of a file that hold one of the words."""
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE + 1):
            if any(word in line for word in words):
                with suppress(NotARecord):
                    yield parse(line)


def _first_seq(file: int, end: int) -> int | None:
    line = os.pread(file, min(end, MAX_LINE), 0).partition(b"\n")[0]
    with suppress(NotARecord):
        return parse(line).seq
    return None


def _seq_in_name(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
