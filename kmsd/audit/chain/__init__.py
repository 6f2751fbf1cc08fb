"""The audit's records, one JSON object a line, each naming the hash of the one before; and the proof over them.

Pure, standard library only: kmsd writes with it, and whoever has the files can check them with it.

What the chain proves: that between the first and the last record that are there no line was changed, dropped, inserted,
moved or repeated, unless somebody computed every hash after it anew.

What it cannot prove, because there is no secret in it and whoever can write the files can hash:
- that the end was not rewritten: from some record on, all lines replaced by others with right hashes;
- that the end was not cut off, at whole lines;
- that the beginning was not cut off: old files are deleted by plan, and the chain then begins with the oldest kept.
The first two show against a head (seq and hash of the last record) that is known from elsewhere: `verify` takes such
heads. kmsd holds the present one in memory; `kmsctl audit verify`, WatchAudit and kmsd's log tell it, so that it can be
kept on another machine, and every record up to it is then fixed.
"""

from kmsd.audit.chain.proof import ChainFinding, ChainVerdict, verify, verify_files
from kmsd.audit.chain.reading import Source, files_of, matching, sources_of, tail
from kmsd.audit.chain.record import MAX_LINE, START, Entry, Head, Kind, NotARecord, Record, bounded, make, parse

__all__ = [
    "MAX_LINE",
    "START",
    "ChainFinding",
    "ChainVerdict",
    "Entry",
    "Head",
    "Kind",
    "NotARecord",
    "Record",
    "Source",
    "bounded",
    "files_of",
    "make",
    "matching",
    "parse",
    "sources_of",
    "tail",
    "verify",
    "verify_files",
]
