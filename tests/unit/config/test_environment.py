"""Variables of the environment are settings, mistakes that are told, or none of our business."""

from __future__ import annotations

import os

import pytest

from kmsd.config.sources import ConfigError, load
from tests.unit.config.written import PIN


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("KMSD_KEYS__LABLE", "KMSD_KEYS__LABLE: no such setting; did you mean KMSD_KEYS__LABEL?"),
        ("KMSD_keys__label", "KMSD_keys__label: no such setting, though its name has their form"),
        ("KMSD_ZZZ__Q", "KMSD_ZZZ__Q: no such setting, though its name has their form"),
    ],
)
def test_a_variable_written_like_a_setting_must_be_one(variable: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ={variable: PIN})
    assert caught.value.message == message


def test_other_variables_only_warn_and_those_of_kubernetes_do_not() -> None:
    kubernetes = ("KMSD_SERVICE_HOST", "KMSD_SERVICE_PORT", "KMSD_SERVICE_PORT_GRPC", "KMSD_PORT")
    environ = dict.fromkeys((*kubernetes, "KMSD_PORT_443_TCP_ADDR", "KMSD_UI_SERVICE_HOST", "KMSD_LABEL"), "x")
    warning = "KMSD_LABEL is not a setting of kmsd, and is ignored"
    assert load({}, environ=environ).warnings == (warning,)


@pytest.mark.parametrize(("text", "expected"), [("TRUE", True), ("1", True), ("no", False), ("f", False)])
def test_true_and_false_as_people_and_go_write_them(text: str, expected: bool) -> None:
    assert load({}, environ={"KMSD_KEYS__AUTO_CREATE": text}).settings.keys.auto_create is expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0x1", "\u0661", "nan", "9" * 5000])
def test_text_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ={"KMSD_TOKEN__QUEUE": text})
    assert caught.value.message.startswith("KMSD_TOKEN__QUEUE: expected a whole number from 1 to 65536, found ")
    assert len(caught.value.message) < 200


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ={"KMSD_KEYS__LABEL": os.fsdecode(b"\xff"), "P11_PIN": os.fsdecode(b"\xff")})
    assert caught.value.message.splitlines() == [
        "KMSD_KEYS__LABEL: expected a string, found text that is not UTF-8",
        "P11_PIN: expected the PIN as a string, found text that is not UTF-8",
    ]
