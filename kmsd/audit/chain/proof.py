"""The proof: reads the files of a chain, oldest first, and says what is wrong, where, and what that means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from kmsd.audit.chain.reading import Source, lines_of, sources_of
from kmsd.audit.chain.record import START, Head, NotARecord, Record, parse

MAX_FINDINGS: Final = 50
"""Findings that are described; more are only counted."""
_PAUSE_LINES: Final = 64

What = Literal["changed", "inserted", "missing", "moved", "repeated", "replaced", "torn", "cut off", "begins late"]


@dataclass(frozen=True)
class ChainFinding:
    """A thing that is wrong with a chain. line: number in the file, from 1; 0 if it is about no line. seq: the
    record's, or that of the one which should be there; 0 if it is not known. text: what is wrong and what it means."""

    what: What
    file: str
    line: int
    seq: int
    text: str

    def __str__(self) -> str:
        place = f"{self.file} line {self.line}" if self.line else self.file
        return f"{place}{f' (seq {self.seq})' if self.seq else ''}: {self.text}"


@dataclass(frozen=True)
class ChainVerdict:
    """The result of proving a chain. records: intact ones in their place. first_seq, head: of the first and the last of
    them; 0 and START if there is none. findings: in order, at most MAX_FINDINGS. more: findings that are not among
    them."""

    records: int
    first_seq: int
    head: Head
    files: tuple[str, ...]
    findings: tuple[ChainFinding, ...]
    more: int = 0

    @property
    def intact(self) -> bool:
        return not self.findings

    @property
    def problem(self) -> str:
        """The first finding in words; empty if the chain is intact."""
        others = len(self.findings) + self.more - 1
        if others < 0:
            return ""
        return f"{self.findings[0]}" + (f"; and {others} more" if others else "")


def verify(
    sources: Sequence[Source],
    known: Collection[Head] = (),
    begins_at: int | None = None,
    pause: Callable[[], object] = lambda: None,
) -> ChainVerdict:
    """Check the chain over files, oldest first; reads line by line.

    known: heads that the chain has had; one that is not in it, and that it does not begin right after, shows that the
    end was cut off or rewritten. (One that is older shows nothing.) begins_at: the record that it begins with at the
    latest; None: it may begin anywhere. pause: called every few dozen lines, to let others run.
    """
    walk = _Walk({head.seq: head.hash for head in known if head.seq}, begins_at)
    for index, source in enumerate(sources):
        if index == 0:
            walk.begin(source)
        for number, raw, whole in lines_of(source):
            walk.line(source.name, number, raw, torn=not whole, last=index == len(sources) - 1)
            if number % _PAUSE_LINES == 0:
                pause()
    return walk.end(tuple(source.name for source in sources))


def verify_files(path: Path, known: Collection[Head] = ()) -> ChainVerdict:
    """Check the chain whose present file is `path`. Raises OSError."""
    with ExitStack() as stack:
        return verify(sources_of(path, stack), known)


@dataclass(frozen=True)
class _Broken:
    """A line that is no intact record. Whether it stands in the place of one shows with the next."""

    file: str
    line: int
    text: str


@dataclass
class _Walk:
    """The state between two lines. next_seq: of the record that should come. after: its prev. None: any."""

    known: dict[int, str]
    begins_at: int | None = None
    next_seq: int | None = None
    after: str | None = None
    records: int = 0
    first: int = 0
    head: Head = START
    findings: list[ChainFinding] = field(default_factory=list)
    more: int = 0
    _broken: list[_Broken] = field(default_factory=list)
    _count: int = 0
    """Number of broken lines in a row, those included that there is no room to describe."""
    _missing: list[tuple[int, int]] = field(default_factory=list)
    _place: tuple[str, int] = ("", 0)

    def begin(self, source: Source) -> None:
        self.next_seq = source.first_seq
        self.after = START.hash if source.first_seq == 1 else None

    def line(self, file: str, number: int, raw: bytes, *, torn: bool, last: bool) -> None:
        """Check the next line. torn: it has no newline. last: it is of the last file, where a crash can leave that."""
        self._place = (file, number)
        record, broken = None, ""
        try:
            record = parse(raw)
        except NotARecord as error:
            broken = f"is no record: {error}"
        else:
            if not record.intact:
                broken = f"says seq {record.seq}, but its hash does not fit its text"
        if torn and (last or not broken):
            self._torn(file, number)
        if record is not None and not broken:
            self._record(file, number, record)
        elif not (torn and last):
            self._count += 1
            if len(self._broken) < MAX_FINDINGS:
                self._broken.append(_Broken(file, number, broken))

    def end(self, files: tuple[str, ...]) -> ChainVerdict:
        self._settle("changed")
        file, number = self._place
        latest = max(self.known, default=0)
        reached = max(self.head.seq, (self.next_seq or 1) - 1)
        if latest > reached:
            self._find(
                "cut off",
                file or (files[-1] if files else "the audit"),
                number,
                latest,
                f"the chain ends with record {reached}, but record {latest} is known to have been written: "
                "the end was cut off, or put back to an older state",
            )
        return ChainVerdict(self.records, self.first, self.head, files, tuple(self.findings), self.more)

    def _record(self, file: str, number: int, record: Record) -> None:
        if self._broken:
            self._resume(record)
        if self.next_seq is None or record.seq == self.next_seq:
            if self.after not in (None, record.prev):
                self._find("replaced", file, number, record.seq, _replaced(record))
        elif record.seq > self.next_seq:
            self._gap(file, number, self.next_seq, record.seq)
        elif self.records:
            self._behind(file, number, record)
            return
        else:
            self._find("replaced", file, number, record.seq, f"the file should begin with record {self.next_seq}")
        self._follow(file, number, record)

    def _first(self, file: str, number: int, record: Record) -> None:
        """Note a finding if the first record begins too late, or does not follow from a record that is known."""
        told = any(finding.what == "begins late" for finding in self.findings)
        if self.begins_at is not None and record.seq > self.begins_at and not told:
            self._begins_late(file, number, record.seq, self.begins_at)
        if self.known.get(record.seq - 1, record.prev) != record.prev:
            self._find("replaced", file, number, record.seq, f"does not follow from the known record {record.seq - 1}")

    def _resume(self, record: Record) -> None:
        """Go on after broken lines, and tell whether they were put in or stand in the place of records."""
        expected, count = self.next_seq, self._count
        if record.seq == expected and self.after in (None, record.prev):
            self._settle("inserted")
            return
        self._settle("changed")
        if expected is not None and expected <= record.seq <= expected + count:
            self.next_seq = record.seq

    def _follow(self, file: str, number: int, record: Record) -> None:
        if self.known.get(record.seq, record.hash) != record.hash:
            self._find(
                "replaced",
                file,
                number,
                record.seq,
                f"is not the record that is known to have been written (hash {self.known[record.seq][:8]}...): "
                "the end of the chain was rewritten, up to here or further back",
            )
        if not self.records:
            self._first(file, number, record)
        self.records += 1
        self.first = self.first or record.seq
        self.head = record.head
        self.next_seq, self.after = record.seq + 1, record.hash

    def _gap(self, file: str, number: int, expected: int, found: int) -> None:
        if self.records == 0:
            self._begins_late(file, number, found, expected)
            return
        which = _which(expected, found)
        if len(self._missing) < MAX_FINDINGS:
            self._missing.append((expected, found - 1))
        self._find("missing", file, number, found, f"{which} should come before it: dropped, or moved elsewhere")

    def _begins_late(self, file: str, number: int, found: int, expected: int) -> None:
        which = _which(expected, found)
        self._find(
            "begins late", file, number, found, f"the chain begins here, but {which} should come before: cut off"
        )

    def _behind(self, file: str, number: int, record: Record) -> None:
        if any(first <= record.seq <= last for first, last in self._missing):
            self._find("moved", file, number, record.seq, "stands after later records: moved here from its place")
        elif record.head == self.head:
            self._find("repeated", file, number, record.seq, "is the record before it once more: repeated")
        else:
            self._find(
                "repeated", file, number, record.seq, "its seq has been before: repeated, or put in beside the other"
            )

    def _torn(self, file: str, number: int) -> None:
        self._find(
            "torn",
            file,
            number,
            0,
            "does not end with a newline: kmsd or the machine stopped while it was written, or its end was cut off",
        )

    def _settle(self, what: Literal["changed", "inserted"]) -> None:
        """Report the broken lines that wait: in the place of records, or between two that follow each other."""
        seq = self.next_seq or 0
        for number, broken in enumerate(self._broken):
            if what == "inserted":
                meaning = "inserted: the records around it follow each other"
                self._find(what, broken.file, broken.line, 0, f"{broken.text}; {meaning}")
            else:
                self._find(what, broken.file, broken.line, seq + number if seq else 0, f"{broken.text}; changed")
        self.more += self._count - len(self._broken)
        if what == "changed" and self._count:
            self.after = None
            self.next_seq = None if self.next_seq is None else self.next_seq + self._count
        self._broken.clear()
        self._count = 0

    def _find(self, what: What, file: str, line: int, seq: int, text: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(ChainFinding(what, file, line, seq, text))
        else:
            self.more += 1


def _which(expected: int, found: int) -> str:
    return f"record {expected}" if found == expected + 1 else f"records {expected} to {found - 1}"


def _replaced(record: Record) -> str:
    if record.seq == 1:
        return "does not begin a chain (its prev is not zeros): lines before it were cut off, and it was numbered anew"
    return (
        "does not follow from the line before it (its prev is another hash): "
        "the line before, or this one with all after it, was replaced"
    )
