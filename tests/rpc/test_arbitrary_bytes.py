"""Arbitrary and mutated bytes for every method, over the real socket."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.daemons import Kmsd
from tests.rpc.known import AES128, WRITE
from tests.rpc.refusals import (
    DECRYPT_V1,
    DECRYPT_V2,
    ENCRYPT_V1,
    ENCRYPT_V2,
    STATUS_V2,
    VERSION_V1,
    Refusal,
    answers,
    told,
)
from tests.rpc.vectors import CBC, GCM
from tests.rpc.wire import field, fields

PLAINTEXT = b"what was written before any of it"
HEALTH = "/grpc.health.v1.Health/Check"
METHODS = (STATUS_V2, ENCRYPT_V2, DECRYPT_V2, VERSION_V1, ENCRYPT_V1, DECRYPT_V1)
FORBIDDEN = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "CANCELLED", "DEADLINE_EXCEEDED"}
V1 = field(1, "v1beta1")

bounded = settings(
    deadline=None,
    max_examples=200,
    # One server for all examples, on purpose.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def good(served: Kmsd) -> tuple[bytes, ...]:
    """Requests that are answered well, to begin from."""
    written = fields(served.raw(ENCRYPT_V2, field(1, PLAINTEXT)))[1]
    return (
        b"",
        V1,
        field(1, PLAINTEXT) + field(2, "uid"),
        V1 + field(2, PLAINTEXT),
        field(1, written) + field(2, "uid") + field(3, WRITE.key_id),
        V1 + field(2, written),
        *(V1 + field(2, vector.ciphertext) for vector in (*GCM, *CBC)),
        field(1, GCM[3].ciphertext) + field(3, AES128.key_id),
    )


@st.composite
def mutated(draw: st.DrawFn, begin: st.SearchStrategy[bytes]) -> bytes:
    """A request with a few bytes changed, cut, doubled or inserted."""
    data = bytearray(draw(begin))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = draw(st.integers(place, min(len(data), place + 40)))
        match draw(st.sampled_from(["flip", "cut", "double", "insert", "truncate"])):
            case "flip" if place < len(data):
                data[place] ^= draw(st.integers(1, 255))
            case "cut":
                del data[place:end]
            case "double":
                data[place:place] = data[place:end]
            case "insert":
                data[place:place] = draw(st.binary(max_size=20))
            case _:
                del data[place:]
    return bytes(data)


messages = st.lists(
    st.builds(field, st.integers(1, 6), st.binary(max_size=100) | st.text(max_size=40)), max_size=6
).map(b"".join)


@bounded
@given(data=st.data())
def test_whatever_comes_is_answered_and_the_next_request_is_served(
    served: Kmsd, good: tuple[bytes, ...], data: st.DataObject
) -> None:
    known = st.sampled_from(good)
    bodies = st.one_of(st.binary(max_size=300), messages, known, mutated(known), mutated(known))
    calls = data.draw(st.lists(st.tuples(st.sampled_from((*METHODS, HEALTH)), bodies), min_size=1, max_size=25))
    for (path, body), answer in zip(calls, answers(served, calls), strict=True):
        match answer:
            case Refusal():
                assert answer.code not in FORBIDDEN or path == HEALTH, (path, body, answer)
                # A request for health says which service it means, and hears its own words again.
                assert path == HEALTH or PLAINTEXT.decode() not in answer.details
                assert path == HEALTH or answer.hint, (path, body, answer)
            case _ if path == DECRYPT_V2 and fields(answer):
                # What decrypts was written by a key of the token; mutations may have touched only uid and the like.
                assert fields(answer)[1] in {PLAINTEXT, *(vector.plaintext for vector in GCM)}
    written = fields(served.raw(ENCRYPT_V2, field(1, PLAINTEXT)))
    assert served.raw(DECRYPT_V2, field(1, written[1]) + field(3, written[2])) == field(1, PLAINTEXT)


ADMIN = tuple(f"/kmsd.admin.v1.Admin/{name}" for name in ("GetStatus", "ListSlots", "ListKeys", "AdoptKey", "Nothing"))


@settings(bounded, max_examples=200)
@given(path=st.sampled_from(ADMIN), body=st.binary(max_size=200) | messages)
def test_the_admin_api_is_as_robust(served: Kmsd, path: str, body: bytes) -> None:
    try:
        served.raw(path, body, timeout=20, admin=True)
    except grpc.RpcError as error:
        code = told(error).code
    else:
        code = "OK"
    assert code not in FORBIDDEN, (path, body)
    assert served.v2("Status").healthz == "ok"


def test_nothing_of_it_was_an_internal_error(served: Kmsd) -> None:
    """Runs last: the log of all that was sent above."""
    lines = [line for line in served.log_lines() if line["level"] in ("error", "critical")]
    assert not lines
    assert "Traceback" not in served.log_text()
