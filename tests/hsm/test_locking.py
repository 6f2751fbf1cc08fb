"""The module is loaded so that many threads may be inside of it at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rpc.known import WRITE
from tests.tokens import MODULE, SoftToken, make_token

_TRIES = 5


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    made = make_token(tmp_path_factory.mktemp("k") / "hsm")
    made.objects(WRITE.step)
    return made


def _hammer(token: SoftToken, how: str, timeout: float) -> tuple[int, str]:
    """Exit code and output; a run that hangs has the exit code of `timeout` (1)."""
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.hsm.hammer"),
                *(how, MODULE, token.label, str(token.pin_file), WRITE.key_id.encode().hex()),
            ],
            cwd=Path(__file__).parents[2],
            env=token.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"hung for {timeout} s"
    return done.returncode, done.stdout + done.stderr


def test_many_threads_use_the_module_that_kmsd_loaded(token: SoftToken) -> None:
    code, output = _hammer(token, "kmsd", timeout=60)
    assert code == 0, output


@pytest.mark.parametrize("how", ["unlocked", "plain"])
def test_without_os_locking_the_same_threads_show_it(token: SoftToken, how: str) -> None:
    """That the test above can fail: the same work crashes, breaks or hangs a module not told of threads."""
    for _ in range(_TRIES):
        code, _output = _hammer(token, how, timeout=10)
        if code != 0:
            return
    pytest.fail(f"{_TRIES} runs without locking went well: the hammer hits too softly")
