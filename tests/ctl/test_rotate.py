"""kmsctl rotate, against a real kmsd on a real token: what it prints, asks, refuses, and does at most once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.ctl.canned import Canned, _failed, serve
from tests.ctl.conftest import Result, Run
from tests.daemons import Kmsd


@pytest.fixture
def at(run: Run, kmsd: Kmsd, monkeypatch: pytest.MonkeyPatch) -> Run:
    """kmsctl with the real kmsd as its target."""
    monkeypatch.setenv("KMSCTL_TARGET", f"unix://{kmsd.admin_socket}")
    return run


def keys(kmsd: Kmsd) -> dict[str, str]:
    """Labels by key id."""
    return {each.key_id: each.label for each in kmsd.admin("ListKeys").keys}


def aged(text: str) -> str:
    """As the fixture `run` shows it: what looks like an age in days, be it part of a key id, reads AGE."""
    return re.sub(r"\b\d+d\b", "AGE", text)


def test_a_dry_run_tells_the_steps_and_changes_nothing(at: Run, kmsd: Kmsd) -> None:
    before = keys(kmsd)
    result = at("rotate", "--dry-run")
    assert (result.code, result.err) == (0, "kmsctl: nothing was changed\n")
    assert re.search(r"^old +k8s-kek +\S+ +sha256:", result.text, re.MULTILINE)
    assert [line.split()[:3] for line in result.text.splitlines() if "to do" in line] == [
        ["generate", "to", "do"],
        ["test", "to", "do"],
        ["relabel", "to", "do"],
        ["relabel", "to", "do"],
    ]
    assert keys(kmsd) == before


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
def test_both_keys_are_told_with_their_hashes(at: Run, kmsd: Kmsd, form: str) -> None:
    old = kmsd.status().write_key
    result = at("rotate", "--yes", "-o", form)
    assert result.code == 0
    new = kmsd.status().write_key
    assert new.key_id != old.key_id
    assert "`kmsctl rotate --watch` follows that" in result.err
    if form == "name":
        assert result.text == aged(f"{new.key_id}\n")
        return
    if form in ("json", "yaml"):
        document = json.loads(result.out) if form == "json" else yaml.safe_load(result.out)
        assert (document["rotated"], document["dry_run"]) == (True, False)
        assert document["old_key"]["key_id_sha256"] == aged(old.key_id_sha256)
        assert document["new_key"]["key_id_sha256"] == aged(new.key_id_sha256)
        assert [each["action"] for each in document["steps"]] == ["generate", "test", "relabel", "relabel"]
        assert all(each["done"] for each in document["steps"])
        return
    digits = 64 if form == "wide" else 8
    for each in (old, new):
        assert re.search(rf" {aged(each.key_id)} +{aged(f'sha256:{each.key_id_sha256[:digits]}')} ", result.text)
    assert "k8s-kek@" in result.text


def test_what_was_written_before_is_read_after(at: Run, kmsd: Kmsd) -> None:
    sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"before", uid="1"))
    assert at("rotate", "--yes").code == 0
    opened = kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="2"))
    assert opened.plaintext == b"before"
    assert kmsd.v2("Status").key_id != sealed.key_id


def test_without_a_terminal_it_wants_yes_and_does_nothing(at: Run, kmsd: Kmsd) -> None:
    before = keys(kmsd)
    result = at("rotate", stdin=b"y\n")
    assert (result.code, result.out) == (2, b"")
    assert "say --yes" in result.err
    assert keys(kmsd) == before


def test_with_from_a_repeated_command_rotates_once(at: Run, kmsd: Kmsd) -> None:
    old = kmsd.status().write_key.key_id
    first = at("rotate", "--yes", "--from", old, "-o", "json")
    second = at("rotate", "--yes", "--from", old, "-o", "json")
    assert [first.code, second.code] == [0, 0]
    assert json.loads(first.out)["new_key"]["key_id"] == json.loads(second.out)["new_key"]["key_id"]
    assert json.loads(second.out)["rotated"] is False
    assert "it had been rotated already" in second.err
    assert len(keys(kmsd)) == 2


def test_two_commands_without_from_rotate_twice(at: Run, kmsd: Kmsd) -> None:
    assert at("rotate", "--yes").code == at("rotate", "--yes").code == 0
    assert len(keys(kmsd)) == 3


REFUSED = [
    ("rotate wrong-label --yes", 2, "writes with the label 'k8s-kek'"),
    ("rotate --token nope --yes", 5, "no token called 'nope'"),
    ("rotate --node /run/x --yes", 2, "needs --watch"),
    ("rotate --retire --yes", 2, "needs --watch"),
    ("rotate --endpoints 127.0.0.1:1 --yes", 2, "needs --watch"),
    ("rotate --scan-every 5s --yes", 2, "needs --watch"),
    ("rotate --watch --dry-run", 2, "nothing to watch"),
    ("rotate --watch --retire --yes", 2, "nothing says where etcd is"),
    ("rotate --watch --yes --endpoints ftp://x", 2, "neither http"),
    ("rotate --watch --yes --endpoints 127.0.0.1:1 --scan-every 10ms", 2, "must be 1s at least, got 0.01s"),
    ("rotate --watch --yes --node a=/x --node a=/y", 2, "a name of its own"),
    ("rotate --watch --yes --node this-node=/x", 2, "a name of its own"),
    ("rotate --watch --yes --node =/x", 2, "a name of its own"),
    ("rotate --watch --yes --node a=relative", 2, "no target is named"),
    ("rotate --watch --yes --node /nonexistent.sock", 3, "no socket /nonexistent.sock"),
    ("rotate --watch --yes -o name", 2, "no output format name"),
    ("rotate --timeout 0 --yes", 2, "a duration"),
]


def test_what_cannot_work_is_refused_and_changes_nothing(at: Run, kmsd: Kmsd) -> None:
    before = keys(kmsd)
    for line, code, words in REFUSED:
        result = at(*line.split())
        assert (result.code, result.out) == (code, b""), line
        assert words in result.err
        assert "hint: " in result.err, line
        assert keys(kmsd) == before, line


def test_too_many_nodes_are_refused(at: Run) -> None:
    result = at("rotate", "--watch", "--yes", *(word for each in range(64) for word in ("--node", f"n{each}=/x")))
    assert result.code == 2
    assert "--node may be given 63 times at most" in result.err


def test_a_label_that_is_right_is_no_obstacle(at: Run) -> None:
    assert at("rotate", "k8s-kek", "--yes").code == 0


def test_without_a_write_key_there_is_nothing_to_rotate(
    run: Run, start_kmsd: Callable[..., Kmsd], monkeypatch: pytest.MonkeyPatch
) -> None:
    kmsd = start_kmsd()
    monkeypatch.setenv("KMSCTL_TARGET", str(kmsd.admin_socket))
    for line in (["rotate", "--yes"], ["rotate", "--watch", "--yes"], ["rotate", "--dry-run"]):
        result = run(*line)
        assert result.code in (5, 6), result.err
        assert "keygen" in result.err


class Breaking(Canned):
    """Plans a rotation, and fails in the middle of it."""

    def rotate_key(self, request: pb.RotateKeyRequest) -> pb.RotateKeyResponse:
        if not request.dry_run:
            raise _failed("DEADLINE_EXCEEDED", "the token gave no answer", "look at the token")
        return pb.RotateKeyResponse(old_key=self.status.write_key)


def test_when_no_answer_comes_the_hint_names_the_command_that_never_rotates_twice(run: Run, directory: Path) -> None:
    with serve(Breaking(directory)) as breaking:
        result = run("rotate", "--yes")
    assert (result.code, result.out) == (1, b"")
    wanted = f"`kmsctl rotate --from {breaking.status.write_key.key_id}` does what is left, and never rotates twice"
    assert f"hint: look at the token; {wanted}" in result.err


def test_it_rotates_only_away_from_the_key_that_it_has_seen(run: Run, directory: Path) -> None:
    with serve(Breaking(directory)) as breaking:
        run("rotate", "--yes")
        asked = [each for each in breaking.requests if isinstance(each, pb.RotateKeyRequest)]
    assert [each.dry_run for each in asked] == [True, False]
    assert {each.from_key_id for each in asked} == {breaking.status.write_key.key_id}


def test_kmsd_down_is_unreachable(run: Run) -> None:
    for line in (["rotate", "--yes"], ["rotate", "--watch", "--yes"]):
        result: Result = run(*line)
        assert (result.code, result.out) == (3, b"")
