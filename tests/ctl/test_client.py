"""kmsd.client: what kmsctl and kmstui stand on."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd import client, paths
from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import ClientError, KeyState, KeyType, ServingState, connect, kms_connect
from kmsd.client.admin import AdminClient
from tests.ctl.answers import WRITE_ID
from tests.ctl.canned import Canned, Failure, seal, serve


def test_lists_are_read_to_the_last_page(canned: Canned) -> None:
    canned.keys = [pb.Key(label=f"key-{number}") for number in range(7)]
    canned.slots = [pb.ListSlotsResponse.Slot(slot_id=number) for number in range(7)]
    canned.page = 3
    with connect(str(canned.admin)) as kmsd:
        assert [key.label for key in kmsd.list_keys()] == [f"key-{number}" for number in range(7)]
        assert [slot.slot_id for slot in kmsd.list_slots()] == [*range(7)]
    assert len(canned.requests) == 6


def test_times_are_utc_and_none_if_unknown_or_absurd(canned: Canned) -> None:
    canned.keys = [pb.Key(created_unix_ms=each) for each in (1687956465814, 0, -1, 2**47, 2**62)]
    canned.page = 10
    with connect(str(canned.admin)) as kmsd:
        created = [key.created for key in kmsd.list_keys()]
    assert created[0] == datetime(2023, 6, 28, 12, 47, 45, 814000, tzinfo=UTC)
    assert created[1:3] == [None, None]
    assert created[4] is None


def test_words_of_a_newer_kmsd_are_unknown_and_no_error(canned: Canned) -> None:
    canned.status.state = 99  # type: ignore[assignment]
    canned.keys = [pb.Key(state=99, type=99)]  # type: ignore[arg-type]
    with connect(str(canned.admin)) as kmsd:
        assert kmsd.get_status().state is ServingState.UNKNOWN
        (key,) = kmsd.list_keys()
    assert (key.state, key.type) == (KeyState.UNKNOWN, KeyType.UNKNOWN)


def test_answers_are_frozen(canned: Canned) -> None:
    with connect(str(canned.admin)) as kmsd:
        status = kmsd.get_status()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.healthz = "changed"  # type: ignore[misc]


def test_generate_and_adopt_send_what_was_asked(canned: Canned) -> None:
    with connect(str(canned.admin)) as kmsd:
        made = kmsd.generate_key("new", type=KeyType.HMAC, bits=192, key_id="me", if_not_exists=True)
        kmsd.adopt_key("new", key_id="other")
        with pytest.raises(client.InvalidRequest):
            kmsd.generate_key("new", type=KeyType.OTHER)
    assert made.created
    assert made.key.type is KeyType.HMAC
    assert canned.requests == [
        pb.GenerateKeyRequest(label="new", type=pb.KEY_TYPE_HMAC, bits=192, key_id="me", if_not_exists=True),
        pb.AdoptKeyRequest(label="new", key_id="other"),
    ]


def test_status_of_both_kms_apis(canned: Canned) -> None:
    with kms_connect(str(canned.kms)) as kms:
        status = kms.status()
        assert (status.version, status.healthz, status.key_id) == ("v2", "ok", WRITE_ID)
    with kms_connect(str(canned.kms), "v1beta1") as kms:
        status = kms.status()
        assert (status.version, status.runtime_name, status.runtime_version) == ("v1beta1", "kmsd", "0.1.0")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, client.InvalidRequest),
        (grpc.StatusCode.PERMISSION_DENIED, client.Denied),
        (grpc.StatusCode.UNAUTHENTICATED, client.Denied),
        (grpc.StatusCode.NOT_FOUND, client.NotFound),
        (grpc.StatusCode.ALREADY_EXISTS, client.Conflict),
        (grpc.StatusCode.FAILED_PRECONDITION, client.Conflict),
        (grpc.StatusCode.UNAVAILABLE, client.Unhealthy),
        (grpc.StatusCode.DEADLINE_EXCEEDED, client.Unhealthy),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, client.Overloaded),
        (grpc.StatusCode.UNIMPLEMENTED, client.Outdated),
        (grpc.StatusCode.INTERNAL, ClientError),
    ],
)
def test_what_the_server_says_is_never_taken_for_a_missing_server(
    canned: Canned, code: grpc.StatusCode, kind: type[ClientError]
) -> None:
    canned.failures = {"GetStatus": Failure(code, "what happened")}
    with connect(str(canned.admin)) as kmsd, pytest.raises(ClientError) as caught:
        kmsd.get_status()
    assert type(caught.value) is kind
    assert caught.value.code == code.name


def test_a_kmsd_that_dies_in_mid_call_is_unreachable(directory: Path) -> None:
    canned = Canned(directory)
    called, gone = threading.Event(), threading.Event()

    def hang(request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        called.set()
        gone.wait(30)
        return canned.status

    canned.get_status = hang  # type: ignore[method-assign]

    def live_and_die() -> None:
        with serve(canned):
            called.wait(30)
        gone.set()

    daemon = threading.Thread(target=live_and_die)
    daemon.start()
    end = time.monotonic() + 30
    while not canned.admin.exists() and time.monotonic() < end:
        time.sleep(0.01)
    with connect(str(canned.admin), timeout=30) as kmsd, pytest.raises(client.Unreachable) as caught:
        kmsd.get_status()
    daemon.join()
    assert caught.value.retryable


def test_somebody_else_on_the_socket_is_unreachable(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "admin.sock"))
        other.listen()

        def insult() -> None:
            with contextlib.suppress(OSError):  # the client hangs up, and in the end so does this test
                while True:
                    connection, _ = other.accept()
                    with connection, contextlib.suppress(BrokenPipeError):
                        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        insulting = threading.Thread(target=insult)
        insulting.start()
        with connect(str(directory / "admin.sock")) as kmsd, pytest.raises(client.Unreachable) as caught:
            kmsd.get_status()
        other.shutdown(socket.SHUT_RDWR)
        insulting.join()
    assert "is it kmsd that listens there?" in caught.value.hint


def test_hint_and_retryable_travel(canned: Canned) -> None:
    canned.failures = {"GetStatus": Failure(grpc.StatusCode.UNAVAILABLE, "ключа нет", "подождите", retryable=True)}
    with connect(str(canned.admin)) as kmsd, pytest.raises(client.Unhealthy) as caught:
        kmsd.get_status()
    assert (caught.value.message, caught.value.hint, caught.value.retryable) == (
        "ключа нет",
        "подождите",
        True,
    )


def test_a_hint_that_is_in_the_sentence_too_is_told_once(canned: Canned) -> None:
    canned.failures = {"Encrypt": Failure(grpc.StatusCode.NOT_FOUND, "there is no key; make one", "make one")}
    with kms_connect(str(canned.kms)) as kms, pytest.raises(client.NotFound) as caught:
        kms.encrypt(b"x")
    assert (caught.value.message, caught.value.hint) == ("there is no key", "make one")


def test_connecting_dials_nothing_and_a_client_survives_restarts_of_kmsd(directory: Path) -> None:
    canned = Canned(directory)
    with connect(str(canned.admin)) as kmsd:
        with pytest.raises(client.Unreachable):
            kmsd.get_status()
        for _ in range(2):
            with serve(canned):
                assert _soon(kmsd)
            with pytest.raises(client.Unreachable):
                kmsd.get_status()


def _soon(kmsd: AdminClient) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            return kmsd.get_status().healthy
        except client.Unreachable:
            time.sleep(0.05)
    return False


def test_threads_may_share_a_client(canned: Canned) -> None:
    seen: list[str] = []
    with connect(str(canned.admin)) as kmsd:
        threads = [threading.Thread(target=lambda: seen.append(kmsd.get_status().healthz)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == ["ok"] * 8


@pytest.mark.parametrize("name", ["with space", "per%20cent", "q?x=1#f", "ключ"])
def test_any_path_is_a_target(directory: Path, name: str) -> None:
    odd = directory / name
    odd.mkdir()
    canned = Canned(directory)
    with serve(canned):
        (odd / "admin.sock").symlink_to(canned.admin)
        for target in (f"{odd}/admin.sock", f"unix:{odd}/admin.sock", f"unix://{odd}/admin.sock"):
            with connect(target) as kmsd:
                assert kmsd.get_status().healthy


def test_the_default_is_the_running_dev_only_if_there_is_no_other(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, dev = directory / "system.sock", directory / "data/kmsd/dev/admin/admin.sock"
    monkeypatch.setattr(paths, "admin_socket", lambda: system)
    monkeypatch.setenv("XDG_DATA_HOME", str(directory / "data"))
    assert client.default_target() == f"unix://{system}"
    dev.parent.mkdir(parents=True)
    dev.touch()
    assert client.default_target() == f"unix://{paths.dev_admin_socket()}"
    system.touch()
    assert client.default_target() == f"unix://{system}"


@given(st.binary(max_size=300))
def test_no_ciphertext_breaks_the_search_for_a_key_id(data: bytes) -> None:
    found = client.key_id_of(data)
    assert found is None or found


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_the_key_id_of_a_jwe_is_its_kid(key_id: str) -> None:
    assert client.key_id_of(seal(b"x", key_id)) == key_id


@given(st.text(max_size=200))
def test_every_target_is_a_path_or_refused(target: str) -> None:
    try:
        assert str(client.parse_target(target)).startswith(("/", "tls://"))
    except client.InvalidRequest:
        assert not target.startswith("/") or len(target.encode()) > 107 or "\0" in target
