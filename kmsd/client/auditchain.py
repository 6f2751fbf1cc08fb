"""The audit's chain, checked by whoever has its files. Asks no kmsd, and loads neither grpc nor protobuf."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from kmsd.auditchain import MAX_LINE, Head, NotARecord, Source, parse, verify
from kmsd.client.errors import InvalidRequest
from kmsd.client.model import AuditVerdict

_HEAD = re.compile(r"([1-9][0-9]{0,18}):([0-9a-f]{64})")


def verify_audit_files(files: Sequence[str], known: Collection[Head] = ()) -> AuditVerdict:
    """Checks files as one chain, in the order of their first records. It may begin anywhere.

    known: heads that the chain has had. Raises InvalidRequest if a file cannot be read.
    """
    with ExitStack() as stack:
        try:
            opened = [(file, stack.enter_context(Path(file).open("rb"))) for file in files]
            # One alone needs no order, and may be a pipe.
            first = [_first_seq(stream) for _, stream in opened] if len(opened) > 1 else []
            if first and all(first):
                opened = [each for _, each in sorted(zip(first, opened, strict=True), key=lambda pair: pair[0])]
            found = verify([Source(file, stream) for file, stream in opened], known)
        except OSError as error:
            raise InvalidRequest(
                f"cannot read {error.filename or 'the audit trail'}: {error.strerror}",
                "name the files of an audit trail",
                "INVALID_ARGUMENT",
            ) from error
    return AuditVerdict(
        intact=found.intact,
        records=found.records,
        first_seq=found.first_seq,
        last_seq=found.head.seq,
        head=found.head.hash if found.head.seq else "",
        files=found.files,
        problem=found.problem,
    )


def parse_head(text: str) -> Head:
    """From SEQ:HASH, as `kmsctl audit verify` tells it. Raises ValueError."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise ValueError("a head is written as SEQ:HASH, the hash in 64 hexadecimal digits")
    return Head(int(match[1]), match[2])


def _first_seq(stream: BinaryIO) -> int:
    """Of the record that the file begins with; 0 if it begins with none."""
    line = stream.readline(MAX_LINE + 1)
    stream.seek(0)
    try:
        return parse(line).seq
    except NotARecord:
        return 0
