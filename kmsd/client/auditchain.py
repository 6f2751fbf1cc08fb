"""The audit's chains, checked by whoever has their files. Asks no kmsd, and loads neither grpc nor protobuf."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from kmsd.audit.chain import MAX_LINE, Head, NotARecord, Source, parse, verify
from kmsd.client.errors import InvalidRequest
from kmsd.client.model.audit import AuditChain, AuditVerdict

MAIN: Final = "main"
KMS: Final = "kms"
_ANCHOR: Final = re.compile(r"(kms:)?([1-9][0-9]{0,18})(:[0-9a-f]{64})?")
_ASIDE: Final = re.compile(r"-[1-9][0-9]{0,18}\Z")


@dataclass(frozen=True)
class Anchor:
    """A record of a chain that is known from elsewhere, by seq and hash; or, without a hash, the record that the chain
    may begin with. kms: whether it is said to be of the chain of the calls of the KMS APIs."""

    seq: int
    hash: str
    kms: bool


def verify_audit_files(files: Sequence[str], anchors: Collection[Anchor] = ()) -> AuditVerdict:
    """Check files as one chain, in the order of their first records; as two, if those of the KMS APIs (`audit-kms`) are
    among them beside the others (`audit`).

    A chain has to hold records, and to begin with record 1; or with one that an anchor without a hash names, or an
    earlier one; or without such an anchor to hold, or to follow right after, every other anchor. Raises InvalidRequest.
    """
    named = _chains(files)
    found = {name: [anchor for anchor in anchors if _is_of(anchor, name, named)] for name in named}
    if sum(map(len, found.values())) < len(anchors):
        raise InvalidRequest(
            "a head or a beginning is of the chain of the KMS APIs, and none of its files is among the FILEs",
            "name them too (audit-kms*.jsonl)",
            "INVALID_ARGUMENT",
        )
    chains = tuple(_verify(name, each, found[name]) for name, each in named.items())
    first = chains[0]
    return AuditVerdict(
        intact=all(chain.intact for chain in chains),
        records=first.records,
        first_seq=first.first_seq,
        last_seq=first.last_seq,
        head=first.head,
        files=first.files,
        problem="; ".join(chain.problem for chain in chains if chain.problem),
        chains=chains,
    )


def parse_anchor(text: str) -> Anchor:
    """Parse [kms:]SEQ:HASH, as `kmsctl audit verify` tells it, or [kms:]SEQ. Raises ValueError."""
    match = _ANCHOR.fullmatch(text)
    if match is None:
        raise ValueError("expected a record as [kms:]SEQ or [kms:]SEQ:HASH, the hash in 64 hexadecimal digits")
    return Anchor(int(match[2]), (match[3] or "").removeprefix(":"), kms=match[1] is not None)


def _chains(files: Sequence[str]) -> dict[str, list[str]]:
    """Sort files by their chain, the main one first."""
    stems = {file: _ASIDE.sub("", Path(file).stem) for file in files}
    # A file called audit-kms without another chain beside it is checked as a single chain.
    kms = [file for file in files if stems[file].endswith("-kms") and stems[file][:-4] in stems.values()]
    if kms:
        return {MAIN: [file for file in files if file not in kms], KMS: kms}
    return {KMS if all(stem.endswith("-kms") for stem in stems.values()) else MAIN: list(files)}


def _is_of(anchor: Anchor, name: str, named: Collection[str]) -> bool:
    return name == KMS if anchor.kms else name == MAIN or len(named) == 1


def _verify(name: str, files: Sequence[str], anchors: Sequence[Anchor]) -> AuditChain:
    begins = [anchor.seq for anchor in anchors if not anchor.hash]
    known = [Head(anchor.seq, anchor.hash) for anchor in anchors if anchor.hash]
    # Records before a known head may be missing; from the head on all have to be there.
    begins_at = max(begins) if begins else min((head.seq for head in known), default=0) + 1
    with ExitStack() as stack:
        try:
            opened = [(file, stack.enter_context(Path(file).open("rb"))) for file in files]
            # One alone needs no order, and may be a pipe.
            first = [_first_seq(stream) for _, stream in opened] if len(opened) > 1 else []
            if first and all(first):
                opened = [each for _, each in sorted(zip(first, opened, strict=True), key=lambda pair: pair[0])]
            found = verify([Source(file, stream) for file, stream in opened], known, begins_at)
        except OSError as error:
            raise InvalidRequest(
                f"cannot read {error.filename or 'the audit trail'}: {error.strerror}",
                "name the files of an audit trail",
                "INVALID_ARGUMENT",
            ) from error
    empty = "" if found.records else f"{', '.join(files)}: there is no record, and so nothing is proved"
    return AuditChain(
        name=name,
        intact=found.intact and not empty,
        records=found.records,
        first_seq=found.first_seq,
        last_seq=found.head.seq,
        head=found.head.hash if found.head.seq else "",
        files=found.files,
        problem=found.problem or empty,
    )


def _first_seq(stream: BinaryIO) -> int:
    """Return the seq of the record that the file begins with; 0 if it begins with none."""
    line = stream.readline(MAX_LINE + 1)
    stream.seek(0)
    try:
        return parse(line).seq
    except NotARecord:
        return 0
