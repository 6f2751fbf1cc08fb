"""The dashboard is one that Grafana takes, and asks for metrics that there are, in queries that Prometheus takes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from kmsd.metrics.catalogue import METRICS

FILE = Path(__file__).parents[2] / "k8s" / "monitoring" / "dashboard.json"
SHOWN: dict[str, Any] = json.loads(FILE.read_text())
QUERIES = [target["expr"] for panel in SHOWN["panels"] for target in panel.get("targets", ())]


def _lost(ours: Any, read: Any, place: str = "") -> Iterator[str]:
    """Yield what is in the dashboard and not in what was read of it: Grafana would not know it."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            yield from _lost(value, read[name], f"{place}.{name}") if name in read else (f"{place}.{name}",)
    elif isinstance(ours, list):
        if len(ours) != len(read):
            yield place
        for number, (one, other) in enumerate(zip(ours, read, strict=False)):
            yield from _lost(one, other, f"{place}[{number}]")
    elif ours != read:
        yield f"{place}: {ours!r} is read as {read!r}"


def test_grafanas_schema_knows_all_of_it() -> None:
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(SHOWN)))
    assert list(_lost(SHOWN, read)) == []


def test_no_two_panels_overlap_and_each_is_on_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in SHOWN["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_prometheus_takes_every_query_and_kmsd_has_every_metric(tmp_path: Path) -> None:
    known = {metric.name for metric in METRICS}
    named = {re.sub("_(bucket|count|sum)$", "", name) for query in QUERIES for name in re.findall(r"\bkmsd_\w+", query)}
    assert named <= known
    rules = [
        {"record": f"q{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_one_command_has_all_of_it_for_the_operator() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(FILE.parent)], capture_output=True, text=True, check=True, timeout=60
    )
    documents = {each["kind"]: each for each in yaml.safe_load_all(built.stdout)}
    assert documents.keys() == {"ConfigMap", "PodMonitor", "PrometheusRule"}
    assert json.loads(documents["ConfigMap"]["data"]["dashboard.json"]) == SHOWN
    assert documents["ConfigMap"]["metadata"]["labels"] == {"grafana_dashboard": "1"}
