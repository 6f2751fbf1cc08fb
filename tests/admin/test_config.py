"""GetConfig and SetLogLevel: every value with its origin, the PIN in none of them; a log level for the moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.config.values import LEAVES, REDACTED
from tests.admin.calls import ask, encrypt, failure, refused
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import assert_silent
from tests.tokens import PIN, SoftToken, make_token

WAYS = ("flag", "variable", "k8s_kms_plugin's variable", "file", "tokens")
ELSEWHERE = "secret-of-another"
"""A PIN that was set aside by one from a later place."""


def config(kmsd: Kmsd) -> dict[str, admin.GetConfigResponse.Setting]:
    answer = ask(kmsd, "GetConfig")
    found = {each.name: each for each in answer.settings}
    assert len(found) == len(answer.settings)
    return found


def test_every_setting_is_there_with_its_origin(served: Kmsd) -> None:
    assert served.token is not None
    found = config(served)
    assert list(found) == list(LEAVES)
    assert {name for name, each in found.items() if each.secret} == {"token.pin"}
    assert all(each.origin for each in found.values())
    expected = {
        "kms.socket": (f'"{served.socket}"', "--socket"),
        "token.label": (f'"{served.token.label}"', "--p11-label"),
        "token.pin_file": (f'"{served.token.pin_file}"', "--p11-pin-file"),
        "token.pin": ("", "default"),
        "token.slot": ("", "default"),
        "keys.label": ('"k8s-kek"', "default"),
        "keys.auto_create": ("true", "--auto-create"),
        "keys.refresh": ("3600.0", "KMSD_KEYS__REFRESH"),
        "audit.kms": ('"all"', "KMSD_AUDIT__KMS"),
        "log.level": ('"debug"', "--log-level"),
    }
    assert {name: (found[name].value, found[name].origin) for name in expected} == expected
    reloadable = {name for name, each in found.items() if each.reloadable}
    assert reloadable == {"log.format", "log.level", "token.pin", "token.pin_file"}


@pytest.fixture(scope="module")
def with_pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kmsd]]:
    """A kmsd for each way to give it a PIN."""
    running: dict[str, Kmsd] = {}
    try:
        for way in WAYS:
            folder = tmp_path_factory.mktemp("k")
            token = make_token(folder / "hsm")
            flags, environment = _given(way, folder, token)
            running[way] = Kmsd(folder, token, flags, environment, default_flags=False).start(wait=False)
        for kmsd in running.values():
            wait_for(partial(_up, kmsd))
        yield running
    finally:
        for kmsd in running.values():
            kmsd.stop()


def _up(kmsd: Kmsd) -> bool:
    assert kmsd.process is not None
    assert kmsd.process.poll() is None, kmsd.log_text()
    try:
        status = kmsd.status()
    except grpc.RpcError:
        return False
    return bool(status.token.up)


def _given(way: str, folder: Path, token: SoftToken) -> tuple[list[str], dict[str, str]]:
    flags = ["--provider=softhsm", f"--p11-label={token.label}"]
    file = folder / "kmsd.toml"
    match way:
        case "flag":
            return [*flags, f"--p11-pin={PIN}"], {"KMSD_TOKEN__PIN": ELSEWHERE}
        case "variable":
            return flags, {"KMSD_TOKEN__PIN": PIN}
        case "k8s_kms_plugin's variable":
            return flags, {"P11_PIN": PIN}
        case "file":
            text = f'[token]\npin = "{PIN}"\n'
        case _:
            flags = []
            # The second one is refused its login, and its PIN is as secret.
            text = "".join(
                f'[[tokens]]\nname = "{name}"\nprovider = "softhsm"\nlabel = "{label}"\npin = "{pin}"\n'
                for name, label, pin in (("first", token.label, PIN), ("second", "away", ELSEWHERE))
            )
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    file.write_text(text)
    return [*flags, f"--config={file}"], {}


@pytest.mark.parametrize(
    ("way", "name", "origin"),
    [
        ("flag", "token.pin", "--p11-pin"),
        ("variable", "token.pin", "KMSD_TOKEN__PIN"),
        ("k8s_kms_plugin's variable", "token.pin", "P11_PIN"),
        ("file", "token.pin", "kmsd.toml:2"),
        ("tokens", "tokens.0.pin", "kmsd.toml:5"),
        ("tokens", "tokens.1.pin", "kmsd.toml:10"),
    ],
)
def test_a_pin_is_redacted_however_it_was_given(with_pins: dict[str, Kmsd], way: str, name: str, origin: str) -> None:
    kmsd = with_pins[way]
    found = config(kmsd)
    assert (found[name].value, found[name].secret) == (f'"{REDACTED}"', True)
    assert found[name].origin.endswith(origin)
    answers = [ask(kmsd, method) for method in ("GetConfig", "GetStatus", "ListSlots")]
    for secret in (PIN, ELSEWHERE):
        assert_silent(" ".join(map(str, answers)), secret.encode())
        assert_silent(kmsd.log_text(), secret.encode())
        assert_silent((kmsd.folder / "state" / "audit.jsonl").read_text(), secret.encode())


def test_several_tokens_are_told_one_by_one(with_pins: dict[str, Kmsd]) -> None:
    kmsd = with_pins["tokens"]
    found = config(kmsd)
    assert not [name for name in found if name.startswith("token.")]
    assert found["tokens.0.name"].value == '"first"'
    assert found["tokens.1.label"].value == '"away"'
    assert found["tokens.0.name"].origin.endswith("kmsd.toml:2")
    assert {name.split(".")[0] for name in found} == {*(leaf.split(".")[0] for leaf in LEAVES), "tokens"} - {"token"}
    assert ask(kmsd, "GetConfig").file == str(kmsd.folder / "kmsd.toml")


def test_what_is_unwise_is_warned_about(with_pins: dict[str, Kmsd]) -> None:
    (warning,) = ask(with_pins["variable"], "GetConfig").warnings
    assert "KMSD_TOKEN__PIN" in warning
    assert not ask(with_pins["file"], "GetConfig").warnings


def _calls(kmsd: Kmsd) -> int:
    """How many log lines one call makes."""
    before = len([line for line in kmsd.log_lines() if line["event"] == "call"])
    uid = f"level-{before}"
    encrypt(kmsd, uid=uid)
    kmsd.status()  # whatever the call before had to log is written
    return len([line for line in kmsd.log_lines() if line.get("uid") == uid])


@pytest.fixture
def as_configured(served: Kmsd) -> Iterator[None]:
    yield
    ask(served, "SetLogLevel")


@pytest.mark.usefixtures("as_configured")
def test_a_log_level_takes_effect_at_once_and_goes_back(served: Kmsd) -> None:
    assert _calls(served) == 1
    changed = ask(served, "SetLogLevel", level="info")
    assert (changed.level, changed.previous) == ("info", "debug")
    assert _calls(served) == 0
    assert ask(served, "SetLogLevel", level="error").previous == "info"
    back = ask(served, "SetLogLevel")
    assert (back.level, back.previous) == ("debug", "error")
    assert _calls(served) == 1
    told = [line for line in served.log_lines() if line["event"] == "log level changed"]
    assert [(line["was"], line["level"]) for line in told[-1:]] == [("error", "warning")]


@pytest.mark.usefixtures("as_configured")
def test_to_ask_for_the_level_does_not_change_it(served: Kmsd) -> None:
    ask(served, "SetLogLevel", level="warning")
    for asked in ("", "debug"):
        told = ask(served, "SetLogLevel", level=asked, dry_run=True)
        assert (told.level, told.previous) == ("warning", "warning")
    assert _calls(served) == 0


@pytest.mark.parametrize("level", ["loud", "DEBUG", "info ", "10", "critical", "x" * 100_000])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_level_that_there_is_not_is_refused(served: Kmsd, level: str, dry_run: bool) -> None:
    refusal = refused(
        served, "SetLogLevel", "INVALID_ARGUMENT", "the log level must be one of ", level=level, dry_run=dry_run
    )
    assert "debug, info, warning, error" in refusal.details
    assert ask(served, "SetLogLevel", dry_run=True).level == "debug"


@pytest.mark.usefixtures("as_configured")
def test_a_reload_ends_what_was_set_for_the_moment(served: Kmsd) -> None:
    ask(served, "SetLogLevel", level="error")
    assert served.process is not None
    served.process.send_signal(signal.SIGHUP)
    wait_for(lambda: ask(served, "SetLogLevel", dry_run=True).level == "debug")


def test_what_is_no_request_is_refused(served: Kmsd) -> None:
    """On every method: no message, half a message, text that is not UTF-8."""
    for method in (
        *("GetStatus", "GetConfig", "SetLogLevel", "ListSlots", "ListMechanisms", "ListKeys", "GetKey", "GenerateKey"),
        *("RelabelKey", "AdoptKey", "DestroyKey", "TestKey", "RotateKey", "RetireKey", "RevertKey"),
        *("InspectCiphertext", "TryCiphertext", "VerifyAudit", "Diagnose"),
    ):
        for body in (b"\xff", b"\x0a\x05ab"):
            path = f"/kmsd.admin.v1.Admin/{method}"
            refusal = failure(partial(served.raw, path, body, admin=True))
            assert refusal.code == "INVALID_ARGUMENT", (method, body, refusal)
            assert f"no kmsd.admin.v1.{method}Request message" in refusal.details
            assert refusal.hint
    for method in ("GetKey", "GenerateKey", "DestroyKey"):
        refusal = failure(partial(served.raw, f"/kmsd.admin.v1.Admin/{method}", b"\x0a\x01\xff", admin=True))
        assert refusal.code == "INVALID_ARGUMENT"
