"""Fixtures that every package of tests shares: a real token, and a real kmsd on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.daemons import Kmsd, check_logs, starting
from tests.tokens import SoftToken, make_token

LONGEST = (
    "chaos/test_reliability.py",
    "remote/test_partition.py",
    "enrol/test_soak.py",
    "ctl/test_help.py",
    "remote/test_many.py",
    "hsm/test_hosts.py",
    "rotation/test_together.py",
    "tui/test_shell.py",
    "hsm/test_strange_tokens.py",
    "rpc/test_liveness.py",
    "admin/test_doctor.py",
    "hsm/test_token_loss.py",
    "chaos/test_soak.py",
    "ctl/test_bootstrap.py",
    "serving/test_serving.py",
    "ctl/test_bad_input.py",
    "remote/test_bad_upstreams.py",
    "remote/test_failover.py",
    "remote/test_token_key.py",
    "remote/test_ca.py",
    "security/test_floods.py",
    "tui/test_enrolment.py",
    "tui/test_tenants.py",
    "tui/test_proxy_view.py",
    "unit/test_dev.py",
    "enrol/test_est_server.py",
    "hsm/test_pin_guard.py",
    "tui/test_keys.py",
    "tui/test_pictures.py",
    "tui/test_zoom.py",
    "hsm/test_tpm_serving.py",
    "rotation/test_kill.py",
    "hsm/test_tpm_room.py",
)
"""Modules that take longest, at most first. They begin first, so that none of them is still at it when all others are
done."""
_PLACES = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


def pytest_configure() -> None:
    # As `make` has it, for pytest alone: what tests start finds compiled what it imports.
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".venv" / "pycache"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # What tests start buffers as it does anywhere, and can be forked (`tests.forkserver`).
    os.environ.pop("PYTHONUNBUFFERED", None)
    # A shell without job control starts what it puts behind itself with SIGINT ignored, and every program that a
    # test starts would inherit that: Ctrl-C would then end none of them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As nohup does with SIGHUP, which kmstui then ignores as it should.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # How long an example takes says something of the machine, and nothing of the program.
    settings.register_profile("kmsd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("kmsd")


@pytest.fixture(autouse=True)
def nothing_but_its_log() -> Iterator[None]:
    """After each test: no kmsd wrote a line to stderr that is not in the format of its log."""
    yield
    check_logs()


@pytest.fixture
def short_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a path short enough for Unix sockets."""
    return tmp_path_factory.mktemp("k")


@pytest.fixture
def token(short_tmp: Path) -> SoftToken:
    """A fresh SoftHSM token without keys."""
    return make_token(short_tmp / "hsm")


@pytest.fixture
def start_kmsd(short_tmp: Path, token: SoftToken) -> Iterator[Callable[..., Kmsd]]:
    """Starts a kmsd on the token, as often as it is called; all are stopped at the end."""
    with starting(short_tmp, token) as start:
        yield start


@pytest.fixture
def kmsd(start_kmsd: Callable[..., Kmsd]) -> Kmsd:
    """A kmsd that serves with a fresh write key."""
    return start_kmsd("--auto-create").wait_ok()
