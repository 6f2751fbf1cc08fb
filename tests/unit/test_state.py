"""What is kept across restarts, and that nothing depends on it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from kmsd import state
from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.tokens import SoftToken


def test_what_was_remembered_is_recalled_for_the_same_label_only(tmp_path: Path) -> None:
    state.remember(tmp_path / "s", "k8s-kek", "an-id")
    state.remember(tmp_path / "s", "k8s-kek", "another-id")
    assert state.recall(tmp_path / "s", "k8s-kek") == "another-id"
    assert state.recall(tmp_path / "s", "other") == ""


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    state.remember(tmp_path / "s", "k8s-kek", "an-id")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "s").iterdir()] == [0o600]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"label": "k8s-kek"}', '{"label": "k8s-kek", "key_id": 7}', "\xff"]
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "write-key.json").write_text(content, encoding="latin-1")
    assert state.recall(tmp_path, "k8s-kek") == ""


@pytest.mark.processes
def test_a_restart_without_the_token_names_the_key_that_wrote(short_tmp: Path, token: SoftToken) -> None:
    folder = short_tmp / "d"
    folder.mkdir()
    with Kmsd(folder, token, ("--auto-create",)) as kmsd:
        kmsd.wait_ok()
        key_id = kmsd.v2("Status").key_id
    away = token.folder / "away"
    (token.folder / "tokens").rename(away)
    with Kmsd(folder, token) as kmsd:
        status = kmsd.v2("Status")
        assert status.healthz != "ok"
        assert status.key_id == key_id
        away.rename(token.folder / "tokens")
        wait_for(lambda: kmsd.v2("Status").healthz == "ok", 30)
        assert kmsd.v2("Status").key_id == key_id


@pytest.mark.processes
def test_a_state_directory_that_cannot_be_written_is_a_warning_and_no_more(short_tmp: Path, token: SoftToken) -> None:
    folder = short_tmp / "d"
    folder.mkdir()
    (folder / "state").write_text("a file where the directory should be")
    with Kmsd(folder, token, ("--auto-create",)) as kmsd:
        kmsd.wait_ok()
        assert any("state directory" in line["event"] for line in kmsd.log_lines())


@pytest.mark.parametrize("complete", [True, False])
def test_uses_that_may_lack_the_last_minute_are_not_taken_for_all(tmp_path: Path, complete: bool) -> None:
    state.remember_uses(tmp_path, state.RememberedUses(1000.0, {"an-id": 2000.0}, complete, frozenset({"made"})))
    recalled = state.recall_uses(tmp_path)
    assert recalled.last == {"an-id": 2000.0}
    assert recalled.since == (1000.0 if complete else 0.0)
    assert recalled.made == ({"made"} if complete else frozenset())


@pytest.mark.parametrize("made", ['"made"', "[1, null]", "{}"])
def test_what_was_made_is_nothing_if_it_is_damaged(tmp_path: Path, made: str) -> None:
    (tmp_path / "uses.json").write_text(f'{{"since": 1, "last_used": {{}}, "complete": true, "made_unused": {made}}}')
    assert state.recall_uses(tmp_path).made == frozenset()


def test_uses_are_no_longer_complete_once_a_kmsd_goes_on_from_them(tmp_path: Path) -> None:
    known = state.RememberedUses(1000.0, {"an-id": 2000.0}, complete=True, made=frozenset({"made"}))
    state.remember_uses(tmp_path, known)
    assert state.withdraw_uses(tmp_path, known)
    assert state.recall_uses(tmp_path) == state.RememberedUses(0.0, {"an-id": 2000.0})
    (tmp_path / "file").touch()
    assert not state.withdraw_uses(tmp_path / "file", known), "where nothing can be written nothing is known"


def _rotated(kmsd: Kmsd) -> admin.GetStatusResponse.Following:
    """Have a kmsd rotate and a caller follow; return what it then tells of that."""
    kmsd.wait_ok()
    kmsd.admin("RotateKey")
    key_id = kmsd.v2("Status").key_id
    assert kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"x")).key_id == key_id
    following: admin.GetStatusResponse.Following = kmsd.status().following
    return following


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_times_of_a_rotation_do_not_move_when_kmsd_restarts(
    short_tmp: Path, token: SoftToken, number: signal.Signals
) -> None:
    folder = short_tmp / "d"
    folder.mkdir()
    kept = folder / "state" / "following.json"
    with Kmsd(folder, token, ("--auto-create",)) as kmsd:
        told = _rotated(kmsd)
        wait_for(lambda: kept.exists() and json.loads(kept.read_text())["first_encrypt"] > 0)
        assert kept.stat().st_mode & 0o777 == 0o600
        kmsd.stop(number)
        kmsd.start()
        # Before anybody has asked for Status again.
        again = kmsd.status().following
        assert again == told
        kmsd.wait_ok()
        later = kmsd.status().following
        assert later.last_status_unix_ms > told.last_status_unix_ms
        later.last_status_unix_ms = told.last_status_unix_ms
        assert later == told


@pytest.mark.processes
def test_times_of_a_rotation_that_cannot_be_believed_are_left_out(short_tmp: Path, token: SoftToken) -> None:
    folder = short_tmp / "d"
    folder.mkdir()
    with Kmsd(folder, token, ("--auto-create",)) as kmsd:
        told = _rotated(kmsd)
        assert told.previous_key_id
        kmsd.stop()
        (folder / "state" / "following.json").chmod(0o666)
        kmsd.start()
        assert kmsd.status().following == admin.GetStatusResponse.Following()
        kmsd.wait_ok()
        following = kmsd.status().following
        assert following.since_unix_ms > told.since_unix_ms
        assert not following.previous_key_id


@pytest.mark.parametrize("since", ["1e300", "-1", "NaN", '"1"', "null"])
def test_a_time_that_cannot_be_is_not_believed(tmp_path: Path, since: str) -> None:
    times = '"first_status": 0, "last_status": 0, "first_encrypt": 0, "last_encrypt": 0'
    text = f'{{"key_id": "an-id", "previous": "", "since": {since}, {times}}}'
    (tmp_path / "following.json").write_text(text)
    assert state.recall_following(tmp_path) == {}
    (tmp_path / "following.json").write_text(text.replace(since, "1.5"))
    assert state.recall_following(tmp_path)["since"] == 1.5
