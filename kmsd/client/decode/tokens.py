"""Decode what tokens are there, and what they can do."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import alike, optional
from kmsd.client.model.tokens import Abilities, Check, Diagnosis, Mechanism, Outcome, Slot, Speed, Verdict

_OUTCOMES = {each.value: each for each in Outcome}


def slot(slot: pb.ListSlotsResponse.Slot) -> Slot:
    """Decode a slot and the token in it."""
    return alike(
        Slot,
        slot,
        sessions=optional(slot, "sessions"),
        sessions_max=optional(slot, "sessions_max"),
        rw_sessions=optional(slot, "rw_sessions"),
        rw_sessions_max=optional(slot, "rw_sessions_max"),
    )


def mechanism(mechanism: pb.ListMechanismsResponse.Mechanism) -> Mechanism:
    """Decode a mechanism."""
    return alike(Mechanism, mechanism)


def diagnosis(found: pb.DiagnoseResponse) -> Diagnosis:
    """Decode what a probe found."""
    return alike(
        Diagnosis,
        found,
        outcome=_outcome(found.outcome),
        checks=tuple(alike(Check, each, outcome=_outcome(each.outcome)) for each in found.checks),
        verdict=alike(Verdict, found.verdict),
        abilities=alike(Abilities, found.abilities),
        speeds=tuple(alike(Speed, each) for each in found.timings),
    )


def _outcome(word: str) -> Outcome:
    return _OUTCOMES.get(word, Outcome.UNKNOWN)
