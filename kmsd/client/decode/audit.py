"""The audit and its proof."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import alike, time
from kmsd.client.model import AuditRecord, AuditRecords, AuditVerdict


def audit_records(answer: pb.WatchAuditResponse) -> AuditRecords:
    records = tuple(alike(AuditRecord, each, time=time(each.unix_ms)) for each in answer.records)
    return alike(AuditRecords, answer, records=records)


def audit_verdict(answer: pb.VerifyAuditResponse) -> AuditVerdict:
    return alike(AuditVerdict, answer)
