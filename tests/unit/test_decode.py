"""Every message of the admin API that has a dataclass of its own arrives in it whole, and with the types it promises.

Fields are copied by name, which no type checker follows: this does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import decode, model

PAIRS: list[tuple[Callable[[Any], object], type[Message]]] = [
    (decode.audit.audit_records, pb.WatchAuditResponse),
    (decode.audit.audit_verdict, pb.VerifyAuditResponse),
    (decode.config.config, pb.GetConfigResponse),
    (decode.tokens.diagnosis, pb.DiagnoseResponse),
    (decode.inspection.inspection, pb.InspectCiphertextResponse),
    (decode.keys.key, pb.Key),
    (decode.keys.key_test, pb.TestKeyResponse),
    (decode.tokens.mechanism, pb.ListMechanismsResponse.Mechanism),
    (decode.stats.requests, pb.WatchRequestsResponse),
    (decode.rotation.reversion, pb.RevertKeyResponse),
    (decode.rotation.rotation, pb.RotateKeyResponse),
    (decode.tokens.slot, pb.ListSlotsResponse.Slot),
    (decode.stats.stats_frame, pb.WatchStatsResponse),
    (decode.status.status, pb.GetStatusResponse),
]


NEWER: Any = 99
"""A member of an enum that this program does not know."""


def filled(kind: type[Message]) -> Message:
    """A message in which nothing is empty; what is repeated has two."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        many, value = field.is_repeated, getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in (value.add(), value.add()) if many else (value,):
                each.CopyFrom(filled(type(each)))
        elif many:
            value.extend([_value(field), _value(field)])
        else:
            setattr(message, field.name, _value(field))
    return message


def _value(field: Any) -> object:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return f"{field.name} of {field.containing_type.name}"
        case FieldDescriptor.TYPE_BOOL:
            return True
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return field.number + 0.5
        case _:
            return field.number


def wrong(value: object, hint: Any, at: str) -> list[str]:
    """Where a value is not what its annotation promises."""
    if get_origin(hint) in (UnionType, Union):
        kinds = get_args(hint)
        return [] if any(not wrong(value, each, at) for each in kinds) else [f"{at}: {value!r} is no {hint}"]
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return [f"{at}: {value!r} is no tuple"]
        return [each for item in value for each in wrong(item, get_args(hint)[0], f"{at}[]")]
    if type(value) is not hint and not (hint is float and type(value) is int):
        return [f"{at}: {value!r} is no {hint}"]
    if is_dataclass(value):
        hints = get_type_hints(type(value), localns={name: getattr(model, name) for name in model.__all__})
        return [
            each
            for field in fields(value)
            for each in wrong(getattr(value, field.name), hints[field.name], f"{at}.{field.name}")
        ]
    return []


@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
@pytest.mark.parametrize(("read", "kind"), PAIRS, ids=[kind.DESCRIPTOR.full_name for _, kind in PAIRS])
def test_a_message_arrives_with_the_types_that_its_dataclass_promises(
    read: Callable[[Any], object], kind: type[Message], full: bool
) -> None:
    made = read(filled(kind) if full else kind())
    assert wrong(made, type(made), type(made).__name__) == []


def test_what_has_the_same_name_arrives_with_the_same_value() -> None:
    status = decode.status.status(filled(pb.GetStatusResponse))  # type: ignore[arg-type]
    assert status.version == "version of GetStatusResponse"
    assert status.tokens[1].sessions.queued == pb.GetStatusResponse.Sessions.DESCRIPTOR.fields_by_name["queued"].number
    assert status.listeners[0].apis == ("apis of Listener", "apis of Listener")
    assert status.write_key is not None
    assert status.write_key.label == "label of Key"


def test_times_are_aware_and_none_where_nothing_is_known() -> None:
    key = decode.keys.key(pb.Key(created_unix_ms=1_700_000_000_123))
    assert key.created == datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)
    assert key.last_used is None


@pytest.mark.parametrize(
    "read",
    [lambda: decode.keys.key(pb.Key(type=NEWER, state=NEWER)), lambda: decode.keys.key(pb.Key())],
    ids=["newer", "unset"],
)
def test_what_a_newer_kmsd_says_is_unknown_and_no_error(read: Callable[[], model.Key]) -> None:
    assert (read().type, read().state) == (model.KeyType.UNKNOWN, model.KeyState.UNKNOWN)
