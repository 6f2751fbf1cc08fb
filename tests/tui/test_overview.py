"""Is it serving, with which key, what is wrong: against a real kmsd."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client import Key
from kmstui.widgets.listing import Listing
from kmstui.widgets.plot import ErrorsPlot
from tests.daemons import Kmsd
from tests.tokens import SoftToken
from tests.tui.conftest import Start, app_on, under_load
from tests.tui.screen import flat, holds, line_with, shown, until

SIZES = [(80, 24), (160, 50)]


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "160x50"])
async def test_shows_write_key_health_traffic_and_events(kmsd: Kmsd, size: tuple[int, int]) -> None:
    key = kmsd.status().write_key
    digest = hashlib.sha256(key.key_id.encode()).hexdigest()[:8]
    with under_load(kmsd):
        async with app_on(kmsd).run_test(size=size) as pilot:
            await holds(lambda: re.search(r"p50 \d", shown(pilot.app)))
            screen = await until(pilot, "● round trip", "write key", "now ", "p50 ", without="errors 0 %")
    assert f"hash  {digest}" in screen
    assert "4 of 4" in line_with(screen, "● sessions")
    assert "● v2 v1beta1" in screen
    assert key.key_id[:20] in line_with(screen, "id    ")
    assert "p99" in screen


async def test_says_why_it_is_down_and_turns_serving_when_the_key_is_made(start_kmsd: Start) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test() as pilot:
        screen = await until(pilot, "○ DOWN", "○ none")
        assert "no key labelled 'k8s-kek'" in flat(screen)
        assert "kmsctl keygen k8s-kek" in screen
        kmsd.keygen()
        screen = await until(pilot, "● SERVING", "GenerateKey", without="○ DOWN")
        assert "→ make" not in screen


async def test_a_second_key_with_the_write_label_that_cannot_serve_shows_as_degraded(
    start_kmsd: Start, token: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "0.2"}).wait_ok()
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING")
        token.import_aes("k8s-kek", bytes(32), None)
        screen = await until(pilot, "◐ DEGRADED", "no CKA_ID")
        assert "→ " in screen


async def test_a_lost_token_shows_down_and_the_keys_known_before(start_kmsd: Start, token: SoftToken) -> None:
    environment = {"KMSD_HEALTH__INTERVAL": "0.2", "KMSD_KEYS__REFRESH": "0.2"}
    kmsd = start_kmsd("--auto-create", environment=environment).wait_ok()
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("3")
        await until(pilot, "● write")
        with token.away():
            screen = await until(pilot, "○ DOWN", "as of")
            assert "→ " in screen
            assert "● write" in screen
        await until(pilot, "● SERVING", without="as of")


async def test_c_copies_the_write_key_and_capital_r_offers_a_rotation(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("c")
        await until(pilot, "copied")
        assert app.clipboard == kmsd.status().write_key.key_id
        await pilot.press("R")
        await until(pilot, "Rotate k8s-kek", "what would be done", "make a new key labelled k8s-kek.pending")
        await pilot.press("escape")
        await until(pilot, "Write key", without="Rotate k8s-kek")


SIZED = pytest.mark.parametrize("size", SIZES, ids=["80x24", "160x50"])


@SIZED
async def test_a_problem_leads_to_its_key_by_keyboard_and_mouse(
    start_kmsd: Start, token: SoftToken, size: tuple[int, int]
) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "0.2"}).wait_ok()
    token.import_aes("k8s-kek", bytes(32), None)
    app = app_on(kmsd)
    async with app.run_test(size=size) as pilot:
        await until(pilot, "◐ DEGRADED", "key 'k8s-kek' on token 'kmsd-test' cannot serve", "Look into it")
        # The keys are read beside the status.
        await holds(lambda: len(app.store.view.keys.value or ()) == 2)
        await pilot.press("j", "enter")
        await until(pilot, "Keys (2)", "✕ unusable")
        listing: Listing[Key] = pilot.app.screen.query_one("#keys", Listing)
        await holds(lambda: listing.current is not None and listing.current.state == "unusable")
        await pilot.press("1")
        screen = await until(pilot, "cannot serve", "Write key")
        row = next(at for at, line in enumerate(screen.splitlines()) if "cannot serve" in line)
        await pilot.click(offset=(10, row))
        await until(pilot, "Keys (2)")


@SIZED
async def test_a_problem_leads_to_the_requests_that_failed_of_it(start_kmsd: Start, size: tuple[int, int]) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test(size=size) as pilot:
        await until(pilot, "○ DOWN", "Look into it")
        await pilot.press("enter")
        await until(pilot, "Keys (0)")
        with pytest.raises(grpc.RpcError):
            kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"x", uid="lost-one"))
        await pilot.press("1", "enter")
        await until(pilot, "only FAILED_PRECONDITION", "✕  v2", "Encrypt")


async def test_a_problem_leads_to_the_requests_of_its_sort_only(start_kmsd: Start, token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "0.2"}).wait_ok()
    for label in ("twin", "k8s-kek"):
        token.import_aes(label, bytes(32), b"twice")
    header, rest = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"x")).ciphertext.split(b".", 1)
    made = json.loads(base64.urlsafe_b64decode(header + b"=="))
    twice = base64.urlsafe_b64encode(json.dumps({**made, "kid": "twice"}, separators=(",", ":")).encode()).rstrip(b"=")
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        await until(pilot, "◐ DEGRADED", "cannot serve: 2 keys have this key id", "Look into it")
        for uid, ciphertext in (("damaged", b"damaged"), ("of-a-twin", twice + b"." + rest)):
            with pytest.raises(grpc.RpcError):
                kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=ciphertext, uid=uid, key_id="twice"))
        await pilot.press("j", "enter")
        await until(pilot, "only FAILED_PRECONDITION, only Decrypt", "of-a-twin", without="damaged")
        await pilot.press("e")
        await until(pilot, "of-a-twin", "damaged", without="only FAILED")


async def test_a_problem_with_a_setting_leads_to_it(start_kmsd: Start) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_LEGACY__ALLOW_UNAUTHENTICATED": "true"}).wait_ok()
    (problem,) = kmsd.status().problems
    assert (problem.about.setting, problem.about.requests.method) == ("legacy.key", "Decrypt")
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "◐ DEGRADED", "Look into it")
        await pilot.press("j", "enter")
        await until(pilot, "env      KMSD_LEGACY__KEY")


@SIZED
async def test_a_lost_token_leads_to_the_doctor(start_kmsd: Start, token: SoftToken, size: tuple[int, int]) -> None:
    environment = {"KMSD_HEALTH__INTERVAL": "0.2", "KMSD_KEYS__REFRESH": "0.2"}
    kmsd = start_kmsd("--auto-create", environment=environment).wait_ok()
    async with app_on(kmsd).run_test(size=size) as pilot:
        await until(pilot, "● SERVING")
        with token.away():
            await until(pilot, "○ DOWN", "Look into it")
            await pilot.press("enter")
            await until(pilot, "d tries out a token")


async def test_a_click_on_the_errors_plot_shows_the_requests_that_failed(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        with under_load(kmsd):
            await until(pilot, "● SERVING", "Errors/s")
            await pilot.click(ErrorsPlot)
            screen = await until(pilot, "only errors", "✕  v2")
        assert "●  v2" not in screen
