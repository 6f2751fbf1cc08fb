"""Counting what a real etcd holds, whatever it holds and whatever happens to it meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.api.etcd import rpc_pb2 as pb
from kmsd.client import InvalidRequest, KeyInEtcd, Unreachable
from kmsd.etcd import client as etcd_client
from kmsd.etcd import scan as scanning
from kmsd.etcd.client import Etcd, PageTooLarge, RangePage
from kmsd.etcd.resources import nameable, resource, root
from kmsd.etcd.scan import EtcdScan, ScanOptions, ScanProgress, ScanRow, Storage, scan
from kmsd.formats.keyid import Names
from tests.etcd.server import Server, start_three
from tests.etcd.values import (
    K8S_KMS_PLUGIN_CBC,
    K8S_KMS_PLUGIN_GCM,
    NEW_ID,
    OLD_ID,
    SEALED,
    jwe,
    k8s_kms_plugin_gcm,
    keysealer,
    native,
    v1,
    v2,
)

EVERY_KIND = {
    "/registry/secrets/default/new-1": v2(NEW_ID),
    "/registry/secrets/default/new-2": v2(NEW_ID),
    "/registry/secrets/default/old": v2(OLD_ID),
    "/registry/secrets/default/old-v1": v1(native(OLD_ID), b"kmsd-v1"),
    "/registry/secrets/default/k8s_kms_plugin": v1(k8s_kms_plugin_gcm("k8s-dek"), b"thales"),
    "/registry/secrets/default/k8s_kms_plugin-real": v1(K8S_KMS_PLUGIN_GCM[0], b"thales"),
    "/registry/secrets/default/k8s_kms_plugin-cbc": v1(K8S_KMS_PLUGIN_CBC[0], b"thales"),
    "/registry/secrets/default/successor": v1(keysealer(b"\x00\xff\x10"), b"keysealer"),
    "/registry/secrets/default/aws": v2("arn:aws:kms:1", b"opaque", b"aws"),
    "/registry/secrets/default/plain": b"k8s\0\x0a\x0c",
    "/registry/secrets/default/aescbc": b"k8s:enc:aescbc:v1:key1:" + SEALED,
    "/registry/secrets/default/secretbox": b"k8s:enc:secretbox:v1:key1:" + SEALED,
    "/registry/secrets/default/cut": v2(OLD_ID)[:-3],
    "/registry/secrets/default/cut-v1": v1(native())[:30],
    "/registry/configmaps/default/new": v2(NEW_ID),
    "/registry/cilium.io/ciliumnodes/a": b'{"kind":"CiliumNode"}',
    "/registry/services/endpoints/default/x": b"k8s\0",
    "/registry/ranges/serviceips": b"k8s\0",
    "/registry/masterleases/10.0.0.1": b"",
}


def counted(found: EtcdScan) -> dict[ScanRow, int]:
    return {each.row: each.objects for each in found.counts}


def scanned(etcd: Server, prefix: str = "/registry", **options: Any) -> EtcdScan:
    with Etcd([etcd.url]) as client:
        return scan(client, prefix, **options)


def test_every_kind_of_value_is_counted_where_it_belongs(etcd: Server) -> None:
    etcd.put({**EVERY_KIND, "/registryX/secrets/a/b": v2(OLD_ID), "/other": v2(OLD_ID), "compact_rev_key": b"1"})
    found = scanned(etcd)
    cut = "cut short within the encrypted data key"
    assert counted(found) == {
        ScanRow("secrets", Storage.KMS_V2, "kmsd", NEW_ID, format="native"): 2,
        ScanRow("configmaps", Storage.KMS_V2, "kmsd", NEW_ID, format="native"): 1,
        ScanRow("secrets", Storage.KMS_V2, "kmsd", OLD_ID, format="native"): 1,
        ScanRow("secrets", Storage.KMS_V1, "kmsd-v1", OLD_ID, format="native"): 1,
        ScanRow("secrets", Storage.KMS_V1, "thales", "k8s-dek", by_label=True, format="k8s-kms-plugin aes-gcm"): 2,
        ScanRow(
            "secrets",
            Storage.KMS_V1,
            "thales",
            format="k8s-kms-plugin aes-cbc",
            reason="the encrypted data key names no key",
        ): 1,
        ScanRow("secrets", Storage.KMS_V1, "keysealer", OLD_ID, format="keysealer"): 1,
        ScanRow("secrets", Storage.KMS_V2, "aws", "arn:aws:kms:1"): 1,
        ScanRow("secrets", Storage.PLAINTEXT): 1,
        ScanRow("secrets", Storage.AESCBC): 1,
        ScanRow("secrets", Storage.SECRETBOX): 1,
        ScanRow("secrets", Storage.UNKNOWN, "kmsd", reason="not an EncryptedObject, or cut short"): 1,
        ScanRow("secrets", Storage.UNKNOWN, "kmsd", reason=cut): 1,
        ScanRow("ciliumnodes.cilium.io", Storage.PLAINTEXT): 1,
        ScanRow("endpoints", Storage.PLAINTEXT): 1,
        ScanRow("ranges", Storage.PLAINTEXT): 1,
        ScanRow("masterleases", Storage.PLAINTEXT): 1,
    }
    assert found.objects == len(EVERY_KIND)
    assert (found.plaintext, found.unknown) == (5, 3)
    assert found.under(OLD_ID) == 3
    names = Names(frozenset({OLD_ID}), frozenset({"k8s-dek"}))
    assert found.sum(lambda row: row.may_need(names)) == 5
    assert found.resources(lambda row: row.key == NEW_ID) == ("configmaps", "secrets")


def test_the_report_holds_what_retiring_a_key_asks_for(etcd: Server) -> None:
    etcd.put(EVERY_KIND)
    found = scanned(etcd)
    report = found.report()
    assert set(report.uses) == {
        KeyInEtcd(NEW_ID, 3),
        KeyInEtcd(OLD_ID, 3),
        KeyInEtcd("k8s-dek", 2, by_label=True),
        KeyInEtcd("arn:aws:kms:1", 1),
    }
    assert (report.objects, report.unknown, report.prefix) == (len(EVERY_KIND), 3, "/registry")
    assert report.revision > 0
    assert report.cluster_id > 0
    assert report.started <= report.finished


def test_every_spelling_of_a_key_is_under_it_and_a_label_beside_is_told(etcd: Server) -> None:
    gcm = jwe({"alg": "dir", "kid": "kek", "enc": "A128GCM"}, iv=16)
    values = [v2(OLD_ID), v2("00ff10", gcm), v2("00FF10", keysealer(b"\x00\xff\x10")), v2(NEW_ID)]
    etcd.put({f"/registry/secrets/default/s{number}": value for number, value in enumerate(values)})
    found = scanned(etcd)
    assert found.under(OLD_ID) == 3
    assert KeyInEtcd("00ff10", 1, label="kek") in found.report().uses
    assert found.sum(lambda row: row.may_need(Names(frozenset(), frozenset({"kek"})))) == 1


def test_an_empty_etcd_is_counted_as_nothing(etcd: Server) -> None:
    found = scanned(etcd)
    assert (found.objects, found.counts) == (0, ())


def test_a_smaller_prefix_reads_less_and_names_the_same_resource(etcd: Server) -> None:
    etcd.put(EVERY_KIND)
    found = scanned(etcd, "/registry/configmaps/")
    assert counted(found) == {ScanRow("configmaps", Storage.KMS_V2, "kmsd", NEW_ID, format="native"): 1}
    assert found.prefix == "/registry/configmaps"
    assert scanned(etcd, "/").objects == len(EVERY_KIND)


@pytest.mark.parametrize("prefix", ["", "/x\udcff", "/" + "x" * 2000])
def test_a_prefix_that_is_none_is_refused(etcd: Server, prefix: str) -> None:
    with pytest.raises(InvalidRequest):
        scanned(etcd, prefix)


def test_a_prefix_without_a_slash_is_what_kube_apiserver_makes_of_it(etcd: Server) -> None:
    etcd.put(
        {"/kubernetes.io/secrets/default/a": v2(OLD_ID), "/openshift.io/oauth/accesstokens/x": v2(OLD_ID), "/k": b"x"}
    )
    assert (scanned(etcd, "kubernetes.io").prefix, scanned(etcd, "kubernetes.io/").objects) == ("/kubernetes.io", 1)
    whole = scanned(etcd, "/").resources(lambda row: row.storage.needs_kms)
    assert whole == ("oauthaccesstokens.oauth.openshift.io", "secrets")


def many(count: int, octets: int = 200, **where: Any) -> dict[str, bytes]:
    return {f"/registry/secrets/ns/{number:06}": v2(NEW_ID, sealed=b"x" * octets, **where) for number in range(count)}


def test_pages_join_without_a_gap_and_without_an_overlap(etcd: Server) -> None:
    etcd.put(many(1500))
    seen: list[ScanProgress] = []
    found = scanned(etcd, on_page=seen.append)
    assert found.objects == 1500
    assert len(seen) > 1
    assert seen[-1] == ScanProgress(1500, 1500, 1)
    assert {each.expected for each in seen} == {1500}


def test_what_is_written_during_a_scan_is_not_counted_twice(etcd: Server) -> None:
    etcd.put(many(1000))
    written = False

    def write(_: ScanProgress) -> None:
        nonlocal written
        if not written:
            written = True
            etcd.put({"/registry/secrets/ns/000999": v2(OLD_ID), "/registry/secrets/zz/new": v2(OLD_ID)})

    found = scanned(etcd, on_page=write)
    assert counted(found) == {ScanRow("secrets", Storage.KMS_V2, "kmsd", NEW_ID, format="native"): 1000}


def test_a_compaction_makes_the_scan_begin_again_and_say_so(etcd: Server) -> None:
    etcd.put(many(1000))
    seen: list[ScanProgress] = []

    def compact_once(progress: ScanProgress) -> None:
        if not seen:
            etcd.put({"/registry/secrets/zz/new": v2(OLD_ID)})
            with Etcd([etcd.url]) as client:
                etcd.compact(client.page(b"a", b"b", limit=1).revision)
        seen.append(progress)

    found = scanned(etcd, on_page=compact_once)
    assert found.starts == 2
    assert found.objects == 1001
    assert [each.starts for each in seen] == sorted(each.starts for each in seen)


def test_an_etcd_that_compacts_without_end_ends_the_scan(etcd: Server) -> None:
    etcd.put(many(1000))

    def compact(_: ScanProgress) -> None:
        etcd.put({"/registry/secrets/zz/new": v2(OLD_ID)})
        with Etcd([etcd.url]) as client:
            etcd.compact(client.page(b"a", b"b", limit=1).revision)

    with pytest.raises(Exception, match="compacted what was being read, 5 times") as failed:
        scanned(etcd, on_page=compact)
    assert failed.value.retryable  # type: ignore[attr-defined]


def test_large_values_make_pages_smaller_until_they_fit(etcd: Server) -> None:
    etcd.put(many(24, octets=1_000_000))  # 256 of them would be 24 MB
    found = scanned(etcd)
    assert found.objects == 24
    assert found.under(NEW_ID) == 24


def test_a_value_too_large_for_any_page_is_counted_as_not_understood(tmp_path: Path) -> None:
    server = Server(tmp_path, ["--max-request-bytes=40000000"])
    try:
        server.start()
        values = many(3)
        values["/registry/secrets/ns/000001x"] = b"k8s:enc:kms:v2:kmsd:" + b"x" * (17 << 20)
        server.put(values)
        found = scanned(server)
    finally:
        server.stop()
    assert found.objects == 4
    assert found.unknown == 1
    assert counted(found)[ScanRow("secrets", Storage.UNKNOWN, reason="the value is larger than a page may be")] == 1


def test_so_many_rows_are_bounded_and_what_is_left_may_need_any_key(
    etcd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "ROWS_MAX", 3)
    etcd.put({f"/registry/secrets/ns/{number}": v2(f"key-{number}") for number in range(9)})
    found = scanned(etcd)
    assert (found.objects, found.unknown, len(found.counts)) == (9, 6, 4)


def test_the_ends_of_keys_are_remembered_where_they_are_wanted_and_no_more_than_fit(
    etcd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd.put({f"/registry/{each}": v2(OLD_ID) for each in ("example.org/widgets/w", "secrets/a/x", "secrets/b/x")})
    etcd.put({"/registry/secrets/a/new": v2(NEW_ID)})
    wanted = ScanOptions(0, lambda _: False, lambda row: row.is_under(OLD_ID))
    assert scanned(etcd, wanted=wanted).ends == {"widgets.example.org": {"widgets/w"}, "secrets": {"a/x", "b/x"}}
    assert scanned(etcd).ends == {}
    monkeypatch.setattr(scanning, "ENDS_MAX", 2)
    assert scanned(etcd, wanted=wanted).ends == {"widgets.example.org": {"widgets/w"}, "secrets": None}


def test_a_member_that_dies_in_the_middle_is_replaced_by_the_next(tmp_path: Path) -> None:
    servers = start_three(tmp_path)
    try:
        servers[0].put(many(1000))
        killed = False

        def kill(_: ScanProgress) -> None:
            nonlocal killed
            if not killed:
                killed = True
                servers[1].stop()

        with Etcd([",".join(server.url for server in (servers[1], servers[2], servers[0]))]) as client:
            found = scan(client, on_page=kill)
        assert killed
        assert (found.objects, found.starts) == (1000, 1)
        with Etcd([servers[1].url, servers[2].url]) as client:
            assert scan(client).objects == 1000
    finally:
        for server in servers:
            server.stop()


def test_a_cluster_that_loses_its_leader_is_waited_for_until_it_has_another(tmp_path: Path) -> None:
    servers = start_three(tmp_path)
    try:
        servers[0].put(many(1000))
        leader = next(each for each in servers if ", true, false," in each.ctl("endpoint", "status"))
        follower = next(each for each in servers if each is not leader)
        killed = False

        def kill(_: ScanProgress) -> None:
            nonlocal killed
            if not killed:
                killed = True
                leader.stop()

        with Etcd([follower.url], timeout=2.0) as client:
            client.linearizable = True  # every read is agreed on with the leader, as by those of kine
            found = scan(client, on_page=kill)
        assert killed
        assert (found.objects, found.starts) == (1000, 1)
    finally:
        for server in servers:
            server.stop()


def test_an_etcd_that_is_gone_for_good_ends_the_scan_in_time_and_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_client, "_PATIENCE", 1.0)
    server = Server(tmp_path)
    try:
        server.start().put(many(1000))
        with Etcd([server.url], timeout=1.0) as client, pytest.raises(Unreachable) as failed:
            scan(client, on_page=lambda _: server.stop())
        assert failed.value.retryable
    finally:
        server.stop()


class Kine(grpc.GenericRpcHandler):
    """Refuses what kine refuses, and passes the rest on to a real etcd."""

    def __init__(self, url: str) -> None:
        channel = grpc.insecure_channel(url.removeprefix("http://"))
        self._range = channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=pb.RangeRequest.SerializeToString,
            response_deserializer=pb.RangeResponse.FromString,
        )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[pb.RangeRequest, pb.RangeResponse]:
        def answer(request: pb.RangeRequest, context: grpc.ServicerContext) -> pb.RangeResponse:
            if request.serializable:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "serializable is not implemented by kine")
            found: pb.RangeResponse = self._range(request)
            revision = found.header.revision
            found.header.Clear()
            found.header.revision = revision
            return found

        return grpc.unary_unary_rpc_method_handler(
            answer, pb.RangeRequest.FromString, pb.RangeResponse.SerializeToString
        )


def test_kine_which_refuses_serializable_reads_is_read_with_linearizable_ones(etcd: Server, short_tmp: Path) -> None:
    etcd.put(many(1000))
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Kine(etcd.url),))
    server.add_insecure_port(f"unix:{short_tmp}/kine.sock")
    server.start()
    try:
        with Etcd([f"unix://{short_tmp}/kine.sock"]) as client:
            found = scan(client)
            assert client.linearizable
        assert (found.objects, found.cluster_id, found.starts) == (1000, 0, 1)
        with Etcd([etcd.url]) as client:
            scan(client)
            assert not client.linearizable
    finally:
        server.stop(0)


def test_endpoints_of_two_clusters_are_refused(etcd: Server, tmp_path: Path) -> None:
    other = Server(tmp_path)
    etcd.put(many(1000))
    try:
        other.start()
        with Etcd([etcd.url, other.url]) as client:
            client.page(b"a", b"b", limit=1)
            client._members.reverse()
            with pytest.raises(InvalidRequest, match="different etcd clusters"):
                client.page(b"a", b"b", limit=1)
    finally:
        other.stop()


MEASURE = """
import json, resource, sys
from kmsd.etcd.client import Etcd
from kmsd.etcd.scan import scan

with Etcd([sys.argv[1]]) as etcd:
    scan(etcd, "/registry/small")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = scan(etcd)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([found.objects, len(found.counts), after - before]))
"""


def test_a_hundred_thousand_objects_are_counted_without_holding_them(etcd: Server) -> None:
    dek = native(OLD_ID)
    octets = 700
    etcd.put(many(10, octets) | {"/registry/small/a": b"k8s\0"})
    etcd.put_many(
        (
            f"/registry/secrets/namespace-{number % 100}/{number:06}",
            v2(NEW_ID, sealed=b"x" * octets) if number % 2 else v1(dek, sealed=b"y" * octets),
        )
        for number in range(100_000)
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, etcd.url], capture_output=True, text=True, check=True, timeout=100
    )
    objects, rows, more_kib = json.loads(done.stdout)
    assert objects == 100_011
    assert rows == 3
    # All of it is 90 MB. A page is 2 MiB in octets, and a few times that in messages.
    assert more_kib < 40 << 10


class Failing:
    """Answers what it is told to: for what no etcd can be brought to do."""

    def __init__(self, *answers: Callable[[], RangePage]) -> None:
        self._answers = list(answers)
        self.asked: list[int] = []

    def page(self, start: bytes, end: bytes, *, limit: int, revision: int = 0, keys_only: bool = False) -> RangePage:
        self.asked.append(limit)
        return self._answers.pop(0)()


def test_a_page_that_is_too_large_is_asked_for_again_in_smaller_parts() -> None:
    def large() -> RangePage:
        raise PageTooLarge

    etcd = Failing(large, large, lambda: RangePage([], False, 0, 7, 1, 10))
    assert scan(etcd).revision == 7
    assert etcd.asked == [256, 64, 16]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("/registry/secrets/ns/x", "secrets"),
        ("/registry/minions/n1", "nodes"),
        ("/registry/controllers/ns/x", "replicationcontrollers"),
        ("/registry/services/specs/ns/x", "services"),
        ("/registry/services/endpoints/ns/x", "endpoints"),
        ("/registry/services/else/ns/x", "services"),
        ("/registry/ingress/ns/x", "ingresses"),
        (
            "/registry/apiextensions.k8s.io/customresourcedefinitions/x",
            "customresourcedefinitions.apiextensions.k8s.io",
        ),
        ("/registry/loose", "?"),
        ("/registry/", "?"),
        ("/elsewhere/secrets/x", "?"),
        ("/registry/" + "x" * 1000 + "/y", "x" * 128),
    ],
)
def test_a_key_belongs_to_the_resource_that_kubectl_knows(key: str, name: str) -> None:
    assert resource(key.encode(), b"/registry/") == name


def test_roots_are_known_and_others_are_taken_as_they_come() -> None:
    assert root("/registry/secrets/") == "/registry/"
    assert root("/kubernetes.io/secrets/") == "/kubernetes.io/"
    assert root("/my/own/") == "/my/own/"


@given(st.binary(max_size=80))
def test_any_key_has_a_short_name_that_is_safe_or_said_not_to_be(key: bytes) -> None:
    name = resource(b"/registry/" + key, b"/registry/")
    assert len(name) <= 4 * 256 + 1
    if nameable(name):
        assert name.isascii()
        assert not set(name) & set(" ;|&$`\n\"'<>()")


def test_nobody_there_is_unreachable() -> None:
    with Etcd(["127.0.0.1:1"]) as client, pytest.raises(Unreachable, match="connection refused"):
        scan(client)
