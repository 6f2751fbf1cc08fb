"""Reads the report that `kmsctl etcd scan --report` wrote. kmstui itself never reads etcd."""

from __future__ import annotations

from pathlib import Path

from kmsd.client import InvalidRequest, ScanReport
from kmsd.client.report import REPORT_MAX, read_report


def read(path: str) -> ScanReport:
    """path: ~ is understood. Raises InvalidRequest."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(REPORT_MAX + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "name a file that `kmsctl etcd scan --report FILE` wrote"
        raise InvalidRequest(f"the report {path} cannot be read: {why}", hint, "INVALID_ARGUMENT") from None
    return read_report(data)
