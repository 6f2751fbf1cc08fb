"""Rotations and their reversal."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.keys import optional_key
from kmsd.client.decode.plain import alike
from kmsd.client.model.rotation import Reversion, Rotation, RotationStep


def _steps(answer: pb.RotateKeyResponse | pb.RevertKeyResponse) -> tuple[RotationStep, ...]:
    return tuple(alike(RotationStep, step) for step in answer.steps)


def rotation(answer: pb.RotateKeyResponse) -> Rotation:
    """Decode what a rotation did."""
    return Rotation(
        steps=_steps(answer),
        old=optional_key(answer, "old_key"),
        new=optional_key(answer, "new_key"),
        rotated=answer.rotated,
    )


def reversion(answer: pb.RevertKeyResponse) -> Reversion:
    """Decode what a revert did."""
    return Reversion(
        steps=_steps(answer),
        old=optional_key(answer, "old_key"),
        new=optional_key(answer, "new_key"),
        previous=optional_key(answer, "previous_key"),
        reverted=answer.reverted,
        not_undone=tuple(answer.not_undone),
    )
