"""Draw docs/architecture.svg from what the modules import. With --check: fail if the committed drawing differs.

A module belongs to the room with the longest prefix of its name. An arrow is an import between rooms; one that other
arrows already lead to is left out. It is an error if a package has no room, if an arrow would go upward, or if a room
of the bottom row imports one above it: then the code or `ROOMS` is to be mended.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import grimp

DRAWING: Final = Path(__file__).parents[1] / "docs" / "architecture.svg"
WIDTH: Final = 1000
BOX: Final = (220, 52)
COLUMNS: Final = (125, 375, 625, 875)
ROW: Final = 82
TOP: Final = 16
BOTTOM: Final = 9
"""The row whose rooms all others may import, without an arrow."""


@dataclass(frozen=True)
class Room:
    """A box. modules: prefixes of names of modules. column, row: its place. does: what it is for, one line."""

    name: str
    modules: tuple[str, ...]
    column: float
    row: int
    does: str


ROOMS: Final = (
    Room("kmsctl", ("kmsctl",), 0, 0, "commands, output, exit codes"),
    Room("kmstui", ("kmstui",), 1, 1, "screens, widgets, dialogs"),
    Room("cli", ("kmsd.cli", "kmsd.dev"), 2, 0, "command lines of kmsd"),
    Room("etcd", ("kmsd.etcd",), 0, 1, "counts what is stored, by key"),
    Room("daemon", ("kmsd.daemon",), 2, 1, "builds, wires and runs the others"),
    Room("client", ("kmsd.client",), 0, 2, "both APIs, in plain types"),
    Room("apis", ("kmsd.apis",), 2, 2, "protobuf to plain types and back"),
    Room("ca", ("kmsd.ca",), 1, 3, "issues and revokes certificates"),
    Room("transport", ("kmsd.transport",), 1, 5, "sockets, door, grpcio and h2corn"),
    Room("service", ("kmsd.service",), 2, 4, "encrypt, decrypt, status"),
    Room("est", ("kmsd.est",), 0, 3, "certificates for nodes, by EST"),
    Room("metrics", ("kmsd.metrics",), 3, 2, "metrics and probes, by HTTP"),
    Room("store", ("kmsd.store",), 0, 4, "shared by several kmsd, in SQL"),
    Room("jwt", ("kmsd.jwt",), 3, 3, "service account tokens"),
    Room("audit", ("kmsd.audit",), 3, 4, "records, chained and on the disk"),
    Room("keys", ("kmsd.keys",), 2, 5, "which key does what; rotation"),
    Room("crypto", ("kmsd.crypto",), 2, 6, "GCM, CBC with HMAC, OAEP"),
    Room("hsm.vendors", ("kmsd.hsm.vendors",), 1, 7, "quirks of tokens, TPM 2.0"),
    Room("hsm", ("kmsd.hsm",), 2, 7, "hosts, logins, queue of one token"),
    Room("hsm.doctor", ("kmsd.hsm.doctor",), 3, 7, "tries what a token really does"),
    Room("hsm.host", ("kmsd.hsm.host",), 2, 8, "one process for each token"),
    Room("formats", ("kmsd.formats",), 0, BOTTOM, "ciphertexts and key ids: pure"),
    Room("audit.chain", ("kmsd.audit.chain",), 1, BOTTOM, "form and proof of records: pure"),
    Room("observe", ("kmsd.observe",), 2, BOTTOM, "counts, health, logs"),
    Room("config", ("kmsd.config",), 3, BOTTOM, "settings, and where from"),
    Room("api", ("kmsd.api",), 0, BOTTOM + 1, "generated from protos/"),
    Room("etcd.envelope", ("kmsd.etcd.envelope",), 1, BOTTOM + 1, "what kube-apiserver stores"),
    Room("ca.ledger", ("kmsd.ca.ledger",), 2, BOTTOM + 1, "what a CA must remember: pure"),
    Room("", ("kmsd",), 2.5, BOTTOM + 2, ""),
)
TOKEN: Final = ("hsm", "hsm.vendors", "hsm.doctor", "hsm.host")
"""One room with four corners: what they import of each other is not drawn."""
UPWARD: Final = {("hsm", "crypto")}
"""The host is a program of its own, and brings the operations on a key with it."""


def main() -> int:
    drawn = draw()
    if "--check" not in sys.argv:
        DRAWING.write_text(drawn)
        return 0
    there = DRAWING.read_text() if DRAWING.exists() else ""
    if there == drawn:
        return 0
    sys.stderr.writelines(difflib.unified_diff(there.splitlines(True), drawn.splitlines(True), "committed", "drawn"))
    sys.stderr.write(f"docs/{DRAWING.name} is not what the code imports: run make gen\n")
    return 1


def room_of(module: str) -> Room:
    """Return the room that this module belongs to."""
    found = [(len(p), r) for r in ROOMS for p in r.modules if module == p or module.startswith(p + ".")]
    return max(found, key=lambda each: each[0])[1]


def imports() -> tuple[set[tuple[str, str]], list[str]]:
    """Return which room imports which, the token's corners as one, and the small modules that have no room."""
    graph = grimp.build_graph("kmsd", "kmsctl", "kmstui", cache_dir=None)
    rows = {room.name: room.row for room in ROOMS}
    found = set[tuple[str, str]]()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            room, used = (("hsm" if r.name in TOKEN else r.name) for r in (room_of(module), room_of(other)))
            if room == used or (room, used) in UPWARD:
                continue
            if rows[room] >= BOTTOM > rows[used] or (rows[used] < BOTTOM and rows[room] >= rows[used]):
                raise SystemExit(f"{module} imports {other}: upward in docs/{DRAWING.name}")
            found.add((room, used))
    small = sorted(m.removeprefix("kmsd.") for m in graph.modules if not room_of(m).name and m != "kmsd")
    if packages := {m.partition(".")[0] for m in small if "." in m}:
        raise SystemExit(f"kmsd.{min(packages)} has no room in docs/{DRAWING.name}: give it one in ROOMS")
    return found, small


def arrows(found: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the imports to draw: none into the bottom row, and none that other arrows lead to."""
    rows = {room.name: room.row for room in ROOMS}
    edges = {(a, b) for a, b in found if rows[b] < BOTTOM}

    def leads(a: str, b: str) -> bool:
        return (a, b) in edges or any(leads(other, b) for here, other in edges if here == a)

    return sorted((a, b) for a, b in edges if not any(leads(o, b) for h, o in edges if h == a and o != b))


def draw() -> str:
    """Return the SVG."""
    found, small = imports()
    height = place(ROOMS[-1])[1] + BOX[1] + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<title>The rooms of kmsd, kmsctl and kmstui, and what imports what</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#345"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        *frames(height),
        *lines(arrows(found)),
        *(part for room in ROOMS for part in box(room, small)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def place(room: Room) -> tuple[int, int]:
    """Return the middle of the upper edge of the room's box."""
    low, high = COLUMNS[int(room.column)], COLUMNS[min(int(room.column) + 1, len(COLUMNS) - 1)]
    return round(low + (high - low) * (room.column % 1)), TOP + room.row * ROW + (30 if room.row >= BOTTOM else 0) - (
        16 if room.row > BOTTOM else 0
    )


def box(room: Room, small: list[str]) -> Iterator[str]:
    x, y = place(room)
    if not room.name:
        half = (len(small) + 1) // 2
        yield rect(COLUMNS[2] - BOX[0] // 2, y, COLUMNS[3] - COLUMNS[2] + BOX[0], BOX[1], "#f4f4f4")
        for line, words in enumerate((small[:half], small[half:])):
            yield text(x, y + 22 + 19 * line, " · ".join(words), 11, mono=True)
        return
    fill = "#e8f1e4" if room.row >= BOTTOM else "#fdf0dc" if room.name in TOKEN else "#e6eef8"
    yield rect(x - BOX[0] // 2, y, *BOX, fill)
    yield text(x, y + 21, room.name, 15, mono=True, bold=True)
    yield text(x, y + 41, room.does, 12)


def lines(edges: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the arrows. Where several end or begin at a box they spread over its edge."""
    places = {room.name: place(room) for room in ROOMS}
    for a, b in edges:
        (x, y), (to_x, to_y) = places[a], places[b]
        lean = (to_x > x) - (to_x < x)
        yield arrow(x + lean * 60, y + BOX[1], to_x - lean * 60, to_y - 1 - (16 if b == "hsm" else 0))


def frames(height: int) -> Iterator[str]:
    """Yield what stands around the rooms: programs beside kmsd, sockets, and words."""
    rows = {room.name: place(room) for room in ROOMS}
    (left, y), (_, low) = rows["hsm.vendors"], rows["hsm.host"]
    half = BOX[0] // 2
    yield rect(left - half - 12, y - 16, COLUMNS[3] - left + BOX[0] + 24, low - y + BOX[1] + 28, "#fffaf2", "#caa")
    yield rect(8, rows["formats"][1] - 30, WIDTH - 16, height - rows["formats"][1] + 20, "#f8fbf7", "#9b9")
    words = "Imports of these have no arrow; they import nothing that is above."
    yield text(20, rows["formats"][1] - 11, words, 12, at="start")
    # What is no import: bytes over sockets, and the module in the host.
    x, y = rows["transport"]
    yield rect(COLUMNS[0] - half, y, *BOX, "#fff", "#888", dashed=True)
    yield text(COLUMNS[0], y + 31, "kube-apiserver", 14)
    yield arrow(COLUMNS[0] + half, y + 34, x - half, y + 34, dashed=True)
    yield text((COLUMNS[0] + x) // 2, y + BOX[1] + 16, "KMS socket", 11)
    yield arrow(COLUMNS[0] + half - 30, rows["client"][1] + BOX[1], x - half + 20, y - 1, dashed=True)
    yield text(COLUMNS[0] + half + 20, y - 18, "admin socket", 11, at="start")
    x, y = rows["hsm.host"]
    yield arrow(x, y - ROW + BOX[1], x, y - 1, dashed=True)
    yield text(x + 10, y - 12, "socket pair", 11, at="start")
    yield rect(COLUMNS[3] - half, y, *BOX, "#fff", "#888", dashed=True)
    yield text(COLUMNS[3], y + 31, "PKCS#11 module", 14)
    yield arrow(x + half, y + 26, COLUMNS[3] - half, y + 26, dashed=True)
    y = rows["crypto"][1]
    yield arrow(20, y + 6, 70, y + 6)
    yield text(80, y + 10, "imports; left out where other", 12, at="start")
    yield text(80, y + 26, "arrows lead there already", 12, at="start")
    yield arrow(20, y + 50, 70, y + 50, dashed=True)
    yield text(80, y + 54, "calls over a socket, or in C", 12, at="start")


def rect(x: int, y: int, width: int, height: int, fill: str, stroke: str = "#567", *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{stroke}"{dash}/>'


def arrow(x: int, y: int, to_x: int, to_y: int, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{x} {y}L{to_x} {to_y}" stroke="#345" stroke-width="1.4"{dash} marker-end="url(#head)"/>'


def text(x: int, y: int, words: str, size: int, *, at: str = "middle", mono: bool = False, bold: bool = False) -> str:
    style = (' font-family="monospace"' if mono else "") + (' font-weight="bold"' if bold else "")
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{at}"{style} fill="#123">{escape(words)}</text>'


if __name__ == "__main__":
    sys.exit(main())
