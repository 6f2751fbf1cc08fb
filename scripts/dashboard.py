"""Write k8s/monitoring/dashboard.json, the dashboard for Grafana. With --check: fail if what is committed differs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal

from metrics import MONITORING, write

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_OURS: Final = 'job=~"$job",instance=~"$instance"'
_WIDTH: Final = 24
_KMS: Final = f'api=~"v2|v1beta1",{_OURS}'


@dataclass(frozen=True)
class Panel:
    """A panel. queries: each with the legend of its series. width, height: on Grafana's grid of 24 columns. good: of a
    stat, the value from which on it is green, or up to which if `less` is set."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    height: int = 7
    good: float = 1.0
    less: bool = False
    help: str = ""


def _stat(title: str, query: str, unit: str, good: float, *, less: bool = False, help_: str = "") -> Panel:
    return Panel(title, ((query, ""),), unit, "stat", 4, 4, good, less, help_)


def _rate(metric: str, by: str, which: str = _OURS) -> str:
    return f"sum by ({by}) (rate({metric}{{{which}}}[$__rate_interval]))"


def _quantile(fraction: float, metric: str, by: str, which: str) -> str:
    return f"histogram_quantile({fraction}, {_rate(f'{metric}_bucket', f'le, {by}', which)})"


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Now",
        (
            _stat(
                "Kmsd that are well",
                f"sum(kmsd_health_ok{{{_OURS}}}) / count(kmsd_health_ok{{{_OURS}}})",
                "percentunit",
                1,
                help_="Whose last round trip with the write key worked.",
            ),
            _stat(
                "Tokens that are there",
                f"sum(kmsd_hsm_up{{{_OURS}}}) / count(kmsd_hsm_up{{{_OURS}}})",
                "percentunit",
                1,
            ),
            _stat(
                "Problems",
                f"sum(kmsd_problems{{{_OURS}}})",
                "short",
                0,
                less=True,
                help_="As kmsctl status shows them.",
            ),
            _stat(
                "Write keys",
                f"max(count by (tenant) (count by (tenant, key_id_hash) (kmsd_write_key_info{{{_OURS}}})))",
                "short",
                1,
                less=True,
                help_="More than one for long: the nodes disagree.",
            ),
            _stat(
                "Age of the write key",
                f"time() - min(kmsd_write_key_created_timestamp_seconds{{{_OURS}}})",
                "s",
                90 * 86400,
                less=True,
            ),
            _stat(
                "Until a certificate ends", f"min(kmsd_certificate_expiry_seconds{{{_OURS}}}) - time()", "s", 14 * 86400
            ),
        ),
    ),
    (
        "Calls",
        (
            Panel("Calls", ((_rate("kmsd_rpc_requests_total", "api, method", _KMS), "{{api}} {{method}}"),), "reqps"),
            Panel(
                "Calls that failed",
                (
                    (
                        _rate("kmsd_rpc_requests_total", "method, code", f'code!="OK",{_KMS}') + " > 0",
                        "{{method}} {{code}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Time of calls",
                tuple(
                    (
                        _quantile(fraction, "kmsd_rpc_duration_seconds", "method", _KMS),
                        f"{{{{method}}}} p{fraction * 100:.0f}",
                    )
                    for fraction in (0.5, 0.99)
                ),
                "s",
            ),
        ),
    ),
    (
        "Tokens",
        (
            Panel(
                "Time of operations, p99",
                ((_quantile(0.99, "kmsd_hsm_operation_duration_seconds", "op", _OURS), "{{op}}"),),
                "s",
            ),
            Panel(
                "Sessions and queue",
                (
                    (f"sum by (token, state) (kmsd_hsm_sessions{{{_OURS}}})", "{{token}} {{state}}"),
                    (f"sum by (token) (kmsd_hsm_queue_length{{{_OURS}}})", "{{token}} waiting"),
                ),
            ),
            Panel(
                "Refused calls and new processes",
                (
                    (
                        _rate("kmsd_hsm_queue_refused_total", "token").replace("rate(", "increase(", 1),
                        "{{token}} refused",
                    ),
                    (
                        _rate("kmsd_hsm_hosts_started_total", "token").replace("rate(", "increase(", 1),
                        "{{token}} processes",
                    ),
                ),
            ),
        ),
    ),
    (
        "Keys",
        (
            Panel(
                "Uses of keys",
                ((_rate("kmsd_key_operations_total", "key_id_hash, op") + " > 0", "{{op}} {{key_id_hash}}"),),
                "ops",
            ),
            Panel(
                "The write key is followed",
                ((f"min by (instance, tenant) (kmsd_write_key_followed{{{_OURS}}})", "{{instance}} {{tenant}}"),),
                "bool_yes_no",
            ),
            Panel(
                "Encryptions of what a key may do",
                ((f"sum by (job, tenant) (kmsd_write_key_gcm_budget_ratio{{{_OURS}}})", "{{job}} {{tenant}}"),),
                "percentunit",
            ),
            Panel("Values of other programs", ((_rate("kmsd_legacy_decrypts_total", "format"), "{{format}}"),), "ops"),
            Panel(
                "Stored objects by key, at the last scan",
                ((f"max by (key_id_hash) (kmsd_etcd_scan_objects{{{_OURS}}})", "{{key_id_hash}}"),),
            ),
            Panel(
                "Until certificates end",
                ((f"kmsd_certificate_expiry_seconds{{{_OURS}}} - time()", "{{instance}} {{use}} {{tenant}}"),),
                "s",
            ),
        ),
    ),
    (
        "Health and audit",
        (
            Panel(
                "Round trip with the write key",
                ((f"kmsd_health_round_trip_seconds{{{_OURS}}}", "{{instance}} {{tenant}}"),),
                "s",
            ),
            Panel(
                "Since a round trip ended",
                ((f"kmsd_health_check_age_seconds{{{_OURS}}}", "{{instance}} {{tenant}}"),),
                "s",
            ),
            Panel(
                "Audit",
                (
                    (_rate("kmsd_audit_records_total", "chain"), "{{chain}} written"),
                    (_rate("kmsd_audit_lost_records_total", "chain"), "{{chain}} lost"),
                    (f"sum by (chain) (kmsd_audit_waiting_records{{{_OURS}}})", "{{chain}} waiting"),
                    (f"sum(kmsd_audit_disturbances{{{_OURS}}})", "disturbances"),
                ),
            ),
        ),
    ),
    (
        "Tenants of a key manager",
        (
            Panel(
                "Calls of tenants",
                ((_rate("kmsd_tenant_rpc_duration_seconds_count", "tenant"), "{{tenant}}"),),
                "reqps",
            ),
            Panel(
                "Calls of tenants that failed",
                ((_rate("kmsd_tenant_rpc_errors_total", "tenant") + " > 0", "{{tenant}}"),),
                "reqps",
            ),
            Panel(
                "Tenants that are well",
                ((f'min by (tenant) (kmsd_health_ok{{tenant!="",{_OURS}}})', "{{tenant}}"),),
                "bool_yes_no",
            ),
        ),
    ),
    (
        "Key managers of proxies",
        (
            Panel(
                "Calls to key managers", ((_rate("kmsd_upstream_requests_total", "upstream"), "{{upstream}}"),), "reqps"
            ),
            Panel(
                "Calls that they did not answer",
                ((_rate("kmsd_upstream_failures_total", "upstream"), "{{upstream}}"),),
                "reqps",
            ),
            Panel(
                "Round trip to key managers",
                ((f"kmsd_upstream_round_trip_seconds{{{_OURS}}}", "{{instance}} {{upstream}}"),),
                "s",
            ),
        ),
    ),
)


def main() -> int:
    """Write the file, or compare it."""
    return write(MONITORING / "dashboard.json", json.dumps(dashboard(), indent=1) + "\n")


def dashboard() -> dict[str, Any]:
    """Return the dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
            }
        )  # fmt: skip
        top, left, height = top + 1, 0, 0
        for panel in row:
            if left + panel.width > _WIDTH:
                top, left = top + height, 0
            at = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, "gridPos": at, **_panel(panel)})
            left, height = left + panel.width, panel.height
        top += height
    return {
        "uid": "kmsd",
        "title": "kmsd",
        "tags": ["kmsd", "kubernetes", "kms"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 38,
        "version": 1,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _variable("job", ""), _variable("instance", '{job=~"$job"}')]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto",
            "range": panel.kind == "timeseries", "instant": panel.kind == "stat",
        }
        for number, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    shown: dict[str, Any] = {"type": panel.kind, "title": panel.title, "datasource": _SOURCE, "targets": targets}
    if panel.help:
        shown["description"] = panel.help
    if panel.kind == "stat":
        first, then = ("green", "red") if panel.less else ("red", "green")
        above = panel.good * 1.000001 + 0.000001 if panel.less else panel.good
        steps = [{"color": first, "value": None}, {"color": then, "value": round(above, 6)}]
        shown["fieldConfig"] = {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        }
        shown["options"] = {
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "textMode": "auto", "orientation": "auto",
        }  # fmt: skip
    else:
        shown["fieldConfig"] = {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}},
            "overrides": [],
        }
        shown["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return shown


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0}


def _variable(name: str, which: str) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "datasource": _SOURCE, "label": name, "hide": 0, "refresh": 2, "sort": 1,
        "query": f"label_values(kmsd_build_info{which}, {name})", "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
