"""A path is walked as the kernel walks it, and refused where another user could put something else in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd import safepath
from kmsd.config.sources import load
from kmsd.errors import Misconfigured
from tests.strangers import UID, needs_root, open_folder, stranger


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def _refused(path: Path, *, shared: bool = False) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        safepath.check(path, "the socket", shared=shared)
    return caught.value


@pytest.mark.parametrize("depth", ["parent", "grandparent", "above"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_that_others_may_write_to_is_refused_wherever_it_stands(
    folder: Path, depth: str, mode: int
) -> None:
    path = folder / "a" / "b" / "c"
    path.mkdir(parents=True)
    assert safepath.check(path, "the socket")
    open_to_all = {"parent": path, "grandparent": path.parent, "above": path.parent.parent}[depth]
    open_to_all.chmod(mode)
    error = _refused(path, shared=True)
    assert error.message == (
        f"others may write to the directory {open_to_all} (mode {mode:04o}), and so replace the socket"
    )
    assert error.hint == f"chmod go-w {open_to_all}"
    # The command mends it.
    assert os.system(error.hint) == 0  # noqa: S605 - our own sentence
    assert safepath.check(path, "the socket")


def test_a_sticky_directory_is_passed_but_not_kept_files_in_unless_that_is_said(folder: Path) -> None:
    path = folder / "shared"
    path.mkdir()
    path.chmod(0o1777)
    (path / "ours").mkdir()
    assert safepath.check(path / "ours", "the audit")
    assert safepath.check(path, "the socket", shared=True)
    assert "others may write to the directory" in _refused(path).message


@pytest.mark.processes
@needs_root
def test_in_a_sticky_directory_what_another_user_made_is_refused(folder: Path) -> None:
    folder.chmod(0o1777)
    assert stranger("mkdir", "-m", "755", folder / "theirs").returncode == 0
    error = _refused(folder / "theirs" / "deeper")
    assert f"the directory {folder / 'theirs'} belongs to user {UID}, who could replace the socket" in error.message
    assert f"chown root {folder / 'theirs'}" in error.hint


@pytest.mark.processes
@needs_root
@pytest.mark.parametrize("where", ["parent", "above"])
def test_a_symbolic_link_of_another_user_is_refused_although_it_leads_to_a_good_place(folder: Path, where: str) -> None:
    folder.chmod(0o1777)
    good = folder / "good"
    good.mkdir(mode=0o755)
    (good / "deeper").mkdir()
    link = folder / "link"
    assert stranger("ln", "-s", good, link).returncode == 0
    error = _refused(link if where == "parent" else link / "deeper")
    assert f"the symbolic link {link} belongs to user {UID}, who could point it elsewhere" in error.message
    assert f"chown -h root {link}" in error.hint


def test_what_a_link_points_to_is_walked_too(folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open" / "inner").mkdir()
    (folder / "link").symlink_to("open/inner")
    assert safepath.check(folder / "link", "the socket")
    (folder / "open").chmod(0o777)
    assert str(folder / "open") in _refused(folder / "link").message
    # So is every directory that a .. in it leads through.
    (folder / "far").symlink_to("open/inner/../../good")
    (folder / "good").mkdir()
    assert str(folder / "open") in _refused(folder / "far").message


def test_dots_are_walked_as_the_kernel_does(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "link").symlink_to("a/b")
    (folder / "a" / "c").mkdir()
    # By the text of it this would be folder/c, which is not there.
    assert safepath.check(folder / "link" / ".." / "c", "the socket")
    assert not safepath.check(folder / "c", "the socket")


def test_links_in_a_circle_come_to_an_end(folder: Path) -> None:
    (folder / "x").symlink_to("y")
    (folder / "y").symlink_to("x")
    assert "more than 40 symbolic links" in _refused(folder / "x").message


def test_a_file_on_the_way_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    assert _refused(folder / "file" / "deeper").message == f"{folder / 'file'} is no directory"


def test_what_is_missing_is_made_closed_to_others_whatever_the_umask(folder: Path) -> None:
    for umask in (0, 0o77, 0o777):
        path = folder / f"{umask:o}" / "b" / "c"
        before = os.umask(umask)
        try:
            if umask == 0o777 and os.geteuid() != 0:
                continue
            safepath.prepare(path, "the socket", mode=0o710, gid=os.getegid())
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o7777 == 0o710
        assert not path.parent.stat().st_mode & 0o022
        safepath.prepare(path, "the socket")


@pytest.mark.processes
@needs_root
def test_nothing_is_made_along_a_path_that_others_steer(folder: Path) -> None:
    folder.chmod(0o1777)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    assert stranger("ln", "-s", elsewhere, folder / "link").returncode == 0
    with pytest.raises(Misconfigured, match="symbolic link"):
        safepath.prepare(folder / "link" / "new" / "newer", "the audit")
    assert list(elsewhere.iterdir()) == []


def test_a_path_with_dots_behind_what_is_missing_is_not_made(folder: Path) -> None:
    with pytest.raises(Misconfigured, match=r"has \.\. behind"):
        safepath.prepare(folder / "missing" / ".." / "b", "the audit")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("what", ["the configuration", "the PIN file", "the PKCS#11 module"])
def test_what_kmsd_reads_along_a_path_that_others_may_write_to_warns(folder: Path, what: str) -> None:
    """Whoever replaces one of them gets the PIN."""
    (folder / "open").mkdir()
    file = folder / "open" / "inner" / "file"
    file.parent.mkdir()
    file.write_text("")
    every: dict[str, dict[str, tuple[str, object]]] = {
        "the configuration": {},
        "the PIN file": {"token.pin_file": ("--p11-pin-file", str(file))},
        "the PKCS#11 module": {"token.module": ("--p11-lib", str(file))},
    }
    flags = every[what]
    config_file = file if what == "the configuration" else None
    file.chmod(0o600)
    assert load(flags, config_file=config_file, environ={}).warnings == ()
    (folder / "open").chmod(0o777)
    (warning,) = load(flags, config_file=config_file, environ={}).warnings
    assert warning == (
        f"others may write to the directory {folder / 'open'} (mode 0777), and so replace {what}: "
        f"chmod go-w {folder / 'open'}"
    )
