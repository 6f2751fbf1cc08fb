"""What a PKCS#11 module writes to stdout and stderr becomes lines of kmsd's log, bounded, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.observe.printed import Lines
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for

EVENT = "the PKCS#11 module printed a line"


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    return make_chaos(short_tmp / "chaos")


@pytest.fixture
def kmsd(short_tmp: Path, chaos: ChaosToken) -> Iterator[Kmsd]:
    folder = short_tmp / "d"
    folder.mkdir()
    with Kmsd(folder, chaos, (*chaos.flags, "--auto-create"), default_flags=False) as running:
        yield running.wait_ok()


def printed(kmsd: Kmsd) -> list[dict[str, Any]]:
    return [line for line in kmsd.log_lines() if line["event"] == EVENT]


def test_what_a_module_prints_is_in_the_log(kmsd: Kmsd, chaos: ChaosToken) -> None:
    with chaos.told("C_Encrypt print=2 count=1"):
        kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"p"))
        wait_for(lambda: len(printed(kmsd)) >= 4)
    said = printed(kmsd)
    assert {line["line"] for line in said} == {
        f"{where} {at} of C_Encrypt" for where in ("out", "err") for at in (1, 2)
    }
    assert {line["level"] for line in said} == {"warning"}
    assert {line["token"] for line in said} == {chaos.label}


def test_a_module_that_prints_without_end_fills_no_log(kmsd: Kmsd, chaos: ChaosToken) -> None:
    with chaos.told("C_Encrypt print=20000"):
        for _ in range(5):
            kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"p"))
    assert 0 < len(printed(kmsd)) <= 60


def heard(*chunks: bytes) -> list[tuple[str, int]]:
    told: list[tuple[str, int]] = []
    lines = Lines(lambda line, left_out: told.append((line, left_out)))
    for chunk in chunks:
        lines.data_received(chunk)
    lines.connection_lost(None)
    return told


def test_lines_are_put_together_and_empty_ones_left_out() -> None:
    assert heard(b"on", b"e\n\n  \ntw", b"o\r\nthree") == [("one", 0), ("two", 0), ("three", 0)]


def test_long_lines_are_cut_and_strange_bytes_shown() -> None:
    endless = heard(*[b"x" * 65536] * 100, b"\nnext\n")
    assert [(len(line), left_out) for line, left_out in endless] == [(503, 0), (4, 0)]
    assert heard(b"\xff\x00 \n") == [("\\xff\x00", 0)]


def test_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("kmsd.observe.printed.monotonic", lambda: now)
    told: list[tuple[str, int]] = []
    lines = Lines(lambda line, left_out: told.append((line, left_out)))
    lines.data_received(b"x\n" * 1000)
    assert len(told) == 20
    now += 11
    lines.data_received(b"y\n")
    assert told[-1] == ("y", 980)
