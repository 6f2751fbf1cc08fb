"""The JSON and YAML of kmsctl name every field of what kmsd tells, or leave it out on purpose."""

from __future__ import annotations

import dataclasses

import pytest

from kmsctl.documents import LAYOUTS
from kmsd.client import model

ELSEWHERE = {
    "Slot": {"token_present"}
    | {word.removesuffix("?").rpartition("=")[2] for word in LAYOUTS["SlotToken"].split()},  # in a document of its own
    "Status": {"outgoing_key"},  # `replaceable` is it, or the write key
    "TokenStatus": {"token"},  # its fields stand beside the others
    "Problem": {"about"},  # for kmstui, which leads there
}


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "SlotToken"])
def test_every_field_of_the_model_is_written_or_left_out_on_purpose(name: str) -> None:
    fields = {each.name for each in dataclasses.fields(getattr(model, name))}
    words = [word.removesuffix("?").rpartition("=")[2] for word in LAYOUTS[name].split()]
    read = {path.partition(".")[0] for path in words}
    assert fields - read == ELSEWHERE.get(name, set()) - read
    assert read - fields <= {"replaceable"}
