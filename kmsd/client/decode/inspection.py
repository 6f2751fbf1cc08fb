"""Decode what a ciphertext is."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.keys import key
from kmsd.client.decode.plain import alike
from kmsd.client.decode.status import problem
from kmsd.client.model.inspection import Envelope, Inspection, JweReport


def inspection(answer: pb.InspectCiphertextResponse) -> Inspection:
    """Decode the explanation of a ciphertext."""
    return alike(
        Inspection,
        answer,
        envelope=alike(Envelope, answer.envelope) if answer.HasField("envelope") else None,
        jwe=alike(JweReport, answer.jwe) if answer.HasField("jwe") else None,
        keys=tuple(map(key, answer.keys)),
        findings=tuple(map(problem, answer.findings)),
    )
