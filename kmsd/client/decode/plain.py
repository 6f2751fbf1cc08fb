"""Decode what every subject needs: fields of the same name copied, times, fields that may be absent."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    D = TypeVar("D", bound=DataclassInstance)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def alike(made: type[D], message: Message, **given: Any) -> D:
    """Make a dataclass from the message's fields of the same names; what is repeated becomes a tuple.

    given: the fields that have another name, or another type, in the message.
    """
    values = {each.name: getattr(message, each.name) for each in fields(made) if each.name not in given}
    plain = {name: each if isinstance(each, str | int | float) else tuple(each) for name, each in values.items()}
    return made(**plain, **given)


def optional(message: Message, name: str) -> Any:
    """Return a field that may be absent: then None."""
    return getattr(message, name) if message.HasField(name) else None


def time(unix_ms: int) -> datetime | None:
    """Return the time of so many milliseconds since the epoch; None if unknown."""
    try:
        return EPOCH + timedelta(milliseconds=unix_ms) if unix_ms > 0 else None
    except OverflowError:
        return None  # an identity that only looks like a version 7 UUID may carry any number


def unix_ms(moment: datetime) -> int:
    """Return the milliseconds since the epoch."""
    return (moment - EPOCH) // timedelta(milliseconds=1)
