"""What is on the wire is the same whichever server speaks it."""

from __future__ import annotations

import base64
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpclib
import grpclib.client
import pytest
from grpc_health.v1 import health_pb2

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.raw import stream, unary
from tests.rpc.http2 import GRPC, Client, prefixed
from tests.rpc.refusals import DECRYPT_V2, ENCRYPT_V1, ENCRYPT_V2, STATUS_V2, VERSION_V1
from tests.rpc.wire import field, fields
from tests.tokens import SoftToken, make_token

SEED = bytes(range(32))
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
TRANSPORTS = ("grpcio", "h2corn")


def serving(folder: Path, transport: str, **environment: str) -> tuple[Kmsd, SoftToken]:
    (folder / "d").mkdir()
    token = make_token(folder / "hsm")
    kmsd = Kmsd(folder / "d", token, ("--auto-create",), {"KMSD_KMS__TRANSPORT": transport, **environment})
    return kmsd, token


@pytest.fixture(scope="module", params=TRANSPORTS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kmsd, SoftToken]]:
    kmsd, token = serving(tmp_path_factory.mktemp("k"), request.param, KMSD_KMS__REQUEST_TIMEOUT="20")
    with kmsd.start():
        kmsd.wait_ok()
        yield kmsd, token


@pytest.fixture
def kmsd(both: tuple[Kmsd, SoftToken]) -> Kmsd:
    return both[0]


@pytest.fixture
def transport(kmsd: Kmsd) -> str:
    return kmsd.environment["KMSD_KMS__TRANSPORT"]


@pytest.fixture
def token(both: tuple[Kmsd, SoftToken]) -> SoftToken:
    return both[1]


def test_an_answer_is_one_message_and_a_status_in_trailers(kmsd: Kmsd) -> None:
    with Client(kmsd.socket) as client:
        answer = client.ask(STATUS_V2, b"")
    assert (answer.headers[":status"], answer.headers["content-type"]) == ("200", "application/grpc")
    assert answer.status == "0"
    assert answer.body == prefixed(answer.body[5:])
    assert fields(answer.body[5:])[2] == b"ok"


def test_an_error_is_told_in_trailers_alone_percent_encoded(kmsd: Kmsd) -> None:
    with Client(kmsd.socket) as client:
        answer = client.ask(VERSION_V1, field(1, "\u00fc 50% \n"))
    assert answer.body == b""
    assert answer.headers[":status"] == "200"
    assert answer.status == "3"
    assert answer.headers["grpc-message"].startswith("the request's version must be 'v1beta1', got '%C3%BC 50%25 \\n';")
    hint = base64.b64decode(answer.headers["kmsd-hint-bin"] + "==")
    assert hint == b"the caller speaks another API"
    assert answer.headers["kmsd-retryable"] == "false"


def test_a_message_may_come_in_any_pieces(kmsd: Kmsd) -> None:
    with Client(kmsd.socket) as client:
        stream = client.begin(ENCRYPT_V2)
        for byte in prefixed(field(1, SEED)):
            client.send(stream, bytes((byte,)), end=False)
        client.send(stream, b"")
        assert client.wait(stream).status == "0"


BROKEN = {
    "nothing": b"",
    "a part of the prefix": prefixed(field(1, SEED))[:3],
    "a byte is missing": prefixed(field(1, SEED))[:-1],
    "two messages": prefixed(field(1, SEED)) * 2,
    "compressed by nothing that is named": prefixed(field(1, SEED), compressed=True),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_is_not_one_message_is_refused_and_harms_nobody(kmsd: Kmsd, transport: str, why: str) -> None:
    with Client(kmsd.socket) as client:
        # grpcio answers what ends before its message does only when its time is over.
        stream = client.begin(ENCRYPT_V2, [*GRPC, ("grpc-timeout", "1S")])
        client.send(stream, BROKEN[why])
        answer = client.wait(stream)
        # And of two messages it looks at the first.
        assert answer.status != "0" or why == "two messages"
        if transport == "h2corn":
            assert "kmsd-hint-bin" in answer.headers
            assert "send one whole message" in answer.headers["grpc-message"]
        assert client.ask(STATUS_V2, b"").status == "0"


def test_a_compressed_message_is_not_read(kmsd: Kmsd) -> None:
    call = unary(kmsd.channel(None, ("grpc.use_local_subchannel_pool", 1)), ENCRYPT_V2)
    with pytest.raises(grpc.RpcError) as caught:
        call(field(1, bytes(900)), timeout=5, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])
def test_every_content_type_of_grpc_is_taken(kmsd: Kmsd, kind: str) -> None:
    with Client(kmsd.socket) as client:
        assert client.ask(STATUS_V2, b"", [("content-type", kind), ("te", "trailers")]).status == "0"


@pytest.mark.parametrize("headers", [(), (("content-type", "text/plain"),), (("content-type", "application/json"),)])
def test_what_is_no_grpc_gets_no_answer_of_the_api(kmsd: Kmsd, headers: tuple[tuple[str, str], ...]) -> None:
    with Client(kmsd.socket) as client:
        answer = client.ask(STATUS_V2, b"", headers)
        assert answer.headers.get(":status") != "200" or answer.status not in ("", "0")
        assert client.ask(STATUS_V2, b"").status == "0"


@pytest.mark.parametrize(
    "authority", ["localhost", "kms.example:443", "%2Frun%2Fkmsd%2Fkms.sock", "a_b", "/run/kms.sock"]
)
def test_any_authority_is_taken(kmsd: Kmsd, authority: str) -> None:
    """grpc-go of some versions names the socket's path, which h2corn resets: grpcio answers then."""
    options = (("grpc.default_authority", authority), ("grpc.use_local_subchannel_pool", 1))
    assert unary(kmsd.channel(None, *options), STATUS_V2)(b"", timeout=5)


def test_the_time_that_a_caller_gives_is_kept(kmsd: Kmsd, token: SoftToken) -> None:
    with token.hanging(), Client(kmsd.socket) as client:
        began = time.monotonic()
        answer = client.ask(ENCRYPT_V2, field(1, SEED), [*GRPC, ("grpc-timeout", "700m")])
        assert 0.5 < time.monotonic() - began < 3
        assert answer.status == "4" or answer.reset is not None
    kmsd.wait_ok()


@pytest.mark.parametrize("timeout", ["", "1", "S", "123456789S", "-1S", "1x"])
def test_a_timeout_that_is_none_is_not_a_reason_to_fail(kmsd: Kmsd, timeout: str) -> None:
    with Client(kmsd.socket) as client:
        assert client.ask(STATUS_V2, b"", [*GRPC, ("grpc-timeout", timeout)]).status in ("0", "13")


def test_a_request_that_is_taken_back_is_not_waited_for(kmsd: Kmsd, token: SoftToken) -> None:
    def given_up() -> int:
        return sum(line.get("code") == "CANCELLED" for line in kmsd.log_lines())

    before = given_up()
    with token.hanging(), Client(kmsd.socket) as client:
        stream = client.begin(ENCRYPT_V2)
        client.send(stream, prefixed(field(1, SEED)))
        assert client.ask(STATUS_V2, b"").status == "0"
        client.reset(stream)
        wait_for(lambda: given_up() > before, 5)
        assert client.ask(STATUS_V2, b"").status == "0"
    kmsd.wait_ok()


def test_health_is_told_once_and_on_and_on(kmsd: Kmsd) -> None:
    channel = kmsd.channel(None, ("grpc.use_local_subchannel_pool", 1))
    check, watch = unary(channel, CHECK), stream(channel, WATCH)
    for service in ("", "v2.KeyManagementService", "v1beta1.KeyManagementService"):
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        assert health_pb2.HealthCheckResponse.FromString(check(request, timeout=5)).status == 1
        following = watch(request, timeout=5)
        assert health_pb2.HealthCheckResponse.FromString(next(following)).status == 1
        following.cancel()
    other = health_pb2.HealthCheckRequest(service="v3").SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        check(other, timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    following = watch(other, timeout=5)
    assert health_pb2.HealthCheckResponse.FromString(next(following)).status == 3
    following.cancel()


def test_curl_and_h2load_are_answered(kmsd: Kmsd, tmp_path: Path) -> None:
    body = tmp_path / "status"
    body.write_bytes(prefixed(b""))
    kind = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    curl = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "--unix-socket", str(kmsd.socket), *kind, "-D", "-",
         "-o", str(tmp_path / "answer"), "--data-binary", f"@{body}", f"http://localhost{STATUS_V2}"],
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    assert "HTTP/2 200" in curl.stdout
    assert b"v2" in (tmp_path / "answer").read_bytes()
    load = subprocess.run(
        ["h2load", "-n", "2000", "-c", "8", "-m", "20", "-B", f"unix:{kmsd.socket}", *kind, "-d", str(body),
         f"http://localhost{STATUS_V2}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in load.stdout


async def test_grpclib_is_answered(kmsd: Kmsd) -> None:
    async with grpclib.client.Channel(path=str(kmsd.socket)) as channel:
        encrypt = grpclib.client.UnaryUnaryMethod(channel, ENCRYPT_V2, v2.EncryptRequest, v2.EncryptResponse)
        decrypt = grpclib.client.UnaryUnaryMethod(channel, DECRYPT_V2, v2.DecryptRequest, v2.DecryptResponse)
        written = await encrypt(v2.EncryptRequest(plaintext=SEED), timeout=5)
        read = await decrypt(v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id), timeout=5)
        assert read.plaintext == SEED
        with pytest.raises(grpclib.GRPCError, match="the plaintext has 0 bytes; KMS v2 takes 1 to 1023") as caught:
            await encrypt(v2.EncryptRequest(), timeout=5)
        assert caught.value.status is grpclib.Status.INVALID_ARGUMENT


def test_a_thousand_calls_at_once_on_one_connection_are_answered(kmsd: Kmsd) -> None:
    channel = kmsd.channel(None, ("grpc.use_local_subchannel_pool", 1))
    written = fields(unary(channel, ENCRYPT_V1)(field(1, "v1beta1") + field(2, SEED), timeout=5))[1]
    wrote = fields(unary(channel, ENCRYPT_V2)(field(1, SEED), timeout=5))
    begun = [
        unary(channel, DECRYPT_V2).future(field(1, wrote[1]) + field(3, wrote[2]), timeout=30) for _ in range(1000)
    ]
    assert {fields(each.result())[1] for each in begun} == {SEED}
    assert written


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_at_its_end_a_connection_is_asked_for_nothing_more_and_answered(short_tmp: Path, transport: str) -> None:
    kmsd, token = serving(short_tmp, transport, KMSD_KMS__REQUEST_TIMEOUT="20")
    with kmsd.start():
        kmsd.wait_ok()
        with Client(kmsd.socket) as client:
            watch = client.begin(WATCH)
            client.send(watch, prefixed(b""))
            with token.hanging():
                stream = client.begin(ENCRYPT_V2)
                client.send(stream, prefixed(field(1, SEED)))
                assert client.ask(STATUS_V2, b"").status == "0"
                assert kmsd.process is not None
                kmsd.process.send_signal(signal.SIGTERM)
                assert client.wait_goaway() == 0
                assert not client.answers[stream].ended
            assert client.wait(stream).status == "0"
            watched = client.wait(watch)
            assert watched.status == "14"
            assert health_pb2.HealthCheckResponse.FromString(watched.body[-2:]).status == 2
        assert kmsd.process.wait(10) == 0
