"""`make dev-remote`: what a newcomer sees first of a key manager, a node and its proxy."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.daemons import wait_for

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def test_it_shows_a_round_trip_says_what_to_type_and_leaves_nothing_behind(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as out:
        running = subprocess.Popen(
            ["sh", "scripts/dev-remote.sh"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: "Ctrl-C stops both" in said.read_text() or running.poll() is not None, 90)
        text = said.read_text()
        assert running.poll() is None, text
        assert "its proxy has had a secret encrypted and decrypted" in text
        found = re.search(r"removes (/\S+)\.\n", text)
        assert found is not None
        status = re.search(r"^  (\.venv/bin/kmsctl .*/node/admin\.sock status)$", text, re.MULTILINE)
        assert status is not None
        shown = subprocess.run(status[1].split(), cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        assert "127.0.0.1:" in shown.stdout
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(30)
    assert not Path(found[1]).exists()
