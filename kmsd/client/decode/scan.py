"""Encode what was counted in etcd."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import unix_ms
from kmsd.client.model.scan import ScanReport


def scan_report(report: ScanReport) -> pb.ScanReport:
    """Encode what a client counted, for kmsd."""
    return pb.ScanReport(
        started_unix_ms=unix_ms(report.started),
        finished_unix_ms=unix_ms(report.finished),
        cluster_id=report.cluster_id,
        prefix=report.prefix,
        revision=report.revision,
        objects=report.objects,
        unknown=report.unknown,
        uses=[
            pb.ScanReport.Use(key_id=each.key_id, objects=each.objects, by_label=each.by_label, label=each.label)
            for each in report.uses
        ],
    )
