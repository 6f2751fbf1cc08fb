"""The tenants of a key manager on a screen of their own, on real daemons."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import pytest

from kmsd.client import connect
from kmstui import tenants
from kmstui.screens.tenants import TENANT_ROWS
from kmstui.text import parse_filter
from kmstui.view import Peer, Reading
from kmstui.widgets.search import Search, Texts
from kmstui.widgets.table import Table
from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import TENANTS, Client, Manager
from tests.tui.conftest import app_on
from tests.tui.pictures import settled
from tests.tui.scenes import SCENES, Still
from tests.tui.scenes.remote import CLUSTER_A, A
from tests.tui.screen import flat, line_with, shown, until

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])


@pytest.fixture
def callers(manager: Manager, ca: Authority) -> dict[str, Client]:
    """One client of each tenant, which has encrypted and decrypted once."""
    found = {
        name: Client(manager.channel(ca.issue(f"{name}-n1", f"DNS:n1.{name}.test")))
        for name in ("cluster-a", "cluster-b")
    }
    for client in found.values():
        assert client.decrypt(client.encrypt(b"0123456789abcdef")) == b"0123456789abcdef"
    return found


def digest(manager: Manager, tenant: str) -> str:
    """The start of the hash of a tenant's write key."""
    return next(each for each in manager.kmsd.status().tenants if each.name == tenant).write_key.key_id_sha256[:8]


@SIZES
async def test_tenants_with_key_and_label_are_in_one_table(manager: Manager, size: tuple[int, int]) -> None:
    async with app_on(manager.kmsd).run_test(size=size) as pilot:
        await until(pilot, "● SERVING", "Tenants")
        await pilot.press("m")
        screen = await until(pilot, "Tenants (2)", "2 of 2 served", "nobody has asked for this key yet")
        for name, label in (("cluster-a", "kek-a"), ("cluster-b", "kek-b")):
            row = next(line for line in screen.splitlines() if f"● SERVING   {name}" in line)
            assert label in row
            assert digest(manager, name) in row


async def test_a_kmsd_without_tenants_has_no_such_screen(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("m")
        screen = await until(pilot, "Tenants: this kmsd has no tenants")
        assert "m Tenants" not in screen
        assert app.page is not None
        assert app.page.NAME == "Overview"
        await pilot.press("ctrl+p", *"tenant")
        screen = await until(pilot, "No matches found")


@SIZES
async def test_enter_shows_one_tenant_and_who_calls_for_it(
    manager: Manager, callers: dict[str, Client], size: tuple[int, int]
) -> None:
    with connect(f"unix://{manager.kmsd.admin_socket}") as kmsd:
        (caller,) = kmsd.list_peers("cluster-a")
    async with app_on(manager.kmsd).run_test(size=size) as pilot:
        await until(pilot, "● SERVING", "Tenants")
        await pilot.press("m")
        await until(pilot, "Tenants (2)")
        await pilot.press("/", *"cluster-a", "enter", "enter")
        screen = await until(pilot, "Tenant cluster-a", "Callers (1)", "DNS:n1.cluster-a", "kek-a, hash")
        assert "cluster-b" not in screen
        assert "kube-apiserver encrypts with this key" in flat(screen)
        assert "the first certificate ends in" in flat(screen)
        await pilot.press("enter")
        screen = await until(pilot, caller.serial, f"{caller.tls_version}, {caller.cipher}, group {caller.group}")
        assert caller.address in screen
        assert "1 connections open" in screen
        await pilot.press("escape", "escape")
        await until(pilot, "Tenants (1 of 2)")


async def test_from_a_tenant_to_its_requests(manager: Manager, callers: dict[str, Client]) -> None:
    async with app_on(manager.kmsd).run_test(size=(160, 50)) as pilot:
        await until(pilot, "● SERVING", "Tenants")
        await pilot.press("m")
        await until(pilot, "Tenants (2)")
        await pilot.press("/", *"cluster-b", "enter", "u")
        screen = await until(pilot, "only tenant cluster-b", "Encrypt", "Decrypt")
        rows = [line for line in screen.splitlines() if "cluster-" in line and "●" in line]
        assert rows
        assert all("cluster-b" in line for line in rows)
        await until(pilot, "Requests/s of cluster-b", "Methods of cluster-b")
        assert "v2 Status" not in shown(pilot.app)
        callers["cluster-a"].status()
        callers["cluster-b"].encrypt(b"once more")
        screen = await until(pilot, "Requests (3)")
        assert "cluster-a" not in screen
        await pilot.press("escape")
        await until(pilot, "cluster-a", without="only tenant")


async def test_from_a_tenant_to_its_key(manager: Manager) -> None:
    async with app_on(manager.kmsd).run_test(size=(120, 35)) as pilot:
        await until(pilot, "● SERVING", "Tenants")
        await pilot.press("m")
        await until(pilot, "Tenants (2)")
        await pilot.press("/", *"cluster-b", "enter", "K")
        screen = await until(pilot, "Keys (3)", "kek-b")
        assert "╭─ kek-b ─" in screen


async def test_a_key_with_the_label_of_a_tenant_is_known_to_write(manager: Manager) -> None:
    with connect(f"unix://{manager.kmsd.admin_socket}") as kmsd:
        kmsd.destroy_key("kek-b", confirm_label="kek-b")
        kmsd.generate_key("spare")
    async with app_on(manager.kmsd).run_test(size=(120, 35)) as pilot:
        await until(pilot, "Tenants", "1 of 2 served")
        await pilot.press("3")
        await until(pilot, "Keys (3)")
        await pilot.press("n", *"other")
        await until(pilot, "it will not write: the write label is k8s-kek, and tenants have others")
        await pilot.press("escape", "n", *"kek-b")
        await until(pilot, "this is the write label of tenant cluster-b: the new key writes at once")
        await pilot.press("escape", "/", *"spare", "enter", "l", "ctrl+u", *"kek-b")
        await until(pilot, "this changes which key writes for tenant cluster-b")


async def test_rotating_a_tenant_moves_its_label_alone(manager: Manager, callers: dict[str, Client]) -> None:
    def keys() -> dict[str, str]:
        status = manager.kmsd.status()
        return {"own": status.write_key.key_id, **{each.name: each.write_key.key_id for each in status.tenants}}

    before = keys()
    sealed = callers["cluster-a"].encrypt(b"under the old key")
    async with app_on(manager.kmsd).run_test(size=(120, 40)) as pilot:
        await until(pilot, "● SERVING", "Tenants")
        await pilot.press("m")
        await until(pilot, "Tenants (2)")
        await pilot.press("/", *"cluster-a", "enter", "enter")
        await until(pilot, "Tenant cluster-a")
        await pilot.press("R")
        await until(pilot, "Rotate kek-a", "what would be done", f"rotate kek-a --from {before['cluster-a']}")
        await pilot.click("#ok")
        screen = await until(pilot, "Rotation of kek-a of tenant cluster-a", "new key made", "next poll")
        after = keys()
        assert {name for name in before if before[name] != after[name]} == {"cluster-a"}
        assert digest(manager, "cluster-a") in screen
        assert callers["cluster-a"].status().key_id == after["cluster-a"]
        assert callers["cluster-a"].encrypt(b"a new seed").key_id == after["cluster-a"]
        await until(pilot, "kube-apiservers follow", "rewrite stored objects", without="next poll")
        await pilot.press("o")
        await until(pilot, "Rotation of k8s-kek", "No rotation is under way")
        await pilot.press("6", "/", *"cluster-a", "enter")
        await until(pilot, "RotateKey", "cluster-a")
        await pilot.press("m")
        await until(pilot, "Tenants (1 of 2)", "after")
    assert callers["cluster-a"].decrypt(sealed) == b"under the old key"


async def test_one_that_is_not_served_comes_first_and_its_problem_leads_to_it(
    make_manager: Callable[..., Manager],
) -> None:
    more = TENANTS + '\n[[tenants]]\nname = "zeta"\nsan = ["DNS:*.zeta.test"]\nkey_label = "kek-z"\n'
    made = make_manager(tenants=more)
    made.kmsd.wait_ok()
    wait_for(lambda: all(each.healthz == "ok" for each in made.kmsd.status().tenants))
    with connect(f"unix://{made.kmsd.admin_socket}") as kmsd:
        kmsd.destroy_key("kek-z", confirm_label="kek-z")
    async with app_on(made.kmsd).run_test(size=(120, 35)) as pilot:
        await until(pilot, "◐ DEGRADED", "tenant zeta: ", "2 of 3 served")
        await pilot.press("enter")
        screen = await until(pilot, "Tenants (3)", "╭─ zeta ─", "2 of 3 served")
        rows = [line for line in screen.splitlines() if "kek-" in line and ("● SERVING" in line or "○ DOWN" in line)]
        assert "zeta" in rows[0]
        await pilot.press("K")
        await until(pilot, "Tenants (3)")


async def test_a_certificate_that_ends_soon_is_told_of_its_tenant_and_in_the_overview(
    manager: Manager, ca: Authority
) -> None:
    client = Client(
        manager.channel(
            ca.issue("ends", "DNS:n9.cluster-a.test", begins=timedelta(days=-85), ends=timedelta(days=5, hours=1))
        )
    )
    client.encrypt(b"x")
    async with app_on(manager.kmsd).run_test(size=(120, 35)) as pilot:
        await until(pilot, "tenant cluster-a: the certificate of DNS:n9.cluster-a.test", "2 of 2, 1 degraded")
        await pilot.press("m")
        screen = await until(pilot, "◐ DEGRADED  cluster-a", "→ give that machine a new one")
        assert "5 d" in line_with(screen, "◐ DEGRADED  cluster-a")
        await pilot.press("y")
    assert json.loads(pilot.app.clipboard)["problems"][0]["message"].startswith("the certificate of DNS:n9")


async def test_without_colour_a_state_is_told_by_its_sign_and_word(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with app_on(manager.kmsd).run_test(size=(80, 24)) as pilot:
        await until(pilot, "● SERVING", "Tenants")
        await pilot.press("m")
        await until(pilot, "● SERVING   cluster-a")


async def test_a_thousand_real_tenants_are_listed_filtered_and_scrolled(
    make_manager: Callable[..., Manager], short_tmp: Path
) -> None:
    many = "".join(
        f'\n[[tenants]]\nname = "cluster-{at:04}"\nsan = ["DNS:*.c{at:04}.test"]\nkey_label = "kek-{at:04}"\n'
        for at in range(1000)
    )
    made = make_manager(tenants=many, environment={"KMSD_KEYS__AUTO_CREATE": "false"})
    app = app_on(made.kmsd, interval=2.0)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, "Tenants")
        await pilot.press("m")
        await until(pilot, "Tenants (1,000)", "cluster-0000")
        await pilot.press("G")
        await until(pilot, "cluster-0999")
        await pilot.press("/", *"cluster-0500", "enter")
        screen = await until(pilot, "Tenants (1 of 1,000)")
        assert "cluster-0500" in screen


def test_the_rotation_of_a_tenant_looks_at_those_targets_that_have_it() -> None:
    view = SCENES["manager"]()
    status = view.status.value
    assert status is not None
    other = replace(status, tenants=(replace(CLUSTER_A, write_key=replace(A, key_id="elsewhere")),))
    without = replace(status, tenants=())
    answers = {"other": other, "without": without, "silent": None}
    peers = tuple(Peer(name, Reading(status)) for name, status in answers.items())
    seen = tenants.as_own(replace(view, peers=peers, nodes=(view.target, *answers)), "cluster-a")
    assert seen.nodes == (view.target, "other", "silent")
    own = {name: each.value for name, each in ((view.target, seen.status), *((p.target, p.status) for p in seen.peers))}
    assert {name: each.write_key.key_id for name, each in own.items() if each is not None and each.write_key} == {
        view.target: A.key_id,
        "other": "elsewhere",
    }
    assert tenants.as_own(view, "nobody") is view


def test_a_thousand_tenants_are_filtered_in_less_than_a_key_may_take() -> None:
    rows = [replace(CLUSTER_A, name=f"cluster-{at:04}") for at in range(1000)]
    began = perf_counter()
    search = Search(rows, Texts(TENANT_ROWS.sought), parse_filter("cluster-0[5-9]9"))
    while not search.done:
        search.go_on(0.005)
    assert len(search.kept) == 50
    assert perf_counter() - began < 0.5


async def test_what_is_shown_is_drawn_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    view = SCENES["manager"]()
    status = view.status.value
    assert status is not None
    rows = tuple(replace(CLUSTER_A, name=f"cluster-{at:04}") for at in range(1000))
    app = Still(replace(view, status=replace(view.status, value=replace(status, tenants=rows))), "Tenants")
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        table = app.screen.query_one("#tenant-rows Table", Table)
        assert len(table._strips) <= 24
        assert "cluster-0000" in shown(app)
        await pilot.press("end")
        await settled(pilot)
        assert "cluster-0999" in shown(app)
