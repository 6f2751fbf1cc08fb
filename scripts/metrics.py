"""Write docs/metrics.md from the catalogue of metrics, and the alerts for Prometheus' operator from k8s/monitoring.
With --check: fail if what is committed differs."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from textwrap import indent
from typing import Final

from kmsd.metrics.catalogue import METRICS, Metric

ROOT: Final = Path(__file__).parents[1]
MONITORING: Final = ROOT / "k8s" / "monitoring"
_UNITS: Final = (
    ("_timestamp_seconds", "Unix seconds"),
    ("_start_time_seconds", "Unix seconds"),
    ("_expiry_seconds", "Unix seconds"),
    ("_certificate_start_seconds", "Unix seconds"),
    ("_seconds", "seconds"),
    ("_ratio", "ratio"),
    ("_info", "1"),
)
_HEAD: Final = """\
# Metrics

<!-- Written by `make gen` from kmsd/metrics/catalogue.py: change that, not this page. -->

Every metric that kmsd tells, at `/metrics` ([observability.md](observability.md#metrics-and-probes)) and by
`kmsctl stats -o prometheus`. A name stays, and so does its meaning; labels may be added. A metric is missing where
there is nothing to tell: those of upstreams are a proxy's, those of tokens and keys are not.

- A **counter** counts since kmsd started, but for `kmsd_audit_records_total`, which goes on where the audit does.
- `key_id_hash` is what kube-apiserver's own metrics have under that name: `sha256:` and the hash of the key id.
- `tenant` is empty for kmsd's own sockets. `token` is the token's name in the configuration.
- A **histogram** has 24 buckets, from 14 microseconds to 66 seconds, each bound 1.95 times the one before. They are
  sums of the buckets that `kmsctl stats` has its quantiles from, and nothing is counted twice.
- The number of series has a bound whatever callers do: APIs, methods and codes are kmsd's own; tenants and tokens are
  those of the configuration; of keys the write keys and 50 others have series, the rest is `other`.
- `kmsd_process_*` (resident and virtual memory, CPU, open files, start) are those of prometheus-client for kmsd's own
  process; the processes of tokens are not among them.

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
"""


_OPERATOR: Final = """\
# The alerts of rules.yml for Prometheus' operator. Written by `make gen`: change rules.yml, not this.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: kmsd
  labels:
    app.kubernetes.io/name: kmsd
spec:
"""


def main() -> int:
    """Write the files, or compare them."""
    rules = (MONITORING / "rules.yml").read_text()
    return max(
        write(ROOT / "docs" / "metrics.md", _HEAD + "".join(map(_row, METRICS))),
        write(MONITORING / "prometheusrule.yaml", _OPERATOR + indent(rules[rules.index("groups:") :], "  ")),
    )


def write(path: Path, text: str) -> int:
    """Write a file, or with --check tell how it differs. Returns the exit code."""
    if "--check" not in sys.argv:
        path.write_text(text)
        return 0
    there = path.read_text() if path.exists() else ""
    if there == text:
        return 0
    sys.stderr.writelines(difflib.unified_diff(there.splitlines(True), text.splitlines(True), "committed", "generated"))
    sys.stderr.write(f"{path.relative_to(ROOT)} is not what the code says: run make gen\n")
    return 1


def _row(metric: Metric) -> str:
    unit = next((unit for end, unit in _UNITS if metric.name.endswith(end)), "")
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {unit} | {labels} | {metric.help} |\n"


if __name__ == "__main__":
    sys.exit(main())
