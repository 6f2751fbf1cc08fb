"""The audit's file: crashes at every byte, other programs at work on it, files put aside and deleted."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.audit import disk
from kmsd.audit.chain import MAX_LINE, START, ChainVerdict, Entry, Record, parse, verify_files
from kmsd.audit.file import AuditFile
from kmsd.audit.lock import InUse
from kmsd.audit.torn import Note
from kmsd.errors import Misconfigured
from tests.observe.chains import chain, entry, lines

BIG = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.jsonl"


class Opened:
    """A file that is open for a while, and the notes it began with, recorded as kmsd does."""

    def __init__(self, path: Path, max_bytes: int = BIG, keep: int = 10) -> None:
        self.file = AuditFile(path, max_bytes, keep)

    def __enter__(self) -> Opened:
        self.notes = self.file.open()
        self.record(self.notes)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def record(self, notes: list[Note]) -> None:
        if notes:
            self.file.append([Entry(unix_ms=0, kind="event", action=action, detail=text) for action, text in notes])

    def append(self, count: int) -> list[Record]:
        return self.file.append([entry(n) for n in range(count)])


def written(path: Path) -> list[Record]:
    return [parse(line) for line in path.read_bytes().splitlines()]


def intact(path: Path) -> ChainVerdict:
    verdict = verify_files(path)
    assert verdict.problem == ""
    return verdict


def refused(path: Path, error: type[Exception], match: str) -> None:
    file = AuditFile(path, BIG, 10)
    with pytest.raises(error, match=match):
        file.open()
    assert not file.is_open
    file.close()


def test_records_go_on_over_restarts(path: Path) -> None:
    made: list[Record] = []
    for _ in range(3):
        with Opened(path) as opened:
            assert opened.notes == []
            assert opened.file.head == (made[-1].head if made else START)
            made += opened.append(2)
            opened.append(0)
    assert written(path) == made
    assert [record.seq for record in made] == [1, 2, 3, 4, 5, 6]
    assert intact(path).head == made[-1].head


def test_nobody_else_can_read_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        with Opened(path, max_bytes=1) as opened:
            opened.append(2)
            opened.file.rotate()
    finally:
        os.umask(umask)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
        "audit.jsonl": 0o600,
        "audit.jsonl.lock": 0o600,
        "audit-1.jsonl": 0o600,
    }


def test_a_line_that_a_crash_tore_at_any_byte_is_kept_aside_and_the_chain_goes_on(path: Path) -> None:
    whole = lines(chain(3))
    path.parent.mkdir(mode=0o700)
    for kept in range(len(whole[2])):
        for torn in path.parent.glob("*torn*"):
            torn.unlink()
        path.write_bytes(b"".join(whole[:2]) + whole[2][:kept])
        with Opened(path) as opened:
            opened.append(1)
        intact(path)
        records = written(path)
        if kept == 0:
            assert opened.notes == []
            assert len(records) == 3
        elif kept == len(whole[2]) - 1:
            assert records[2].line == whole[2].decode().rstrip("\n")
            assert records[3].action == "audit mended"
            assert "record 3 lacked its newline" in records[3].detail
            assert not list(path.parent.glob("*torn*"))
        else:
            assert records[2].action == "audit mended"
            assert f"{kept} bytes of an unfinished line lie in audit-torn-3" in records[2].detail
            assert (path.parent / "audit-torn-3").read_bytes() == whole[2][:kept]
            assert (path.parent / "audit-torn-3").stat().st_mode & 0o777 == 0o600


def test_a_line_that_ends_like_one_but_follows_nothing_is_kept_aside(path: Path) -> None:
    other = lines(chain(3))
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"".join(lines(chain(4))[1:2]) + other[0][:-1])
    with Opened(path) as opened:
        assert len(opened.notes) == 1
    assert (path.parent / "audit-torn-3").read_bytes() == other[0][:-1]


def test_a_crash_between_moving_aside_and_saying_so_is_made_good(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(2)
    with path.open("ab") as file:
        file.write(b'{"seq":3,')
    file_only = AuditFile(path, BIG, 10)
    assert len(file_only.open()) == 1  # moved aside; and here it crashes again
    file_only.close()
    with Opened(path) as opened:
        assert len(opened.notes) == 1
    assert "9 bytes of an unfinished line lie in audit-torn-3" in written(path)[2].detail
    with Opened(path) as opened:
        assert opened.notes == [], "said once, and no more"
    # And if the record that should say so is torn itself:
    path.write_bytes(path.read_bytes()[:-20])
    with Opened(path) as opened:
        assert "audit-torn-3-2" in opened.notes[0][1]
    intact(path)


def test_zeros_that_a_power_cut_left_are_kept_aside_in_bounded_size(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(2)
    whole = path.stat().st_size
    os.truncate(path, 20_000_000)
    with Opened(path) as opened:
        assert f"{20_000_000 - whole} bytes" in opened.notes[0][1]
    assert (path.parent / "audit-torn-3").stat().st_size == 1024 * 1024
    assert intact(path).records == 3


def test_lines_at_the_end_that_are_no_records_stay_and_are_told(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(2)
    with path.open("ab") as file:
        file.write(b"hello\n" * 30_000 + b"x" * 3 * MAX_LINE + b"\n")
    with Opened(path) as opened:
        assert "does not end with a record" in opened.notes[0][1]
        assert opened.file.head.seq == 3
    verdict = verify_files(path)
    assert verdict.findings[0].what == "inserted"
    assert verdict.findings[0].line == 3


def test_a_last_record_that_was_changed_is_told_and_stays(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(2)
    path.write_bytes(path.read_bytes().replace(b"RotateKey", b"NotateKey"))
    with Opened(path) as opened:
        assert "record 2" in opened.notes[0][1]
        assert "was changed" in opened.notes[0][1]
    assert [(each.what, each.line) for each in verify_files(path).findings] == [("changed", 2)]


def test_a_second_kmsd_on_the_same_file_is_refused_and_told_who_has_it(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(1)
        with pytest.raises(
            InUse, match=rf"another kmsd \(pid {os.getpid()}\) writes the audit .*audit\.jsonl"
        ) as raised:
            AuditFile(path, BIG, 10).open()
        assert "state.dir" in raised.value.hint
        opened.append(1)
    with Opened(path) as opened:
        opened.append(1)
    assert intact(path).records == 3


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(mode)
    refused(tmp_path / "d" / "audit.jsonl", Misconfigured, rf"others may write to .*/d \(mode {mode:04o}\)")
    assert list((tmp_path / "d").iterdir()) == []


def test_a_file_that_others_may_write_to_and_one_that_is_none_are_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch()
    path.chmod(0o620)
    refused(path, Misconfigured, "others may write to")
    path.unlink()
    os.mkfifo(path)
    refused(path, OSError, "not a regular file")
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(b"")
    path.symlink_to(tmp_path / "elsewhere")
    refused(path, OSError, "symbolic links")


def test_the_chain_goes_on_over_files_put_aside_and_the_oldest_are_deleted_by_plan(path: Path) -> None:
    for _ in range(3):
        with Opened(path, max_bytes=2000, keep=2) as opened:
            for _ in range(6):
                opened.append(3)
                if opened.file.full:
                    opened.record(opened.file.rotate())
                    opened.record(opened.file.prune())
        verdict = intact(path)
    aside = sorted(path.parent.glob("audit-*.jsonl"), key=lambda file: int(file.stem[6:]))
    assert len(aside) == 2
    assert verdict.first_seq == int(aside[0].stem[6:]) > 1
    assert verdict.files == (*(str(file) for file in aside), str(path))
    for before, after in zip(aside, [*aside[1:], path], strict=True):
        first = written(after)[0]
        assert first.prev == written(before)[-1].hash
        assert first.seq == written(before)[-1].seq + 1
    actions = [record.action for record in written(path) + written(aside[1])]
    assert "audit file put aside" in actions
    assert "audit files deleted" in actions


def test_a_crash_between_putting_aside_and_beginning_anew_is_made_good(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(4)
    path.rename(path.with_name("audit-1.jsonl"))
    with Opened(path) as opened:
        assert opened.append(1)[0].seq == 5
        opened.file.rotate()
        opened.append(1)
    assert sorted(file.name for file in path.parent.glob("*.jsonl")) == [
        "audit-1.jsonl",
        "audit-5.jsonl",
        "audit.jsonl",
    ]
    assert intact(path).records == 6


def test_a_file_is_not_put_aside_over_another(path: Path) -> None:
    with Opened(path) as opened:
        opened.append(2)
        path.with_name("audit-1.jsonl").write_bytes(b"something else\n")
        with pytest.raises(FileExistsError, match="move it away"):
            opened.file.rotate()
        opened.append(2)
    assert path.with_name("audit-1.jsonl").read_bytes() == b"something else\n"
    assert len(written(path)) == 4


def test_torn_pieces_go_with_the_files_they_are_of(path: Path) -> None:
    for seq in (1, 2, 5):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        (path.parent / f"audit-torn-{seq}").touch()
    with Opened(path, keep=1) as opened:
        for _ in range(2):
            opened.append(4 - opened.file.head.seq % 4)
            opened.file.rotate()
        assert opened.file.prune()
    assert [file.name for file in path.parent.glob("*torn*")] == ["audit-torn-5"]


def other_deletes(path: Path) -> None:
    path.unlink()


def other_moves(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def other_replaces(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def other_cuts(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 30)


def other_empties(path: Path) -> None:
    os.truncate(path, 0)


def other_appends(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"hello\n")


@pytest.mark.parametrize(
    "disturb", [other_deletes, other_moves, other_replaces, other_cuts, other_empties, other_appends]
)
def test_what_another_program_does_to_the_file_is_noticed_and_the_chain_goes_on(
    path: Path, disturb: Callable[[Path], None]
) -> None:
    with Opened(path) as opened:
        opened.append(3)
        assert opened.file.disturbed() == ""
        disturb(path)
        assert "another program" in opened.file.disturbed()
        what = opened.file.disturbed()
        opened.record([*opened.file.open(), ("audit disturbed", what)])
        assert opened.file.disturbed() == ""
        assert opened.append(1)[0].seq > 4, "the chain goes on from what kmsd wrote last"
    known = opened.file.head
    verdict = verify_files(path, [known])
    assert verdict.head == known
    assert verdict.intact == (disturb is other_replaces)  # the same content is the same chain


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 5)),
            st.tuples(st.just("tear"), st.integers(1, 400)),
            st.tuples(st.just("rotate"), st.just(0)),
            st.tuples(st.just("restart"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_after_any_crashes_the_chain_is_intact_and_only_what_was_not_synced_may_lack(
    steps: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "audit" / "audit.jsonl"
        kept = 0
        for step, size in steps:
            with Opened(path, keep=3) as opened:
                match step:
                    case "append":
                        opened.append(size)
                    case "rotate" if path.stat().st_size:
                        opened.record(opened.file.rotate())
                        opened.record(opened.file.prune())
                kept = opened.file.head.seq
            if step == "tear" and path.stat().st_size:
                os.truncate(path, max(0, path.stat().st_size - size))
        with Opened(path) as opened:
            opened.append(1)
        verdict = intact(path)
        assert verdict.head.seq >= kept - 3
        assert verdict.records == verdict.head.seq - verdict.first_seq + 1


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    umask = os.umask(0o022)
    yield
    os.umask(umask)


def test_a_write_that_failed_is_not_taken_for_what_another_program_did(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap that is known stays in the file: a look at all of it would find it again."""
    with Opened(path) as opened:
        opened.append(3)
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:1] + kept[2:]))
    with Opened(path) as opened:
        opened.append(1)
        time.sleep(0.01)

        def fails(file: int, data: bytes) -> None:
            os.write(file, data[:10])
            raise OSError(errno.ENOSPC, "no space")

        with monkeypatch.context() as full:
            full.setattr(disk, "write", fails)
            with pytest.raises(OSError, match="no space"):
                opened.append(1)
        assert opened.file.disturbed() == ""
        opened.append(1)
        assert opened.file.disturbed() == ""
