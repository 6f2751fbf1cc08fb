"""Metrics and probes over HTTP: what they tell is so, they answer whatever the token does, strangers are bounded."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.metrics.catalogue import METRICS
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.observe.scraping import Answer, metrics, told
from tests.remote.conftest import free_port
from tests.tokens import SoftToken, make_token

CONNECTIONS = 64


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    return make_token(tmp_path_factory.mktemp("k") / "hsm")


@pytest.fixture(scope="module")
def kmsd(tmp_path_factory: pytest.TempPathFactory, token: SoftToken, port: int) -> Iterator[Kmsd]:
    environment = {
        "KMSD_OBSERVE__LISTEN": f"127.0.0.1:{port}",
        "KMSD_HEALTH__INTERVAL": "0.5",
        "KMSD_KMS__REQUEST_TIMEOUT": "1",
    }
    with Kmsd(tmp_path_factory.mktemp("k"), token, ("--auto-create",), environment).start() as running:
        yield running.wait_ok()


def test_metrics_are_what_was_called(kmsd: Kmsd, port: int) -> None:
    key_hash = f"sha256:{kmsd.status().write_key.key_id_sha256}"
    before = told(port)
    sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"p" * 32, uid="u"))
    kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id))
    with pytest.raises(grpc.RpcError):
        kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=b"x", key_id="y"))
    after = told(port)
    risen = {name: after[name] - before.get(name, 0) for name in after}
    assert risen["kmsd_rpc_requests_total", ("v2", "OK", "Encrypt")] == 1
    assert risen["kmsd_rpc_requests_total", ("v2", "OK", "Decrypt")] == 1
    assert risen["kmsd_rpc_requests_total", ("v2", "INVALID_ARGUMENT", "Decrypt")] == 1
    assert before["kmsd_rpc_requests_total", ("v2", "INVALID_ARGUMENT", "Decrypt")] == 0, "known before its first"
    assert risen["kmsd_rpc_duration_seconds_count", ("v2", "Decrypt")] == 2
    assert risen["kmsd_rpc_duration_seconds_bucket", ("v2", "+Inf", "Decrypt")] == 2
    assert risen["kmsd_key_operations_total", (key_hash, "encrypt")] == 1
    assert risen["kmsd_key_operations_total", (key_hash, "decrypt")] == 1
    assert after["kmsd_write_key_info", (key_hash, "")] == 1
    assert after["kmsd_write_key_followed", ("",)] == 1
    assert after["kmsd_write_key_gcm_budget_ratio", ("",)] == pytest.approx(2**-32)
    assert after["kmsd_health_ok", ("",)] == after["kmsd_hsm_up", (kmsd.soft.label,)] == 1
    assert after["kmsd_hsm_sessions", ("open", kmsd.soft.label)] == 4
    assert after["kmsd_audit_ok", ("main",)] == 1
    assert abs(after["kmsd_write_key_created_timestamp_seconds", ("",)] - time.time()) < 600


def test_promtool_has_nothing_to_say_and_openmetrics_is_read_the_same(kmsd: Kmsd, port: int) -> None:
    classic = Answer(port, "/metrics")
    assert classic.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=classic.text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    other = Answer(port, "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert other.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = openmetrics(other.text)  # type: ignore[no-untyped-call]
    names = {sample.name for family in families for sample in family.samples}
    assert names == {name for name, _ in metrics(classic.text)}
    known = {metric.name for metric in METRICS}
    bare = {re.sub("_(bucket|count|sum)$", "", name) for name in names if not name.startswith("kmsd_process_")}
    assert bare <= known


def test_kmsctl_prints_the_same(kmsd: Kmsd, port: int) -> None:
    done = forkserver.run(
        [KMSCTL, "--target", str(kmsd.admin_socket), "stats", "-o", "prometheus"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert metrics(done.stdout).keys() >= told(port).keys()


def test_probes_are_ok_and_name_their_checks(kmsd: Kmsd, port: int) -> None:
    for path in ("/livez", "/readyz", "/readyz?exclude=round-trip&exclude=sockets"):
        answer = Answer(port, path)
        assert (answer.status, answer.text) == (200, "ok\n")
    assert Answer(port, "/livez?verbose").text == "[+]process ok\nlivez check passed\n"
    assert Answer(port, "/readyz?verbose").text.splitlines() == [
        *("[+]process ok", "[+]sockets ok", "[+]write-key ok", "[+]round-trip ok", "readyz check passed"),
    ]
    assert Answer(port, "/readyz", "HEAD").status == 200


def test_what_is_not_there_is_said_in_a_sentence(kmsd: Kmsd, port: int) -> None:
    lost = Answer(port, "/metrics/x")
    assert (lost.status, lost.text) == (
        404, "there is no '/metrics/x' here: kmsd answers /livez, /readyz and /metrics\n",
    )  # fmt: skip
    posted = Answer(port, "/metrics", "POST")
    assert (posted.status, posted.headers["Allow"]) == (405, "GET, HEAD")
    strange = Answer(port, "/readyz?exclude=hsm")
    assert strange.status == 400
    assert "its checks are process, sockets, write-key, round-trip" in strange.text


def test_probes_answer_at_once_while_the_token_hangs(kmsd: Kmsd, token: SoftToken, port: int) -> None:
    with token.hanging():
        sick = wait_for(lambda: (answer := Answer(port, "/readyz")).status == 503 and answer)
        assert "[-]round-trip failed: " in sick.text
        assert "readyz check failed" in sick.text
        began = time.monotonic()
        assert Answer(port, "/livez").status == 200
        assert Answer(port, "/readyz").status == 503
        assert Answer(port, "/readyz?exclude=round-trip&exclude=write-key").status == 200
        assert Answer(port, "/metrics").status == 200
        assert time.monotonic() - began < 2  # milliseconds where nothing else runs
        assert told(port)["kmsd_health_ok", ("",)] == 0
    kmsd.wait_ok()
    wait_for(lambda: Answer(port, "/readyz").status == 200)


def test_who_holds_connections_keeps_no_probe_away(kmsd: Kmsd, port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS + 8)]
    try:
        held[-1].sendall(b"GET /readyz HTTP/1.1\r\n")
        assert Answer(port, "/livez").status == 200
        held[0].settimeout(5)
        assert held[0].recv(1) == b"", "the oldest gives way"
        assert told(port)["kmsd_process_open_fds", ()] < 400
    finally:
        for each in held:
            each.close()


def test_headers_are_bounded_and_no_http_is_no_line_in_the_log(kmsd: Kmsd, port: int) -> None:
    assert Answer(port, "/livez", X_Long="x" * 9000).status == 400
    assert Answer(port, f"/livez?{'x' * 9000}").status == 400
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.settimeout(5)
        stranger.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert stranger.recv(100).startswith(b"HTTP/1.0 400")
    assert "no HTTP" not in kmsd.log_text()


def test_a_socket_has_its_mode_a_port_that_is_taken_is_a_problem_and_who_stops_says_so(
    tmp_path_factory: pytest.TempPathFactory, port: int, kmsd: Kmsd, token: SoftToken
) -> None:
    folder = tmp_path_factory.mktemp("k")
    place = folder / "o" / "observe.sock"
    with Kmsd(folder, token, (), {"KMSD_OBSERVE__LISTEN": f"unix:{place}"}).start() as second:
        second.wait_ok()
        assert place.stat().st_mode & 0o777 == 0o600
        assert Answer(place, "/readyz").text == "ok\n"
        assert f"unix:{place}" in {each.socket for each in second.status().listeners}
        place.unlink()
        wait_for(place.exists)
        wait_for(lambda: Answer(place, "/livez").status == 200)
    assert not place.exists()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        second.environment = {"KMSD_OBSERVE__LISTEN": where}
        second.start()
        (problem,) = [each for each in second.status().problems if where in each.message]
        assert "address already in use" in problem.message
        taken.close()
        wait_for(lambda: not [each for each in second.status().problems if where in each.message])
        its = int(where.rpartition(":")[2])
        assert Answer(its, "/livez").status == 200
    second.wait_ok()
    with token.hanging():
        asking = threading.Thread(target=_encrypt, args=(second,))
        asking.start()
        wait_for(lambda: told(its)["kmsd_rpc_in_flight", ()] >= 1)
        assert second.process is not None
        second.process.send_signal(signal.SIGTERM)
        ending = wait_for(lambda: (answer := Answer(its, "/readyz?verbose")).status == 503 and answer)
        assert "[-]process failed: kmsd is stopping\n" in ending.text
        assert Answer(its, "/livez").status == 200
    asking.join()
    second.stop()


def _encrypt(kmsd: Kmsd) -> None:
    with contextlib.suppress(grpc.RpcError):
        kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"p" * 32, uid="u"))
