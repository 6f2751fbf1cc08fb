"""The moves of a rotation, in every order that two nodes, a crash and a stranger can bring about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kmsd.client.names import former_label
from kmsd.crypto.schemes import Ability
from kmsd.formats import keyid
from kmsd.hsm.host.keys import Kind, TokenKey
from kmsd.keys.inventory import judge
from kmsd.keys.judging import Rules
from kmsd.keys.key import Inventory, Key, KeyState
from kmsd.keys.labels import is_archived, new_key_id, pending_label, role
from kmsd.keys.rotation import Move, moves

L = "k8s-kek"
NOW = 1_790_000_000.0
PLACES = ("old", "new")


def key(label: str, cka_id: bytes, kind: Kind = "aes") -> TokenKey:
    aes = kind == "aes"
    return TokenKey(label, cka_id, kind, 256, aes, aes, not aes, not aes, True, False, True)


@dataclass
class Token:
    """Two real tokens' worth of keys, changed by one call at a time as PKCS#11 does it."""

    keys: list[tuple[str, TokenKey]] = field(default_factory=list)

    def look(self) -> Inventory:
        shown = {place: [key for where, key in self.keys if where == place] for place in PLACES}
        return judge(shown, L, "the tokens")

    def make(self, place: str, label: str, cka_id: bytes, kind: Kind = "aes") -> None:
        self.keys.append((place, key(label, cka_id, kind)))

    def take(self, move: Move) -> None:
        """As `kmsd.hsm.host.keys.relabel`: only if the key still has the label that the move knows."""
        self.keys = [
            (place, replace(each, label=move.to_label))
            if (place, each.cka_id, each.kind, each.label) == (move.place, move.cka_id, move.kind, move.from_label)
            else (place, each)
            for place, each in self.keys
        ]

    def relabel(self, index: int, label: str) -> None:
        place, each = self.keys[index % len(self.keys)]
        self.keys[index % len(self.keys)] = (place, replace(each, label=label))


def new_id(inventory: Inventory) -> bytes:
    """As the lifecycle makes it: newer than every key that has or had the label."""
    newest = max((each.created_ms for each in inventory.keys if role(each.label) == L), default=0)
    return new_key_id(newest).encode()


def settle(token: Token) -> int:
    """Take all moves, each from a fresh look, as one kmsd alone does. Returns how many there were."""
    for count in range(100):
        wanted = moves(token.look(), L, NOW)
        if not wanted:
            return count
        token.take(wanted[0])
    raise AssertionError("it never comes to rest")


def at_rest(inventory: Inventory) -> bool:
    labels = [each.label for each in inventory.keys if each.token.kind == "aes"]
    return labels.count(L) == 1 and pending_label(L) not in labels


def test_a_rotation_step_by_step() -> None:
    token = Token()
    token.make("old", L, b"first")
    inventory = token.look()
    token.make("new", pending_label(L), new_id(inventory))
    (taken,) = moves(token.look(), L, NOW)
    assert (taken.place, taken.from_label, taken.to_label, taken.tried) == ("new", pending_label(L), L, True)
    token.take(taken)
    write = token.look().write
    assert write is not None
    assert write.place == "new", "the new key writes as soon as it has the label, the old one's notwithstanding"
    (archived,) = moves(token.look(), L, NOW)
    assert (archived.place, archived.cka_id, archived.tried) == ("old", b"first", False)
    assert archived.to_label == f"{L}@20260921T141320Z"
    token.take(archived)
    assert moves(token.look(), L, NOW) == ()
    assert at_rest(token.look())


def test_keys_at_rest_are_left_alone() -> None:
    token = Token()
    assert moves(token.look(), L, NOW) == ()
    token.make("old", "other", b"1")
    token.make("old", f"{L}@20260101T000000Z", b"2")
    token.make("old", f"{L}.hmac", b"lonely", "hmac")
    token.make("new", "other.pending", b"3")
    assert moves(token.look(), L, NOW) == ()


def test_a_lone_pending_key_takes_the_label() -> None:
    token = Token()
    token.make("new", pending_label(L), b"p")
    (move,) = moves(token.look(), L, NOW)
    assert (move.to_label, move.tried) == (L, True)


def test_a_pending_key_older_than_the_write_key_is_put_aside() -> None:
    token = Token()
    token.make("new", pending_label(L), b"made elsewhere, so older than any")
    token.make("new", L, new_key_id().encode())
    (move,) = moves(token.look(), L, NOW)
    assert (move.from_label, move.tried) == (pending_label(L), False)
    assert move.to_label.startswith(f"{L}@")


def test_a_key_that_cannot_write_never_takes_the_label() -> None:
    token = Token()
    token.make("old", L, b"first")
    token.keys.append(("old", replace(key(pending_label(L), new_key_id().encode()), encrypt=False)))
    assert moves(token.look(), L, NOW) == ()


@pytest.mark.parametrize("may", [True, False])
def test_a_key_whose_token_has_no_way_for_it_gives_way_to_a_newer_pair_and_only_to_that(may: bool) -> None:
    no_gcm = Rules(abilities={"old": Ability(frozenset({"CKM_AES_CBC", "CKM_SHA256_HMAC", "CKM_SHA512_HMAC"}))})
    lacking = new_key_id().encode()
    shown = [replace(key(L, lacking), encrypt=may)]
    inventory = judge({"old": shown}, L, "the token", no_gcm)
    assert not moves(inventory, L, NOW)
    newer = new_id(inventory)
    shown += [key(L, newer), key(f"{L}.hmac", newer, "hmac")]
    inventory = judge({"old": shown}, L, "the token", no_gcm)
    assert inventory.write is not None
    assert inventory.write.cka_id == newer
    found = [(move.cka_id, role(move.to_label), move.to_label == L) for move in moves(inventory, L, NOW)]
    assert found == ([(lacking, L, False)] if may else [])


def test_the_second_key_of_a_pair_follows_the_first() -> None:
    token = Token()
    token.make("old", f"{L}.hmac", b"first", "hmac")
    token.make("old", L, b"first")
    second = new_id(token.look())
    token.make("new", f"{L}.pending.hmac", second, "hmac")
    token.make("new", pending_label(L), second)
    assert settle(token) == 4
    labels = {(each.cka_id, each.kind): each.label for _, each in token.keys}
    assert labels[second, "aes"] == L
    assert labels[second, "hmac"] == f"{L}.hmac"
    assert labels[b"first", "hmac"] == labels[b"first", "aes"] + ".hmac"


def test_an_operators_own_names_for_second_keys_are_left_alone() -> None:
    token = Token()
    token.make("old", "hmac0", b"first", "hmac")
    token.make("old", L, b"first")
    assert moves(token.look(), L, NOW) == ()


class Nodes(RuleBasedStateMachine):
    """Two kmsd that rotate on the same tokens. Each step of each may fall anywhere, and rests on what that node saw
    last, however old that is; a node may die and begin again with nothing but the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.token = Token()
        self.seen: list[Inventory] = []
        self.wrote: list[tuple[int, bytes]] = []
        self.born: set[str] = set()

    @initialize(uuid=st.booleans(), pair=st.booleans())
    def begin(self, uuid: bool, pair: bool) -> None:
        first = new_key_id().encode() if uuid else b"made by another program"
        if pair:
            self.token.make("old", f"{L}.hmac", first, "hmac")
        self.token.make("old", L, first)
        self.born.add(keyid.text(first))
        self.seen = [self.token.look(), self.token.look()]

    @rule(node=st.integers(0, 1))
    def look(self, node: int) -> None:
        self.seen[node] = self.token.look()

    @rule(node=st.integers(0, 1), place=st.sampled_from(PLACES), pair=st.booleans())
    def begin_rotation(self, node: int, place: str, pair: bool) -> None:
        made = new_id(self.seen[node])
        self.born.add(keyid.text(made))
        if pair:
            self.token.make(place, f"{L}.pending.hmac", made, "hmac")
        self.token.make(place, pending_label(L), made)

    @rule(node=st.integers(0, 1), which=st.integers(0, 5))
    def take_a_move(self, node: int, which: int) -> None:
        """Of what it saw last, which may be long ago; in any order, for each must be safe alone."""
        wanted = moves(self.seen[node], L, NOW)
        if wanted:
            self.token.take(wanted[which % len(wanted)])

    @rule(node=st.integers(0, 1))
    def die(self, node: int) -> None:
        self.seen[node] = self.token.look()

    @invariant()
    def there_is_always_a_write_key_and_it_never_goes_back(self) -> None:
        if not self.seen:
            return
        write = self.token.look().write
        assert write is not None
        if not self.wrote or self.wrote[-1] != write.age:
            self.wrote.append(write.age)
        assert self.wrote == sorted(self.wrote), "the write key went back to an earlier one"

    @invariant()
    def nothing_becomes_unreadable(self) -> None:
        assert self.born <= set(self.token.look().by_key_id)

    def teardown(self) -> None:
        if self.seen:
            settle(self.token)
            assert at_rest(self.token.look())


class NodesAndStranger(Nodes):
    """The same, while somebody relabels keys with another tool. What can be promised is less: it comes to rest, with a
    write key if any key was left that could be one, and nothing becomes unreadable."""

    @rule(index=st.integers(0, 20), label=st.sampled_from([L, pending_label(L), "other", f"{L}@20250101T000000Z"]))
    def foreign_relabel(self, index: int, label: str) -> None:
        self.token.relabel(index, label)

    @invariant()
    def there_is_always_a_write_key_and_it_never_goes_back(self) -> None:
        return

    def teardown(self) -> None:
        if not self.seen:
            return
        before = self.token.look()
        settle(self.token)
        after = self.token.look()
        assert (after.write is None) == (before.write is None)
        if after.write is None:
            self.token.make("new", L, new_id(after))
        else:
            assert at_rest(after)
            self.token.make("new", pending_label(L), new_id(after))
        settle(self.token)
        assert at_rest(self.token.look())
        rotated = self.token.look().write
        assert rotated is not None
        assert after.write is None or rotated.age > after.write.age


TestTwoNodes = Nodes.TestCase
TestTwoNodes.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestTwoNodesAndAStranger = NodesAndStranger.TestCase
TestTwoNodesAndAStranger.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


STEPS = 7
"""Of one node's rotation: it makes a key, then looks and takes one move, three times."""


def _step(token: Token, seen: Inventory, done: int) -> Inventory:
    """Do to the token what a node does as the next step. Returns what it has seen of it then."""
    if done == 0:
        token.make("new", pending_label(L), new_id(seen))
    elif done % 2:
        return token.look()
    else:
        for move in moves(seen, L, NOW)[:1]:
            token.take(move)
    return seen


def test_two_whole_rotations_in_every_order_with_a_crash_at_every_step() -> None:
    """Exhaustive, where the machines above try their luck. The first node may stop after any step; orders that begin
    alike are gone through together."""
    tried = 0

    def go_on(
        keys: list[tuple[str, TokenKey]], seen: tuple[Inventory, Inventory], done: tuple[int, int], age: Any
    ) -> None:
        nonlocal tried
        if done[1] == STEPS:
            token = Token(list(keys))
            settle(token)
            assert at_rest(token.look())
            assert len(token.look().by_key_id) == len(token.keys)
            tried += 1
        for node in (0, 1):
            if done[node] < STEPS:
                token = Token(list(keys))
                sees = _step(token, seen[node], done[node])
                write = token.look().write
                assert write is not None
                assert write.age >= age, "the write key never goes back"
                first, second = seen
                both = (sees, second) if node == 0 else (first, sees)
                go_on(token.keys, both, (done[0] + (node == 0), done[1] + (node == 1)), write.age)

    token = Token()
    token.make("old", L, b"first")
    inventory = token.look()
    assert inventory.write is not None
    go_on(token.keys, (inventory, inventory), (0, 0), inventory.write.age)
    assert tried == 6435


@given(st.lists(st.sampled_from([L, pending_label(L), f"{L}@20260101T000000Z", "other"]), max_size=6))
def test_every_heap_of_keys_comes_to_rest(labels: list[str]) -> None:
    token = Token()
    for number, label in enumerate(labels):
        token.make(PLACES[number % 2], label, f"key-{number}".encode())
    wrote = token.look().write
    settle(token)
    inventory = token.look()
    assert (inventory.write is not None) == (wrote is not None)
    assert inventory.write is None or wrote is None or inventory.write.age >= wrote.age
    assert not [each for each in inventory.keys if each.state is KeyState.PENDING]


def test_a_retired_key_is_known_by_its_label() -> None:
    token = Token()
    token.make("old", f"{L}.retired@20260101T000000Z", b"1")
    token.make("old", L, b"2")
    states = {each.key_id: each.state for each in token.look().keys}
    assert states == {"1": KeyState.ARCHIVED, "2": KeyState.WRITE}
    archived: list[Key] = [each for each in token.look().keys if is_archived(each.label)]
    assert [each.reads for each in archived] == [True], "what it wrote is still read"


@pytest.mark.parametrize(
    "label",
    [
        *(
            L,
            f"{L}@20261123T120400Z",
            f"{L}.retired@20261123T120400Z",
            f"{L}@x@20261123T120400Z",
            "a\nb@20261123T120400Z",
        ),
        *(f"{L}@20261123", f"{L}@", "@20261123T120400Z", f"{L}.retired", f"{L}@20261123T120400Z.hmac", ""),
    ],
)
def test_clients_know_the_label_that_a_key_had_by_the_same_rule(label: str) -> None:
    assert former_label(label) == ("" if role(label) == label else role(label))
