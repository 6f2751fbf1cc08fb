"""kmsd under every fault that docs/RELIABILITY.md lists: the rows of its table are what these tests measure.

`make chaos`, and whoever names one with -k, gets all of them. Elsewhere every third of the errors that a token may
answer in each operation stands for its neighbours, which are alike: together they would take minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tpm
from tests.chaos import clock, make_chaos
from tests.chaos.faults import FAULTS, NO_OVERRIDE
from tests.chaos.measuring import QUICK, ROWS, Fault, Rig, measure
from tests.daemons import KMSD, Kmsd
from tests.p11kit import make_p11kit
from tests.tokens import make_token

_KEY_ID = "01900000-0000-7000-8000-000000000001"


def _rig(folder: Path, token: Any, flags: tuple[str, ...], command: tuple[str, ...] = (), **more: str) -> Rig:
    if not isinstance(token, tpm.TpmToken):
        token.import_aes("k8s-kek", bytes(range(32)), _KEY_ID.encode())
    served = folder / "d"
    served.mkdir()
    environment = {**QUICK, **more}
    kmsd = Kmsd(served, token, flags, environment, default_flags=False, command=(*command, KMSD, "serve"))
    return Rig(kmsd.start().wait_ok(), token, folder, flags)


def _chaos(folder: Path, command: tuple[str, ...] = (), **more: str) -> Rig:
    token = make_chaos(folder / "hsm")
    return _rig(folder, token, token.flags, command, **more)


def _softhsm(folder: Path) -> Rig:
    token = make_token(folder / "hsm")
    flags = ("--provider=softhsm", f"--p11-label={token.label}", f"--p11-pin-file={token.pin_file}")
    return _rig(folder, token, flags)


def _p11kit(folder: Path) -> Rig:
    token = make_p11kit(folder / "hsm")
    # Its older versions let no AES-GCM through.
    token.import_hmac("k8s-kek.hmac", bytes(range(32)), _KEY_ID.encode())
    return _rig(folder, token, token.flags)


def _tpm(folder: Path) -> Rig:
    token = tpm.make_tpm(folder / "hsm", managed=True)
    token.add_pair("k8s-kek", "k8s-kek.hmac", _KEY_ID)
    return _rig(folder, token, token.flags, KMSD_TOKEN__SESSIONS="2")


def _clock(folder: Path) -> Rig:
    return _chaos(folder, (), **clock(folder / "clock", 0))


_RIGS: dict[str, Callable[[Path], Rig]] = {
    "chaos": _chaos,
    "softhsm": _softhsm,
    "p11kit": _p11kit,
    "tpm": _tpm,
    "no-override": lambda folder: _chaos(folder, NO_OVERRIDE),
    "clock": _clock,
}


def _end(rig: Rig) -> None:
    rig.kmsd.stop()
    if hasattr(rig.token, "stop"):
        rig.token.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Rig]]:
    """One kmsd for the many faults that differ by the token's answer alone: that it serves on is part of the proof."""
    rigs: list[Rig] = []
    yield rigs
    for rig in rigs:
        _end(rig)


@pytest.fixture
def rig(request: pytest.FixtureRequest, shared: list[Rig], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    fault: Fault = request.getfixturevalue("fault")
    if fault.on == "shared":
        if not shared:
            shared.append(_chaos(tmp_path_factory.mktemp("k")))
        shared[0].kmsd.wait_ok()
        yield shared[0]
        return
    made = _RIGS[fault.on](tmp_path_factory.mktemp("k"))
    yield made
    _end(made)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" not in metafunc.fixturenames:
        return
    alike = [fault for fault in FAULTS if fault.on == "shared"]
    whole = ROWS in os.environ or metafunc.config.getoption("keyword")
    left_out = set() if whole else {fault.name for at, fault in enumerate(alike) if at % 3}
    chosen = [fault for fault in FAULTS if fault.name not in left_out]
    metafunc.parametrize("fault", chosen, ids=lambda fault: fault.name)


def test_it_serves_on_tells_and_heals(rig: Rig, fault: Fault, request: pytest.FixtureRequest) -> None:
    measure(fault, rig, f"{Path(__file__).name}::{request.node.name}")
