"""What kmstui costs while kmsd is busy, and how long a key press takes to show; printed.

Under load: a real kmsd on SoftHSM, and h2load with 2,000 requests a second. With many keys: `tests.bench.crowd`.
Other programs on the machine only ever add to what is measured here.
"""

from __future__ import annotations

import contextlib
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client import connect
from tests.bench.crowd import KEYS, RATE, label
from tests.bench.terminal import Lag, Program, Seen, echo, has
from tests.daemons import Kmsd, wait_for
from tests.tokens import make_token

SECONDS = 10
PRESSES = 40
HELD = 90
"""Presses of a key that is held down, 30 a second."""
SCREENS = {
    "1": has("Last events"),
    "2": has("Slots ("),
    "3": has("Keys ("),
    "4": has("Requests ("),
    "5": has("Wrote before, last used"),
    "6": has("Audit ("),
    "7": has("Settings ("),
}
"""What only this screen shows, and shows drawn anew."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kt") as name:
        folder = Path(name)
        _under_load(folder)
        _many_keys(folder)


def _under_load(folder: Path) -> None:
    token = make_token(folder / "token")
    (folder / "d").mkdir()
    with Kmsd(folder / "d", token, ("--log-level=info", "--auto-create")) as kmsd:
        kmsd.wait_ok()
        with _load(kmsd, folder), Program(kmsd.admin_socket, folder / "state") as kmstui:
            shown = kmstui.press("", has("SERVING"))
            print(f"{'first answer on the screen after':40} {shown[0].seconds * 1000:4.0f} ms")
            with connect(f"unix://{kmsd.admin_socket}") as client, client.watch_stats(history=3) as frames:
                seconds = next(iter(frames)).seconds
            print(f"kmsd answers {sum(each.requests for each in seconds) / len(seconds):.0f} requests a second")
            for key, name in (("4", "Traffic"), ("1", "Overview")):
                kmstui.press(key, SCREENS[key])
                _cost(kmstui, f"{RATE:,} requests/s, {name}")
            _lag("an echo, which is the terminal's part", echo(_pausing("x" * PRESSES)), "")
            _switching(kmstui, f"another screen, {RATE:,} requests/s")
            _rows_up(kmstui)
            _typing(kmstui)


def _cost(kmstui: Program, what: str) -> None:
    time.sleep(2)
    used, began, octets = kmstui.seconds_used(), time.perf_counter(), kmstui.octets
    time.sleep(SECONDS)
    elapsed = time.perf_counter() - began
    share = 100 * (kmstui.seconds_used() - used) / elapsed
    written = (kmstui.octets - octets) / elapsed / 1024
    print(f"{what:40} {share:4.1f} % of a core, {written:.1f} KiB/s written   (goal: < 15)")


def _lag(what: str, taken: Sequence[Lag], goal: str = "  (goal: < 100)") -> None:
    """As it was, and as it would have been with a processor of its own."""
    shown = sorted(1000 * each.seconds for each in taken)
    own = sorted(1000 * (each.seconds - each.queued) for each in taken)
    print(f"{what:40} {_spread(shown)}; on its own {_spread(own)}{goal}")


def _spread(ordered: Sequence[float]) -> str:
    most = ordered[-1 - len(ordered) // 100]
    return f"{ordered[len(ordered) // 2]:4.0f} ms median, {most:.0f} p99, {ordered[-1]:.0f} at worst"


def _switching(kmstui: Program, what: str) -> None:
    """All screens in turn, and back: each is drawn for the first time within seven presses."""
    orders = ("1234567", "7654321", "1357246", "6427531", "1473625")
    _lag(what, [kmstui.press(key, SCREENS[key])[0] for order in orders for key in _pausing(order[1:])])


def _pausing(keys: str) -> Iterator[str]:
    for key in keys:
        time.sleep(0.21)  # other than any rhythm of kmstui's own
        yield key


def _rows_up(kmstui: Program) -> None:
    """Among the records of the audit, as more of them come in."""
    kmstui.press("6", SCREENS["6"], has("─ Record "))
    kmstui.press("k", has("─ Record "))
    time.sleep(3)
    taken, before = list[Lag](), _record(kmstui.written())
    for key in _pausing("k" * PRESSES):
        taken += kmstui.press(key, _another(before))
        before = _record(kmstui.written())
    _lag(f"a row up in the audit, {RATE:,} requests/s", taken)


def _another(record: str) -> Seen:
    return lambda written: _record(written) not in ("", record)


def _record(written: str) -> str:
    """The number of the record that the pane beside the table tells of."""
    found = re.findall(r"─ Record (\d+) ─", written)
    return found[-1] if found else ""


def _typing(kmstui: Program) -> None:
    """Into the filter of the calls, until each character stands in the title of the table."""
    kmstui.press("4", SCREENS["4"])
    kmstui.press("/", has("regular expression"))
    typed, taken = "", list[Lag]()
    for character in _pausing("abcdefghij" * 3):
        typed += character
        taken += kmstui.press(character, has(f"/{typed}"[:30]))
    _lag(f"typing a filter, {RATE:,} requests/s", taken)
    kmstui.press("\x1b", has("Requests ("))


def _many_keys(folder: Path) -> None:
    directory = folder / "crowd"
    directory.mkdir()
    with subprocess.Popen([sys.executable, "-m", "tests.bench.crowd", str(directory)]) as server:
        try:
            wait_for((directory / "admin.sock").exists)
            _among_many(directory / "admin.sock", folder / "state2")
        finally:
            server.terminate()


def _among_many(socket: Path, state: Path) -> None:
    with Program(socket, state) as kmstui:
        kmstui.press("", has("SERVING"))
        shown = kmstui.press("3", has(f"Keys ({KEYS:,})"))
        what = f"{KEYS:,} keys on the screen after"
        print(f"{what:40} {shown[0].seconds * 1000:4.0f} ms, {kmstui.resident():.0f} MiB resident")
        time.sleep(1)
        _rows_down(kmstui)
        _held(kmstui)
        _filter(kmstui)
        _switching(kmstui, f"another screen, {KEYS:,} keys")
        kmstui.press("3", SCREENS["3"])
        _cost(kmstui, f"{RATE:,} requests/s, {KEYS:,} keys, Keys")
        print(f"{'in the end':40} {kmstui.resident():4.0f} MiB resident")


def _chosen(row: int) -> Seen:
    """The pane beside the table tells of this row: that comes last."""
    return has(f"─ {label(row)} ─")


def _rows_down(kmstui: Program) -> None:
    taken = list[Lag]()
    for row, key in enumerate(_pausing("j" * PRESSES), 1):
        taken += kmstui.press(key, _chosen(row))
    _lag(f"a row down in {KEYS:,}", taken)
    taken = list[Lag]()
    for key in _pausing("Gg" * (PRESSES // 4)):
        taken += kmstui.press(key, _chosen(KEYS - 1 if key == "G" else 0))
    _lag(f"to the last of {KEYS:,} and back", taken)


def _held(kmstui: Program) -> None:
    """The down key held for three seconds, several times: how late the last press shows."""
    taken = list[Lag]()
    for turn in range(1, 6):
        for _ in range(HELD - 1):
            kmstui.press("j")
            time.sleep(1 / 30)
        taken += kmstui.press("j", _chosen(turn * HELD))
    kmstui.press("g", _chosen(0))
    _lag("the last row of 90 with the key held", taken)


def _filter(kmstui: Program) -> None:
    """Not a word that stands in a row, so that only what is typed can be what is seen."""
    echoed, found = list[Lag](), list[Lag]()
    for pattern in ("k.y-0999", "[k]ey-.*77", "!k.y-0[0-8]"):
        kmstui.press("/", has("regular expression"))
        for length in range(1, len(pattern) + 1):
            time.sleep(0.21)
            times = _typed(kmstui, pattern[:length])
            if length > 1:
                echoed.append(times[0])
            found += times[1:]
        kmstui.press("\x1b", has(f"Keys ({KEYS:,})"))
    _lag(f"typing a filter over {KEYS:,} keys", echoed)
    _lag("and what it keeps", found, "")


def _typed(kmstui: Program, pattern: str) -> list[Lag]:
    """Until the last character shows, and until what is kept does; the latter only if it is a filter yet."""
    sought = pattern.removeprefix("!")
    try:
        found = sum(bool(re.search(sought, label(number))) for number in range(KEYS))
    except re.error:
        sought = ""
    if not sought:
        return kmstui.press(pattern[-1], has(pattern))
    kept = KEYS - found if sought != pattern else found
    return kmstui.press(pattern[-1], has(pattern), has(f"({kept:,} of {KEYS:,})", pattern))


@contextlib.contextmanager
def _load(kmsd: Kmsd, folder: Path) -> Iterator[None]:
    """2,000 Decrypts a second."""
    made = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"p" * 32, uid="bench"))
    request = v2.DecryptRequest(ciphertext=made.ciphertext, uid="0192c3a1-77f0-7b1e", key_id=made.key_id)
    body = folder / "decrypt"
    data = request.SerializeToString()
    body.write_bytes(b"\0" + struct.pack(">I", len(data)) + data)
    command = [
        "h2load", "--duration=300", f"--rps={RATE}", "--clients=1", "--max-concurrent-streams=16", f"--data={body}",
        "--header=content-type: application/grpc", "--header=te: trailers", f"--base-uri=unix:{kmsd.socket}",
        "http://localhost/v2.KeyManagementService/Decrypt",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        try:
            time.sleep(3)
            yield
        finally:
            load.terminate()


if __name__ == "__main__":
    main()
