"""Decode the messages of the admin API into the dataclasses of `kmsd.client.model`, cut by subject as they are.
Pure."""

from kmsd.client.decode.audit import acknowledgement, audit_records, audit_verdict
from kmsd.client.decode.config import config
from kmsd.client.decode.inspection import inspection
from kmsd.client.decode.keys import key, key_test, optional_key
from kmsd.client.decode.rotation import reversion, rotation
from kmsd.client.decode.scan import scan_report
from kmsd.client.decode.stats import requests, stats_frame, wanted
from kmsd.client.decode.status import status
from kmsd.client.decode.tokens import diagnosis, mechanism, slot

__all__ = [
    "acknowledgement",
    "audit_records",
    "audit_verdict",
    "config",
    "diagnosis",
    "inspection",
    "key",
    "key_test",
    "mechanism",
    "optional_key",
    "requests",
    "reversion",
    "rotation",
    "scan_report",
    "slot",
    "stats_frame",
    "status",
    "wanted",
]
