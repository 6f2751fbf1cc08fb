"""Carry a rotation out: take the moves that `kmsd.keys.rotation` finds one after the other, and tell each as a step.

The functions that change keys are called while no other change goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

from kmsd.crypto.schemes import Pair
from kmsd.errors import Conflict, InvalidRequest, KmsdError, NotFound, short
from kmsd.formats import keyid
from kmsd.hsm.host import keys as token_keys
from kmsd.hsm.vendors.tpm_key_slots import MANAGE
from kmsd.keys.key import Key, KeyState, newest_first
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import companion_label, key_id_bytes, new_key_id, old_label, pending_label, role
from kmsd.keys.lifecycle.making import PAIR_BITS, Recipe, made, make, newest_of, recipe
from kmsd.keys.lifecycle.naming import LABEL_MOST, again
from kmsd.keys.lifecycle.permit import Permit
from kmsd.keys.lifecycle.trying import rounds_with
from kmsd.keys.rotation import Move, moves
from kmsd.observe import logs
from kmsd.problem import About, Problem

log = logs.get_logger("kmsd.keys")

_ROTATED_LABEL_MOST: Final = LABEL_MOST - len(".retired@20261123T120400Z") - len(".hmac")
_STEPS_MOST: Final = 16
"""The most moves of one roll-forward: more would mean that somebody else moves labels all the time."""
_STUCK_PAUSE: Final = 60.0
"""Seconds until a move that failed is tried again by itself."""
_TEST_ROUNDS: Final = 3


@dataclass(frozen=True)
class RotationStep:
    """A step of a rotation, done or to be done. action: "generate", "test" or "relabel"."""

    action: str
    key_id: str
    from_label: str
    to_label: str
    place: str
    done: bool
    text: str


@dataclass(frozen=True)
class Rotated:
    """The result of a rotation. old: None if nothing wrote before. new: None in a dry run. rotated: whether this call
    moved the label."""

    steps: tuple[RotationStep, ...]
    old: Key | None
    new: Key | None
    rotated: bool


class Rotation:
    """The mover of the write label from key to key. It remembers nothing but why it cannot move it, if so."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._stuck: tuple[Move, Problem] | None = None
        self._stuck_until = 0.0

    @property
    def problems(self) -> Sequence[Problem]:
        """The reason why a rotation that was begun cannot be finished, if so."""
        return (self._stuck[1],) if self._stuck is not None else ()

    def check(self, label: str) -> None:
        """Raise InvalidRequest for a label (empty: the one that kmsd writes with) that cannot be rotated here."""
        write_label = self._keyring.write_label
        if label and label != write_label:
            raise InvalidRequest(
                f"this kmsd writes with the label {write_label!r}, not {short(label)}", "leave the label out"
            )
        if len(write_label.encode()) > _ROTATED_LABEL_MOST:
            raise InvalidRequest(
                f"the write label {write_label!r} has over {_ROTATED_LABEL_MOST} bytes: nothing could be put behind it",
                "choose a shorter one (--p11-key-label)",
            )

    async def rotate(self, permit: Permit, from_key_id: str, place: str, *, dry_run: bool) -> Rotated:
        """Make a new write key on the token `place`, from a fresh inventory, or end what was begun."""
        old = self._keyring.outgoing
        if old is None:
            raise self._keyring.why_none()
        if from_key_id and old.key_id != from_key_id:
            # Whoever repeats the call wants it finished now, even if a move was stuck a moment ago.
            steps = [] if dry_run else await self.roll_forward()
            inventory = self._keyring.inventory
            return Rotated(tuple(steps), inventory.by_key_id.get(from_key_id), inventory.write or old, rotated=False)
        begun = [move for move in self._moves() if move.tried]
        wanted = self._successor(old, place)
        if not begun:
            self._refuse_crowded(old, place, wanted)
        if dry_run:
            return Rotated(self._plan(old, place, begun, pair=wanted.pair), old, None, rotated=False)
        return await self._rotate(permit, old, place, wanted, begun=bool(begun))

    def _refuse_crowded(self, old: Key, place: str, wanted: Recipe) -> None:
        """Raise Conflict where the new key and the old one could not both be used: what is stored would not open."""
        room = self._keyring.tokens[place].room
        inventory, label = self._keyring.inventory, self._keyring.write_label
        reading = [k for k in inventory.keys if k.place == place and k.reads and role(k.label) == label]
        needed = wanted.objects + sum(2 if inventory.companion(key) is not None else 1 for key in reading)
        if room is not None and place == old.place and needed > room.most:
            raise Conflict(
                f"the TPM behind {self._keyring.tokens[place].name} has no resource manager, so one login can use "
                f"{room.most} keys, and the old and the new ones are {needed}: what the old wrote could not be read",
                f"{MANAGE}; then rotate",
            )

    def _successor(self, old: Key, place: str) -> Recipe:
        """Return the recipe of the key that follows this one: of its sort, unless that would not serve on the token. An
        RSA key is left behind where another token has AES."""
        if old.token.kind != "rsa":
            pair = self._keyring.inventory.companion(old) is not None or isinstance(old.scheme, Pair)
            if pair or self._keyring.needs_pair(place):
                return recipe("pair", old.token.bits if old.token.bits in PAIR_BITS else 0, self._keyring.tokens[place])
            return Recipe("aes", old.token.bits)
        able = self._keyring.ability(place)
        if place == old.place or not (able.gcm or able.cbc):
            return Recipe("rsa", old.token.bits)
        return recipe("aes" if able.gcm else "pair", 0, self._keyring.tokens[place])

    async def _rotate(self, permit: Permit, old: Key, place: str, wanted: Recipe, *, begun: bool) -> Rotated:
        label = self._keyring.write_label
        steps = [] if begun else [await self._make(permit, place, wanted)]
        steps.extend(await self.roll_forward())
        new = self._keyring.inventory.write
        # A key that wrote as L.pending goes on as L; any other has to have given way.
        if new is None or new.label != label or (new.key_id == old.key_id and old.label == label):
            problem = self.problems[0] if self.problems else None
            raise Conflict(
                f"the rotation of {label!r} was begun and could not be finished"
                + (f": {problem.message}" if problem else ""),
                (problem.hint if problem else "") or "repeat kmsctl rotate; the old key writes until then",
            )
        was = again(self._keyring, old, old.label) if new.key_id != old.key_id else None
        return Rotated(tuple(steps), was, new, rotated=True)

    async def _make(self, permit: Permit, place: str, wanted: Recipe) -> RotationStep:
        """Make the key that is to write, as L.pending."""
        label, hsm = self._keyring.write_label, self._keyring.tokens[place]
        cka_id = key_id_bytes(new_key_id(newest_of(self._keyring, label)))
        await make(permit, hsm, pending_label(label), cka_id, wanted)
        key = (await made(self._keyring, cka_id, wanted.kind)).key
        log.info("rotation began", label=label, key_id_sha256=key.key_id_sha256)
        return _made_step(key.key_id, pending_label(label), place, hsm.name, done=True)

    def _plan(self, old: Key, place: str, begun: Sequence[Move], *, pair: bool) -> tuple[RotationStep, ...]:
        """Return what a rotation would do."""
        label = self._keyring.write_label
        steps: list[RotationStep] = []
        if not begun:
            steps.append(_made_step("", pending_label(label), place, self._keyring.tokens[place].name, done=False))
        new = begun[0].cka_id.decode("ascii", "replace") if begun else ""
        place = begun[0].place if begun else place
        steps.append(_tested_step(new, pending_label(label), place, done=False))
        steps.append(_moved_step(new, pending_label(label), label, place, done=False))
        steps.append(_moved_step(old.key_id, label, old_label(label, time.time()), old.place, done=False))
        if pair:
            steps.append(
                _moved_step("", companion_label(pending_label(label)), companion_label(label), place, done=False)
            )
        return tuple(steps)

    def before(self, from_key_id: str) -> Key:
        """Return the key that wrote before the one that is to be reverted: from_key_id, or else the write key.

        Raises NotFound if no key wrote before.
        """
        inventory, write_label = self._keyring.inventory, self._keyring.write_label
        write = inventory.write
        # A repeated call finds the bad key reverted already, and means the key before it, not the bad one.
        bad = inventory.by_key_id.get(from_key_id) or write
        found = newest_first(
            key
            for key in inventory.keys
            if key.token.seals
            and key.reads
            and key not in (write, bad)
            and (bad is None or bad is write or key.age < bad.age)
            and role(key.label) == write_label
            and key.state is not KeyState.PENDING
        )
        if not found:
            raise NotFound(
                f"no key on {self._keyring.where} had the label {write_label!r} before",
                "there is nothing to revert to; `kmsctl rotate` makes a new write key",
            )
        return found[0]

    def due(self) -> bool:
        """Return whether there is something to roll forward by itself, and it is time to try."""
        if not self._keyring.complete:
            return False
        if not self._moves():
            self._stuck = None
            return False
        return self._stuck is None or monotonic() >= self._stuck_until

    async def roll_forward(self) -> list[RotationStep]:
        """Finish what a rotation left, whoever began it: the moves one after the other, each from a fresh look. What
        cannot be finished now is told in `problems`. Return the steps taken."""
        steps: list[RotationStep] = []
        for _ in range(_STEPS_MOST):
            wanted = self._moves()
            if not wanted:
                self._stuck = None
                break
            move = wanted[0]
            try:
                steps.extend(await self._take(move))
            except Conflict as error:
                # Another kmsd was quicker, most likely: then the next look shows other moves, or none.
                await self._keyring.look()
                if move in self._moves():
                    self._get_stuck(move, error)
                    break
            except KmsdError as error:
                self._get_stuck(move, error)
                break
            else:
                await self._keyring.look()
        return steps

    def _moves(self) -> tuple[Move, ...]:
        return moves(self._keyring.inventory, self._keyring.write_label, time.time())

    async def _take(self, move: Move) -> list[RotationStep]:
        steps: list[RotationStep] = []
        key_id = next(
            (k.key_id for k in self._keyring.inventory.keys if (k.place, k.cka_id) == (move.place, move.cka_id)), ""
        )
        if move.tried:
            await rounds_with(self._keyring, self._keyring.inventory.by_key_id[key_id], _TEST_ROUNDS)
            steps.append(_tested_step(key_id, move.from_label, move.place, done=True))
        hsm = self._keyring.tokens[move.place]
        await hsm.run(
            token_keys.relabel, inf, move.kind, move.cka_id, move.from_label, move.to_label, timeout=30.0, retry=False
        )
        log.info("key relabelled", key_id=key_id, was=move.from_label, label=move.to_label, token=move.place)
        steps.append(_moved_step(key_id, move.from_label, move.to_label, move.place, done=True))
        return steps

    def _get_stuck(self, move: Move, error: KmsdError) -> None:
        hsm = self._keyring.tokens[move.place]
        problem = Problem(
            f"key {move.from_label!r} on {hsm.name} cannot be relabelled {move.to_label!r}: {error.message}",
            error.hint or "kmsd tries again in a minute",
            fatal=False,
            about=About(move.place, keyid.text(move.cka_id), move.from_label),
        )
        if self._stuck is None or self._stuck[1] != problem:
            log.warning(problem.message, hint=problem.hint)
        self._stuck = (move, problem)
        self._stuck_until = monotonic() + _STUCK_PAUSE


def _made_step(key_id: str, label: str, place: str, token: str, *, done: bool) -> RotationStep:
    return RotationStep("generate", key_id, "", label, place, done, f"make a new key labelled {label} on {token}")


def _tested_step(key_id: str, label: str, place: str, *, done: bool) -> RotationStep:
    return RotationStep("test", key_id, label, label, place, done, f"encrypt and decrypt with {label}")


def _moved_step(key_id: str, was: str, to: str, place: str, *, done: bool) -> RotationStep:
    return RotationStep("relabel", key_id, was, to, place, done, f"relabel {was} to {to}")
