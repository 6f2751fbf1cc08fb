"""Stored values inspected on a real kmsd: pasted, typed, from a file, and tried; and what is refused."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from kmsd.api.kms.v2 import api_pb2 as v2
from kmstui import actions
from tests.daemons import Kmsd
from tests.tui.conftest import Start, app_on
from tests.tui.screen import flat, paste, until

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])
SECRET = b"the plaintext"


def sealed(kmsd: Kmsd) -> bytes:
    call = kmsd.channel().unary_unary(
        "/v2.KeyManagementService/Encrypt", v2.EncryptRequest.SerializeToString, v2.EncryptResponse.FromString
    )
    answer: v2.EncryptResponse = call(v2.EncryptRequest(plaintext=SECRET, uid="1"), timeout=30)
    return answer.ciphertext


@SIZES
async def test_a_value_pasted_anywhere_on_the_screen_is_explained(kmsd: Kmsd, size: tuple[int, int]) -> None:
    value = base64.b64encode(sealed(kmsd)).decode()
    async with app_on(kmsd).run_test(size=size) as pilot:
        await pilot.press("0")
        await until(pilot, "● SERVING", "paste a value here")
        await paste(pilot, value)
        await until(pilot, "Inspect a value", "inspect -")
        await pilot.press("enter")
        screen = flat(await until(pilot, "a pasted value, read as base64", "native", without="Inspect a value"))
        assert "this kmsd has a key for it" in screen
        assert "Keys that may open it (1)" in screen
        assert "k8s-kek" in screen
        assert SECRET.decode() not in screen


async def test_the_value_of_a_file_is_explained(kmsd: Kmsd, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(sealed(kmsd))
    async with app_on(kmsd).run_test(size=(120, 35), notifications=True) as pilot:
        await pilot.press("0")
        await until(pilot, "● SERVING")
        await pilot.press("f")
        await until(pilot, "Inspect a file", "name a file")
        await paste(pilot, str(file))
        await pilot.press("enter")
        await until(pilot, "inspected: native", f"inspect {file}", without="Inspect a file")


async def test_what_cannot_be_read_says_why_and_keeps_what_was_typed(kmsd: Kmsd, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(actions.INSPECT_MOST + 1))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with app_on(kmsd).run_test(size=(120, 35)) as pilot:
        await pilot.press("0")
        await until(pilot, "● SERVING")
        for name, why in (("none", "No such file"), ("large", "holds more than 1,048,576 bytes"), (".", "directory")):
            await pilot.press("f")
            await until(pilot, "Inspect a file")
            await paste(pilot, str(tmp_path / name))
            await pilot.press("enter")
            await until(pilot, why, "will not help")
            await pilot.press("escape")


async def test_what_is_no_stored_value_is_no_key_of_anybody(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(size=(120, 35)) as pilot:
        await pilot.press("0")
        await until(pilot, "● SERVING")
        await pilot.press("v", *"hello")
        await until(pilot, "Inspect a value", "hello")
        assert isinstance(pilot.app.focused, TextArea)
        await pilot.press("tab", "tab", "enter")
        await until(pilot, "✕ this kmsd cannot read it", "this kmsd has no key that may open it")
        await until(pilot, "◐ not recognised; tried: as it is, base64")


@SIZES
async def test_t_says_whether_a_value_opens_and_never_what_is_in_it(
    start_kmsd: Start, tmp_path: Path, size: tuple[int, int]
) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    value = sealed(kmsd)
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(value)
    head, _, tag = value.rpartition(b".")
    bad.write_bytes(head + b"." + (b"B" if tag[:1] == b"A" else b"A") + tag[1:])
    async with app_on(kmsd, read_only=True).run_test(size=size, notifications=True) as pilot:
        await pilot.press("0")
        await until(pilot, "● SERVING")
        await pilot.press("T")
        await until(pilot, "Try: there is no value yet: v takes one")
        await inspect_file(pilot, good)
        await until(pilot, "it was not tried (T tries it)")
        assert not tried(kmsd)
        await pilot.press("T")
        await until(pilot, "Try to open it", "The audit records", "--try")
        await pilot.press("enter")
        screens = [await until(pilot, "● it opens: decrypted with k8s-kek", without="Try to open it")]
        assert tried(kmsd) == ["OK"]
        await inspect_file(pilot, bad)
        await until(pilot, "it was not tried (T tries it)")
        await pilot.press("T")
        await until(pilot, "Try to open it")
        await pilot.press("enter")
        screens.append(await until(pilot, "✕ it does not open: ", without="Try to open it"))
        assert len(tried(kmsd)) == 2
    assert SECRET.decode() not in "".join(screens)


async def test_more_values_than_one_are_said_to_be_left_out(kmsd: Kmsd, tmp_path: Path) -> None:
    file = tmp_path / "values"
    value = b"k8s:enc:kms:v1:kmsd:" + sealed(kmsd)
    file.write_bytes(b"\n".join([value] * 3))
    async with app_on(kmsd).run_test(size=(120, 35)) as pilot:
        await pilot.press("0")
        await until(pilot, "● SERVING")
        await inspect_file(pilot, file)
        await until(pilot, "◐ the input holds 2 more, which are left out")


async def inspect_file(pilot: Pilot[None], file: Path) -> None:
    await pilot.press("f")
    await until(pilot, "Inspect a file")
    await paste(pilot, str(file))
    await pilot.press("enter")
    await until(pilot, str(file), without="Inspect a file")


def tried(kmsd: Kmsd) -> list[str]:
    """The outcomes of all attempts that the audit holds."""
    return [each["outcome"] for each in kmsd.audit_records() if each["action"] == "TryCiphertext"]
