"""Draw docs/screenshots/dashboard.svg: the panels of the dashboard with what Prometheus recorded of a real kmsd.

A kmsd serves on a token that goes away for a while, a Prometheus scrapes it and answers each panel's query, and what it
answers is drawn on the dashboard's grid. Grafana is not there: its look is not claimed, its panels and queries are.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Final

import grpc

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import make_chaos
from tests.daemons import Kmsd, wait_for
from tests.remote.conftest import free_port

ROOT: Final = Path(__file__).parents[2]
DASHBOARD: Final = json.loads((ROOT / "k8s" / "monitoring" / "dashboard.json").read_text())
PICTURE: Final = ROOT / "docs" / "screenshots" / "dashboard.svg"
SEED: Final = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
SECONDS: Final = 60
ROTATED, AWAY, BACK = 15, 30, 42
"""Seconds at which the write key changes, and between which the token is away."""
COLUMN, LINE = 50, 26
"""Pixels of one place on Grafana's grid."""
COLOURS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#c8f2c2")
WITHOUT: Final = ("Tenants of a key manager", "Key managers of proxies")
"""Rows that a kmsd without tenants and without upstreams has nothing for."""

Series = tuple[str, list[tuple[float, float]]]
"""A legend, and points: seconds, value."""


def main() -> int:
    """Record and draw."""
    with tempfile.TemporaryDirectory(prefix="k") as name:
        begin, end, answers = _record(Path(name))
    PICTURE.write_text(_draw(begin, end, answers))
    return 0


def _record(folder: Path) -> tuple[float, float, dict[int, list[Series]]]:
    """Return when it began and ended, and what each panel's queries answered, by the panel's id."""
    token = make_chaos(folder / "hsm")
    port, prometheus = free_port(), free_port()
    (folder / "d").mkdir()
    environment = {
        **token.environment,
        "KMSD_OBSERVE__LISTEN": f"127.0.0.1:{port}",
        "KMSD_HEALTH__INTERVAL": "1",
        "KMSD_KEYS__REFRESH": "1",
    }
    with Kmsd(folder / "d", token, (*token.flags, "--auto-create"), environment, default_flags=False).start() as kmsd:
        kmsd.wait_ok()
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: kmsd, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
        )
        server = subprocess.Popen(
            [
                *("prometheus", f"--config.file={folder / 'prometheus.yml'}", "--log.level=error"),
                *(f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{prometheus}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: _answer(prometheus, "up", 0, 1) is not None)
            begin = time.time()
            threading.Thread(target=_load, args=(kmsd, begin + SECONDS), daemon=True).start()
            _sleep_until(begin + ROTATED)
            kmsd.admin("RotateKey")
            _sleep_until(begin + AWAY)
            with token.told("C_Login rv=0x30", "C_EncryptInit rv=0x30", "C_DecryptInit rv=0x30"):
                _sleep_until(begin + BACK)
            _sleep_until(begin + SECONDS)
            answers = {panel["id"]: list(_panel(prometheus, panel, begin)) for panel in DASHBOARD["panels"]}
        finally:
            server.terminate()
            server.wait()
    return begin, begin + SECONDS, answers


def _load(kmsd: Kmsd, until: float) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    while time.time() < until:
        try:
            sealed = kmsd.v2("Encrypt", SEED)
            for _ in range(4):
                kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id))
        except grpc.RpcError:
            pass
        time.sleep(0.02)


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.time()))


def _panel(port: int, panel: dict[str, Any], begin: float) -> Iterator[Series]:
    for target in panel.get("targets", ()):
        query = target["expr"].replace("$__rate_interval", "5s").replace("$job", ".*").replace("$instance", ".*")
        for found in _answer(port, query, begin, begin + SECONDS) or ():
            legend = target["legendFormat"]
            for label, value in found["metric"].items():
                legend = legend.replace(f"{{{{{label}}}}}", value[:18])
            legend = re.sub(r" ?\{\{\w+\}\}", "", legend)
            points = [(float(at), float(value)) for at, value in found["values"]]
            yield legend, [(at, value) for at, value in points if math.isfinite(value)]


def _answer(port: int, query: str, begin: float, end: float) -> list[Any] | None:
    asked = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": 1})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{asked}", timeout=10) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return None


def _draw(begin: float, end: float, answers: dict[int, list[Series]]) -> str:
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    bottom = next(panel["gridPos"]["y"] for panel in rows if panel["title"] in WITHOUT)
    width, height = 24 * COLUMN, bottom * LINE + 46
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#111217"/>',
    ]
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        if at["y"] >= bottom:
            continue
        box = (at["x"] * COLUMN + 3, at["y"] * LINE + 3, at["w"] * COLUMN - 6, at["h"] * LINE - 6)
        if panel["type"] == "row":
            parts.append(_text(box[0], box[1] + 15, panel["title"], "#ccccdc", bold=True))
            continue
        parts.append(
            f'<rect x="{box[0]}" y="{box[1]}" width="{box[2]}" height="{box[3]}" fill="#181b1f" stroke="#2c3235"/>'
        )
        parts.append(_text(box[0] + 6, box[1] + 15, panel["title"], "#ccccdc"))
        draw = _stat if panel["type"] == "stat" else _lines
        parts.extend(draw(panel, box, answers[panel["id"]], begin, end))
    told = (
        f"The write key changes at {ROTATED} s, the token answers with errors from {AWAY} to {BACK} s.",
        "Panels and queries of k8s/monitoring/dashboard.json, and what Prometheus recorded of a real kmsd; drawn by "
        "tests/observe/picture.py, not by Grafana.",
    )
    parts += [_text(6, height - 28 + 16 * number, words, "#8e8e9c") for number, words in enumerate(told)]
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


Box = tuple[int, int, int, int]


def _stat(panel: dict[str, Any], box: Box, series: list[Series], begin: float, end: float) -> Iterator[str]:
    value = series[0][1][-1][1] if series and series[0][1] else math.nan
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
    shown = "no data" if math.isnan(value) else _value(value, panel["fieldConfig"]["defaults"]["unit"])
    middle = box[0] + box[2] // 2
    fill = "#8e8e9c" if math.isnan(value) else {"green": COLOURS[0], "red": COLOURS[4]}[colour]
    at = f'x="{middle}" y="{box[1] + 62}"'
    yield f'<text {at} fill="{fill}" font-size="30" text-anchor="middle">{escape(shown)}</text>'


def _lines(panel: dict[str, Any], box: Box, series: list[Series], begin: float, end: float) -> Iterator[str]:
    left, top, width, height = box[0] + 54, box[1] + 26, box[2] - 62, box[3] - 62
    most = max((value for _, points in series for _, value in points), default=0.0) or 1.0
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for part in (0.0, 0.5, 1.0):
        y = top + height * (1 - part)
        yield f'<line x1="{left}" y1="{y:.0f}" x2="{left + width}" y2="{y:.0f}" stroke="#2c3235"/>'
        yield _text(left - 5, y + 4, _value(most * part, unit), "#8e8e9c", anchor="end")
    for seconds in range(0, SECONDS + 1, 20):
        yield _text(left + width * seconds / SECONDS, top + height + 13, f"{seconds} s", "#8e8e9c", anchor="middle")
    x = box[0] + 8
    for number, (legend, points) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        path, last = "", -math.inf
        for at, value in points:
            go = "L" if at - last < 2 else "M"  # what is not there is not drawn
            path += f"{go}{left + width * (at - begin) / (end - begin):.1f},{top + height * (1 - value / most):.1f}"
            last = at
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if x + 8 * len(legend) < box[0] + box[2]:
            yield f'<rect x="{x}" y="{box[1] + box[3] - 14}" width="8" height="3" fill="{colour}"/>'
            yield _text(x + 11, box[1] + box[3] - 9, legend, "#ccccdc")
            x += 22 + round(6.2 * len(legend))
    if not series:
        yield _text(left + width // 2, top + height // 2, "no data", "#8e8e9c", anchor="middle")


def _value(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "bool_yes_no":
            return "yes" if value >= 1 else "no" if value == 0 else ""
        case "s" if value >= 2 * 86400:
            return f"{value / 86400:.0f} days"
        case "s" if 0 < value < 1:
            return f"{value * 1000:.3g} ms"
        case "s":
            return f"{value:.3g} s"
        case "reqps" | "ops":
            return f"{value:.3g}/s"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, colour: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


if __name__ == "__main__":
    sys.exit(main())
