"""Chains of records to tamper with."""

from __future__ import annotations

import io
from collections.abc import Sequence

from kmsd.audit.chain import START, ChainVerdict, Entry, Head, Record, Source, make, verify


def entry(n: int) -> Entry:
    return Entry(
        unix_ms=1_800_000_000_000 + n * 137,
        kind=("kms", "admin", "event")[n % 3],
        action=("Decrypt", "RotateKey", "token up")[n % 3],
        key_id_sha256=f"{n:064x}",
        latency_ms=n / 7,
        detail=f'the "{n}"th,\n\x1b[31m\u2028é',
    )


def chain(count: int, after: Head = START, begin: int = 0) -> list[Record]:
    """begin: number of the first entry, which makes another chain."""
    records: list[Record] = []
    for n in range(begin, begin + count):
        records.append(make(entry(n), after))
        after = records[-1].head
    return records


def lines(records: Sequence[Record]) -> list[bytes]:
    return [record.line.encode() + b"\n" for record in records]


def check(*files: Sequence[bytes], known: Sequence[Head] = (), first_seq: int | None = 1) -> ChainVerdict:
    """The verdict over files given as lines, which are called a, b, c and so on."""
    return verify(
        [
            Source("abcdefgh"[n], io.BytesIO(b"".join(file)), first_seq=first_seq if n == 0 else None)
            for n, file in enumerate(files)
        ],
        known,
    )


def found(verdict: ChainVerdict) -> list[tuple[str, str, int, int]]:
    """What, file, line, seq."""
    return [(each.what, each.file, each.line, each.seq) for each in verdict.findings]
