"""Enrolment on a screen of its own, on a real key manager with a CA on its token and EST."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kmsd.client import CaCertificate, EnrolmentRequest
from kmstui import enrolment
from kmstui.app import Kmstui
from tests.daemons import KMSCTL, Kmsd
from tests.enrol.whole import Whole, begin
from tests.forkserver import Popen
from tests.remote.certificates import Authority
from tests.remote.conftest import Manager
from tests.tui.conftest import INTERVAL, app_on
from tests.tui.scenes.when import NOW, before
from tests.tui.screen import flat, holds, line_with, until

pytestmark = pytest.mark.processes
SIZES = pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=["80x24", "160x50"])


@pytest.fixture
def whole(make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path) -> Whole:
    return begin(make_manager, ca, tmp_path, "manual")


Ask = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def ask(whole: Whole) -> Iterator[Ask]:
    """Has a node ask for a certificate without a token, and wait for an operator; or ask again, which it would do by
    itself after 15 seconds."""
    running: dict[str, subprocess.Popen[str]] = {}
    pin = whole.pin

    def begin_to_ask(node: str) -> subprocess.Popen[str]:
        end(running.pop(node, None))
        command = [KMSCTL, "enrol", "--server", f"{whole.url}/cluster-a", "--ca-fingerprint", pin, "--node", node]
        running[node] = Popen(
            [*command, "--out", str(whole.folder / node), "--timeout", "60s"], stderr=subprocess.PIPE, text=True
        )
        return running[node]

    def end(process: subprocess.Popen[str] | None) -> None:
        if process is not None:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

    yield begin_to_ask
    for each in running.values():
        end(each)


@SIZES
async def test_a_request_is_approved_and_its_node_gets_the_certificate(
    whole: Whole, ask: Ask, size: tuple[int, int]
) -> None:
    ask("node-1")
    async with app_on(whole.kmsd).run_test(size=size) as pilot:
        await on_the_screen(pilot)
        await until(pilot, "CN=kmsd CA, ends in", "Requests (1)", "▲ waiting", "CN=node-1", "Enrolment tokens (0)")
        (request,) = whole.document("enrol", "pending")["requests"]
        await pilot.press("enter")
        screen = await until(pilot, "Request of CN=node-1", "compare it with the node's")
        assert request["public_key_sha256"][:40] in screen
        await pilot.press("escape", "a")
        screen = await until(pilot, "Approve CN=node-1", f"enrol approve {request['id']}")
        assert "--node node-1 --tenant cluster-a" in flat(screen)
        assert re.search(r"tenant +cluster-a +▼", screen)
        await pilot.click("#ok")
        await until(pilot, "Requests (1)", "approved")
        node = ask("node-1")
        await holds(lambda: node.poll() is not None)
        assert node.returncode == 0, node.communicate()
        await pilot.press("r")
        screen = await until(pilot, "Certificates (2)")  # the server's own, too
        assert "● in force  node-1" in screen
        assert whole.issued("node-1").serial[:12] in line_with(screen, "in force  node-1")


async def test_a_request_is_denied_with_a_reason_that_the_node_is_told(whole: Whole, ask: Ask) -> None:
    ask("node-9")
    async with app_on(whole.kmsd).run_test(size=(120, 40)) as pilot:
        await on_the_screen(pilot)
        await until(pilot, "▲ waiting")
        await pilot.press("d")
        await until(pilot, "Deny CN=node-9")
        await pilot.press(*"no such node", "enter")
        await until(pilot, "✕ denied")
        node = ask("node-9")
        await holds(lambda: node.poll() is not None)
        assert node.returncode == 4
        assert "no such node" in node.communicate()[1]
        await pilot.press("a")
        await until(pilot, "Approve: it is denied already")


async def test_a_token_is_shown_once_used_and_another_is_revoked(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_on(whole.kmsd)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await on_the_screen(pilot)
        await pilot.press("n")
        await until(pilot, "New enrolment token", "a node is needed")
        await pilot.press(*"node-1", "tab", "enter", "down", "enter")
        await until(pilot, "enrol token node-1 --tenant cluster-a")
        await pilot.click("#ok")
        screen = await until(pilot, "kmsd-enrol-", "It is shown this once")
        sent: list[str] = []
        with monkeypatch.context() as terminal:
            terminal.setattr(app, "copy_to_clipboard", sent.append)
            await pilot.press("ctrl+o")
            await holds(lambda: sent)
        (token,) = sent
        assert token[:60] in screen
        assert token[-10:] in screen
        await pilot.press("ctrl+o")
        assert app.clipboard == ""
        await pilot.press("escape")
        screen = await until(pilot, "Enrolment tokens (1)", "● usable   node-1", without="kmsd-enrol-")
        assert token.rpartition("-")[2] not in repr(app.store.view)
        done = whole.enrol("node-1", token=token)
        assert done.returncode == 0, done.stderr
        await until(pilot, "▽ used")
        whole.token("node-2")
        await until(pilot, "Enrolment tokens (2)", "node-2")
        await pilot.press("tab", "g", "R")
        await until(pilot, "Revoke the token of node-2", "1 of 1 uses left")
        await pilot.press("escape", "R")
        await until(pilot, "Revoke the token of node-2")
        await pilot.click("#ok")
        await until(pilot, "✕ revoked")
        states = {each["node"]: each["usable"] for each in whole.document("enrol", "tokens")["tokens"]}
        assert states == {"node-1": False, "node-2": False}


async def test_a_certificate_is_revoked_after_its_node_was_typed(whole: Whole) -> None:
    for name in ("node-1", "node-2"):
        assert whole.enrol(name, token=whole.token(name)).returncode == 0
    serial = whole.issued("node-2").serial
    async with app_on(whole.kmsd).run_test(size=(120, 40)) as pilot:
        await on_the_screen(pilot)
        await until(pilot, "Certificates (3)")
        await pilot.press("R")
        await until(pilot, "no token or certificate is chosen")
        await pilot.press("tab", "tab", "/", *"node-2", "enter", "enter")
        await until(pilot, "Certificate of node-2", "DNS:node-2.cluster-a.test", serial)
        await pilot.press("escape", "R")
        await until(pilot, "Revoke the certificate of node-2", "nothing speaks against it", "type the node's name")
        await pilot.click("#confirm")
        await pilot.press(*"node-2")
        assert pilot.app.screen.query_one("#ok").disabled is False
        await pilot.click("#ok")
        await until(pilot, "✕ revoked", "1 revoked, signed")
        issued = {each["node"]: each["revoked_at"] for each in whole.document("ca", "show")["issued"]}
        assert issued["node-1"] is None
        assert issued["node-2"] is not None
        await pilot.press("R")
        await until(pilot, "Revoke: it is revoked already")


async def test_read_only_offers_nothing_that_changes(whole: Whole, ask: Ask) -> None:
    ask("node-1")
    app = app_on(whole.kmsd, read_only=True)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await on_the_screen(pilot)
        await until(pilot, "▲ waiting")
        for key, title in {"a": "Approve", "d": "Deny", "n": "New token", "R": "Revoke"}.items():
            await pilot.press(key)
            await until(pilot, f"{title}: kmstui was started with --read-only")
            assert app.screen is app.page


async def test_a_kmsd_without_est_and_ca_has_no_such_screen(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await until(pilot, "● SERVING")
        await holds(lambda: app.store.view.config.value is not None)
        await pilot.press("E")
        screen = await until(pilot, "Enrolment: this kmsd enrols no nodes")
        assert "E Enrolment" not in screen


async def test_while_the_store_is_away_what_was_known_stays_and_why_is_said(whole: Whole) -> None:
    whole.token("node-1")
    kept = whole.kmsd.folder / "state" / "store.sqlite"
    async with app_on(whole.kmsd).run_test(size=(120, 40)) as pilot:
        await on_the_screen(pilot)
        await until(pilot, "Enrolment tokens (1)")
        with sqlite3.connect(kept) as database:
            database.execute("ALTER TABLE enrolment_tokens RENAME TO elsewhere")
        screen = await until(pilot, "Keys are served all the same", "as of", "Enrolment tokens (1)", "node-1")
        assert "◐ the store" in screen
        with sqlite3.connect(kept) as database:
            database.execute("ALTER TABLE elsewhere RENAME TO enrolment_tokens")
        await until(pilot, "Enrolment tokens (1)", without="Keys are served all the same")


async def test_a_viewer_sees_it_all_and_is_told_that_only_an_operator_changes(
    whole: Whole, ask: Ask, monkeypatch: pytest.MonkeyPatch, ca: Authority
) -> None:
    ask("node-1")
    watcher = ca.issue("watcher", "DNS:watcher.test")
    names = {"CA": ca.file, "CERTIFICATE": watcher.certificate, "KEY": watcher.key, "SERVER_NAME": "manager.test"}
    for name, value in names.items():
        monkeypatch.setenv(f"KMSCTL_TLS_{name}", str(value))
    app = Kmstui([f"tls://127.0.0.1:{whole.manager.port}"], INTERVAL)
    async with app.run_test(size=(120, 40)) as pilot:
        await on_the_screen(pilot)
        await until(pilot, "▲ waiting")
        await pilot.press("a")
        await until(pilot, "Approve CN=node-1")
        await pilot.click("#ok")
        await until(pilot, "✕ ", "operator", "trying again unchanged will not help")


async def on_the_screen(pilot: Pilot[None]) -> None:
    """Go to the screen as soon as it is known to be there."""
    assert isinstance(pilot.app, Kmstui)
    store = pilot.app.store
    await until(pilot, "● SERVING")
    await holds(lambda: store.view.config.value is not None)
    await pilot.press("E")
    await until(pilot, "CN=kmsd CA, ends in")


CERTIFICATE = CaCertificate(
    "CN=n", "CN=ca", "01", "aa", before(days=10), before(days=-20), "", "node-1", "cluster-a", ("DNS:n.test",)
)


def test_certificates_come_by_their_end_and_each_says_whether_its_node_has_a_newer_one() -> None:
    late = replace(CERTIFICATE, serial="02", node="node-2", not_before=before(days=24), not_after=before(days=-6))
    issued = (
        replace(CERTIFICATE, serial="05", revoked=before(days=1), not_after=before(days=-1)),
        replace(CERTIFICATE, serial="04", not_after=before(days=1)),
        CERTIFICATE,
        late,
        replace(late, serial="03", node="node-1"),
        replace(late, serial="06", node="node-1", tenant="cluster-b"),
    )
    found = [(each.issued.serial, each.state) for each in enrolment.certificates(issued, NOW)]
    assert found == [
        ("02", "overdue"),
        ("03", "renewed"),
        ("06", "overdue"),
        ("01", "in force"),
        ("04", "ended"),
        ("05", "revoked"),
    ]


@pytest.mark.parametrize(
    ("subject", "node"), [("CN=node-1", "node-1"), ("O=Example, CN=node-2", "node-2"), ("O=Example", ""), ("", "")]
)
def test_the_node_that_a_request_asks_for_is_its_common_name(subject: str, node: str) -> None:
    request = EnrolmentRequest("1", "aa", subject, "", "::1", NOW, NOW, "waiting", "", "", "", None, "")
    assert enrolment.asked_for(request) == node
