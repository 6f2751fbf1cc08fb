"""A rotation as a cluster lives through it: kube-apiserver's rules, a real kmsd, a real etcd, and kmsctl."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.e2e.apiserver import ApiServer, SimulatedApiServer
from tests.e2e.encryption_config import Kms, document
from tests.e2e.etcd import Etcd

DATA = {"password": b"correct horse"}


@pytest.fixture
def ctl(kmsd: Kmsd, etcd: Etcd) -> Callable[..., Any]:
    """kmsctl on this kmsd and this etcd; what it says in JSON."""

    def call(*arguments: str) -> Any:
        done = forkserver.run(
            [KMSCTL, *arguments, f"--target={kmsd.admin_socket}", "-o", "json"],
            env={"ETCDCTL_ENDPOINTS": etcd.url, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def counts(scan: Any) -> dict[tuple[str, str], int]:
    """Objects by kind of storage and key id."""
    return {(each["storage"], each["key_id"]): each["objects"] for each in scan["counts"]}


def test_what_kube_apiserver_wrote_moves_to_the_new_key_and_the_scan_sees_it(
    etcd: Etcd, kmsd: Kmsd, ctl: Callable[..., Any], tmp_path: Path
) -> None:
    server: ApiServer = SimulatedApiServer(etcd)
    v1, v2 = Kms("kmsd-v1", "v1", kmsd.socket), Kms("kmsd", "v2", kmsd.socket)
    names = ("one", "two", "three")
    try:
        server.start(document(v1))
        server.create_secret("of-v1", DATA)
        server.stop()
        server.start(document(v2, v1))
        for name in names:
            server.create_secret(name, DATA)
        before = ctl("etcd", "scan")
        old = before["write_key_id"]
        assert counts(before) == {("kms-v1", old): 1, ("kms-v2", old): 3}
        assert {each["format"] for each in before["counts"]} == {"native"}

        new = ctl("rotate", "--yes")["new_key"]["key_id"]
        wait_for(lambda: ctl("status")["following"]["first_encrypt_at"])
        assert counts(ctl("etcd", "scan")) == counts(before)

        server.create_secret("four", DATA)
        server.create_secret("one", server.read_secret("one"))
        halfway = ctl("etcd", "scan")
        assert counts(halfway) == {("kms-v1", old): 1, ("kms-v2", old): 2, ("kms-v2", new): 2}
        assert halfway["under_write_key"] == 2

        for name in ("two", "three", "of-v1"):
            server.create_secret(name, server.read_secret(name))
        report = tmp_path / "scan.json"
        assert counts(ctl("etcd", "scan", "--report", str(report))) == {("kms-v2", new): 5}
        assert [each["key"] for each in json.loads(report.read_text())["uses"]] == [new]
        for name in (*names, "four", "of-v1"):
            assert server.read_secret(name) == DATA
    finally:
        server.stop()


def test_a_watch_sees_kube_apiserver_follow_at_its_next_poll(etcd: Etcd, kmsd: Kmsd) -> None:
    server = SimulatedApiServer(etcd)
    try:
        server.start(document(Kms("kmsd", "v2", kmsd.socket)))
        server.create_secret("one", DATA)
        done = forkserver.run(
            [KMSCTL, "rotate", "--watch", "--yes", f"--target={kmsd.admin_socket}", "-o", "json", "--timeout=50s"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        followed = [(each["node"], each["progress"]) for each in events[1:] if each["step"] == "apiservers"]
        assert followed[-2:] == [(socket.gethostname(), "done"), (None, "done")]
        # No other write has happened meanwhile, and the next one is under the new key.
        server.create_secret("two", DATA)
        assert events[0]["new_key"]["key_id"].encode() in server.raw_stored("two")
    finally:
        server.stop()
