"""docs/quickstart.md, walked as it stands by a new user with an empty environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.daemons import KMSD
from tests.remote.machine import BECOME
from tests.strangers import UID, needs_root, open_folder
from tests.walk import EDITOR, page, walk


@contextmanager
def no_runtime_folder() -> Iterator[None]:
    """Remove what a user without XDG_RUNTIME_DIR has its sockets in."""
    yield
    shutil.rmtree(f"/tmp/runtime-{UID}", ignore_errors=True)


@needs_root
def test_a_new_user_gets_from_nothing_to_a_data_key_that_is_opened() -> None:
    with open_folder() as folder, no_runtime_folder():
        home, bin_ = folder / "home", folder / "bin"
        for each in (home, bin_):
            each.mkdir()
        editor = bin_ / "edit"
        editor.write_text(EDITOR)
        editor.chmod(0o755)
        os.chown(home, UID, UID)
        path = f"{bin_}:{Path(KMSD).parent}:/usr/bin:/bin"
        # What is compiled already, as an installed kmsd is; nothing else of this process.
        compiled = f"PYTHONPYCACHEPREFIX={os.environ['PYTHONPYCACHEPREFIX']}"
        shell = ["env", "-i", f"HOME={home}", f"PATH={path}", "EDITOR=edit", "TERM=dumb", compiled, *BECOME]
        shell += [f"--reuid={UID}", f"--regid={UID}", "bash", "--norc", "-euc"]
        # The last block takes all away that the one before has made.
        text = page().replace("kill $!\n", f"cp encryption-config.yaml {home}\nkill $!\n")
        done = walk(shell, {"PATH": os.environ["PATH"]}, f"cd\n{text}")
        assert done.code == 0, done.text
        assert "\nopened\n" in done.text
        assert "\nstill opened\n" in done.text
        (kms, _) = yaml.safe_load((home / "encryption-config.yaml").read_text())["resources"][0]["providers"]
        assert kms["kms"]["endpoint"].endswith("/kms/kms.sock")
        assert not (home / "kms").exists()
        assert done.seconds < 60
