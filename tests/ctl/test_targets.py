"""kmsctl targets: several real kmsd side by side, the odd one first, and those that do not answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kmsd.client import clientconfig
from kmsd.client.clientconfig import MOST_TARGETS, Target
from kmsd.client.fleet import Member, agreement, compare
from kmsd.client.model import (
    Following,
    KeyState,
    Probe,
    ServingState,
    Sessions,
    Status,
    TenantStatus,
    Token,
    Upstream,
)
from kmsd.client.model.keys import Key, KeyType
from tests import forkserver
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run
from tests.ctl.terminal import Terminal
from tests.daemons import Kmsd
from tests.tokens import make_token

Start = Callable[..., Kmsd]


@contextmanager
def silent(path: Path) -> Iterator[None]:
    """A socket that takes connections, and answers nothing."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield


@pytest.fixture
def configured(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Path]], None]:
    """Gives targets names in a configuration file."""

    def write(addresses: dict[str, Path]) -> None:
        path = directory / "config.toml"
        path.write_text("".join(f"[[targets]]\nname='{name}'\naddress='{at}'\n" for name, at in addresses.items()))
        monkeypatch.setenv("KMSCTL_CONFIG", str(path))
        clientconfig._load.cache_clear()

    return write


def test_the_one_with_another_write_key_comes_first_then_those_that_do_not_answer(
    run: Run, start_kmsd: Start, short_tmp: Path, directory: Path, configured: Callable[[dict[str, Path]], None]
) -> None:
    one = start_kmsd("--auto-create").wait_ok()
    two = start_kmsd(name="e").wait_ok()
    (short_tmp / "f").mkdir()
    with (
        Kmsd(short_tmp / "f", make_token(short_tmp / "other"), ("--auto-create",)) as other,
        silent(directory / "hung.sock"),
    ):
        other.wait_ok()
        configured(
            {
                "cp-1": one.admin_socket,
                "cp-2": two.admin_socket,
                "gone": directory / "gone.sock",
                "hung": directory / "hung.sock",
                "cp-9": other.admin_socket,
            }
        )
        began = time.monotonic()
        result = run("targets", "-o", "json", "--timeout", "3s")
        took = time.monotonic() - began
        table = run("targets", "--timeout", "1s")
        wide = run("targets", "-o", "wide", "--timeout", "1s")
        some = run("targets", "cp-1", "cp-2", "-o", "name")
        half = run("targets", "cp-1", "gone")
    document = json.loads(result.text)
    assert result.code == 7
    assert took < 5.5  # each has its own deadline, and all run at once
    assert (document["agreeing"], document["writing"]) == (2, 3)
    by_name = {each["name"]: each for each in document["targets"]}
    assert list(by_name) == ["cp-9", "gone", "hung", "cp-1", "cp-2"]
    assert [each["odd"] for each in document["targets"]] == [True, False, False, False, False]
    assert by_name["cp-9"]["remarks"] == ["another write key than the rest: kube-apiserver there may not follow"]
    for name in ("gone", "hung"):
        assert by_name[name]["answered"] is False
        assert by_name[name]["error"]
    for name in ("cp-1", "cp-2"):
        member = by_name[name]
        assert (member["answered"], member["state"], member["error"]) == (True, "serving", None)
        assert abs(member["clock_skew_seconds"]) < 0.5
        assert 0 < member["answered_in_seconds"] < 3
        assert member["requests_per_second"] >= 0
        assert member["writes_since"].startswith("20")
    assert by_name["cp-1"]["write_key"]["key_id"] == by_name["cp-2"]["write_key"]["key_id"]
    lines = table.text.splitlines()
    assert lines[0].split()[:3] == ["TARGET", "STATE", "WRITE"]
    assert lines[1].startswith("cp-9")
    assert lines[2] == "   another write key than the rest: kube-apiserver there may not follow"
    assert lines[3].split()[:3] == ["gone", "✕", "UNREACHABLE"]
    assert by_name["cp-1"]["write_key"]["key_id"] in wide.text
    assert (some.code, some.text) == (0, "cp-1\ncp-2\n")
    assert half.code == 3
    assert "there is no socket DIR/gone.sock" in half.text


def test_one_that_is_not_healthy_is_7_and_says_why(run: Run, start_kmsd: Start) -> None:
    kmsd = start_kmsd()
    result = run("targets", str(kmsd.admin_socket))
    assert result.code == 7
    assert "\n   there is no key labelled 'k8s-kek'" in result.text


def test_without_a_configuration_file_it_is_the_usual_target(run: Run, canned: Canned) -> None:
    document = json.loads(run("targets", "-o", "json").text)
    assert [each["address"] for each in document["targets"]] == ["unix://DIR/admin.sock"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("targets nobody", "no target is named 'nobody'"),
        ("targets /a /a", "the target '/a' is named twice"),
        ("targets --interval 1s", "--interval needs --watch"),
        ("targets /a --target /b", "--target and arguments both name targets"),
        ("targets " + " ".join(f"/t{number}" for number in range(MOST_TARGETS + 1)), f"{MOST_TARGETS} targets at most"),
    ],
)
def test_what_cannot_be_meant_is_2(run: Run, line: str, said: str) -> None:
    result = run(*line.split())
    assert (result.code, result.out) == (2, b"")
    assert said in result.err


def test_watching_is_a_screen_that_q_leaves(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal("kmsctl", "targets", "--watch", "--interval", "200ms", columns=120)
    terminal.shows("1 targets: 1 of 1 write with the same key", "SERVING", "q leaves")
    terminal.press("q")
    assert terminal.exit_code() == 0


def test_watching_through_a_pipe_is_a_json_object_a_line(canned: Canned) -> None:
    command = [sys.executable, "-m", "kmsctl", "targets", "--watch", "--interval", "200ms"]
    with forkserver.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.stdout.close()
        assert watching.wait(10) == 1
    assert [each["targets"][0]["state"] for each in seen] == ["serving"] * 3


def member(name: str, key_id: str = "k", *, version: str = "1", healthz: str = "ok", skew: float = 0.0) -> Member:
    key = Key(
        label="k8s-kek",
        key_id=key_id,
        key_id_sha256=key_id,
        state=KeyState.WRITE,
        type=KeyType.AES,
        bits=256,
        unusable_reason="",
        unusable_hint="",
        created=None,
        token_label="",
        can_encrypt=True,
        can_decrypt=True,
        can_sign=True,
        can_verify=True,
        sensitive=True,
        extractable=True,
        private=True,
    )
    token = Token("", "", "", "", "", 0, up=True)
    status = Status(
        version=version,
        state=ServingState.SERVING,
        healthz=healthz,
        hint="",
        started=None,
        write_label="k8s-kek",
        write_key=key if key_id else None,
        token=token,
        sessions=Sessions(0, 0, 0, 0, 0),
        probe=Probe(None, 0.0),
        listeners=(),
        problems=(),
        keys=1,
        write_format="",
        following=Following(since=datetime.now(UTC) - timedelta(days=1)),
    )
    return Member(Target(name, f"/{name}"), datetime.now(UTC), status, skew=skew)


def test_what_is_odd_comes_first_and_is_said() -> None:
    found = compare(
        [
            member("a"),
            member("old", version="0"),
            member("clock", skew=-61.0),
            member("sick", healthz="the token is away"),
            member("odd", key_id="other"),
            member("b"),
        ]
    )
    assert [(each.member.target.name, each.remarks) for each in found] == [
        ("odd", ("another write key than the rest: kube-apiserver there may not follow",)),
        ("sick", ("the token is away",)),
        ("old", ("another version than the rest, which have 1",)),
        ("clock", ("its clock is 61 s behind this machine's",)),
        ("a", ()),
        ("b", ()),
    ]


def test_where_two_keys_have_as_many_both_are_odd() -> None:
    found = compare([member("a", "1"), member("b", "2"), member("none", "", healthz="no key")])
    assert [(each.member.target.name, each.odd) for each in found] == [("a", True), ("b", True), ("none", False)]


def tenant(name: str, key_id: str) -> TenantStatus:
    key = member("x", key_id).write_key
    return TenantStatus(name, "kek", ServingState.SERVING, "ok", "", key, Following(), 0)


def manager(name: str, own: str, **keys: str) -> Member:
    """A key manager that writes with `own` for itself, and with these for its tenants."""
    made = member(name, own)
    assert made.status is not None
    return replace(made, status=replace(made.status, tenants=tuple(tenant(*each) for each in keys.items())))


def proxy(name: str, key_id: str) -> Member:
    made = member(name, key_id)
    assert made.status is not None
    upstream = Upstream("keys.test:1", True, "", "", None, None, key_id, key_id, "ok", 1.0, 1, 0, 0, True)
    return replace(made, status=replace(made.status, upstreams=(upstream,)))


def test_write_keys_are_compared_within_a_kind() -> None:
    members = [
        member("local", "l"),
        manager("km-1", "own", a="ka", b="kb"),
        manager("km-2", "own", a="ka", b="kb"),
        proxy("a-1", "ka"),
        proxy("a-2", "ka"),
        proxy("b-1", "kb"),
    ]
    assert [each.kind for each in members] == ["local", "manager", "manager", "proxy", "proxy", "proxy"]
    assert not any(each.odd for each in compare(members))
    assert agreement(members) == (6, 6)


def test_a_proxy_whose_key_no_tenant_writes_with_is_odd() -> None:
    members = [manager("km", "own", a="ka"), proxy("a-1", "ka"), proxy("a-2", "ka"), proxy("late", "old")]
    (first, *rest) = compare(members)
    assert (first.member.target.name, first.odd) == ("late", True)
    assert not any(each.odd for each in rest)
    assert agreement(members) == (3, 4)


def test_key_managers_that_write_with_different_keys_for_a_tenant_are_odd() -> None:
    members = [manager("km-1", "own", a="ka"), manager("km-2", "own", a="ka"), manager("km-3", "own", a="other")]
    (first, *rest) = compare(members)
    assert first.member.target.name == "km-3"
    assert first.remarks == ("another write key than on other key managers for tenant a",)
    assert not any(each.odd for each in rest)
