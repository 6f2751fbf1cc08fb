"""The audit and its proof."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import alike, time
from kmsd.client.model.audit import Acknowledgement, AuditChain, AuditRecord, AuditRecords, AuditVerdict, Tampering


def audit_records(answer: pb.WatchAuditResponse) -> AuditRecords:
    """Decode a batch of records."""
    records = tuple(alike(AuditRecord, each, time=time(each.unix_ms)) for each in answer.records)
    return alike(AuditRecords, answer, records=records)


def audit_verdict(answer: pb.VerifyAuditResponse) -> AuditVerdict:
    """Decode the proof of the audit."""
    # An older kmsd has one chain, and tells it so.
    chains = tuple(alike(AuditChain, each) for each in answer.chains) or (alike(AuditChain, answer, name="main"),)
    return alike(AuditVerdict, answer, chains=chains)


def acknowledgement(answer: pb.AcknowledgeAuditResponse) -> Acknowledgement:
    """Decode what was acknowledged."""
    seen = tuple(alike(Tampering, each, time=time(each.unix_ms)) for each in answer.seen)
    return alike(Acknowledgement, answer, seen=seen)
