"""kmsctl rotate --watch to the end: real kmsds on one real token, a real etcd, and a stand-in for kube-apiserver."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client.report import read_report
from tests import forkserver
from tests.ctl.terminal import Terminal
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.etcd.server import Server
from tests.etcd.values import v2 as stored_v2
from tests.tokens import SoftToken

MANY = 20_000
"""Objects that take a scan a while."""
QUICK = {"KMSD_KEYS__REFRESH": "0.2"}


@pytest.fixture(scope="module")
def _etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def etcd(_etcd: Server) -> Server:
    _etcd.clear()
    return _etcd


@dataclass
class Cluster:
    """Two control-plane nodes: a kmsd each, on one token, and one etcd."""

    token: SoftToken
    first: Kmsd
    second: Kmsd
    etcd: Server
    objects: int = 0

    @property
    def nodes(self) -> tuple[Kmsd, Kmsd]:
        return self.first, self.second

    @property
    def options(self) -> list[str]:
        """Of kmsctl rotate --watch."""
        named = [f"--target={self.first.admin_socket}", f"--node=cp-2={self.second.admin_socket}"]
        return [*named, f"--endpoints={self.etcd.url}", "--scan-every=1s"]

    def poll(self, kmsd: Kmsd) -> None:
        """As the kube-apiserver of a node: Status, and a new seed if its key id is new."""
        assert kmsd.v2("Status").healthz == "ok"
        kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"s" * 32, uid="seed"))

    def write(self, *resources: str, number: int = 2) -> None:
        """Objects under the present write key: again the same ones, as rewriting does."""
        sealed = self.first.v2("Encrypt", v2.EncryptRequest(plaintext=b"s" * 32, uid="seed"))
        value = stored_v2(sealed.key_id, sealed.ciphertext)
        self.etcd.put({f"/registry/{each}/default/{n}": value for each in resources for n in range(number)})

    def rotate(self) -> str:
        """The old key's id. The labels then say that it lost the write label a while ago, so that no proof is too
        early."""
        old: str = self.first.status().write_key.key_id
        assert (
            forkserver.run([KMSCTL, "rotate", "--yes", f"--target={self.first.admin_socket}"], check=False).returncode
            == 0
        )
        (label,) = (label for key_id, label in self.labels().items() if key_id == old)
        earlier = (datetime.now(UTC) - timedelta(minutes=6)).strftime("k8s-kek@%Y%m%dT%H%M%SZ")
        self.token.relabel(label, earlier)
        for node in self.nodes:
            wait_for(lambda node=node: self.labels(node).get(old) == earlier)
        return old

    def labels(self, kmsd: Kmsd | None = None) -> dict[str, str]:
        return {each.key_id: each.label for each in (kmsd or self.first).admin("ListKeys").keys}

    def state(self, key_id: str) -> int:
        (found,) = (each.state for each in self.first.admin("ListKeys").keys if each.key_id == key_id)
        return int(found)


@pytest.fixture
def cluster(start_kmsd: Callable[..., Kmsd], token: SoftToken, etcd: Server) -> Cluster:
    first = start_kmsd("--auto-create", name="a", environment=QUICK).wait_ok()
    second = start_kmsd(name="b", environment=QUICK).wait_ok()
    made = Cluster(token, first, second, etcd)
    made.poll(first)
    made.poll(second)
    return made


@dataclass
class Watching:
    """kmsctl rotate --watch -o json in a process of its own; it writes into files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.out.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def errors(self) -> str:
        return self.err.read_text()

    def begun(self) -> dict[str, Any]:
        """The first event, which names both keys."""
        found: dict[str, Any] = wait_for(lambda: self.events[:1])[0]
        return found

    def told(self, step: str, progress: str, text: str | None = "", node: str | None = None) -> dict[str, Any]:
        """The last event of this kind, once it has come; text: part of its text, None for none."""

        def look() -> dict[str, Any] | None:
            ended = self.process.poll() is not None
            each: dict[str, Any]
            for each in reversed(self.events[1:]):
                if (each["step"], each["progress"], each["node"]) == (step, progress, node) and (
                    each["text"] is None if text is None else text in (each["text"] or "")
                ):
                    return each
            assert not ended, (self.events[1:], self.errors)
            return None

        found: dict[str, Any] = wait_for(look, timeout=90)
        return found

    def end(self) -> int:
        return self.process.wait(90)


@pytest.fixture
def watch(cluster: Cluster, directory: Path) -> Iterator[Callable[..., Watching]]:
    started: list[Watching] = []

    def start(*arguments: str) -> Watching:
        command = [KMSCTL, "rotate", "--watch", "-o", "json", *cluster.options, *arguments]
        out, err = directory / f"out{len(started)}", directory / f"err{len(started)}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = forkserver.Popen[bytes](command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        started.append(Watching(process, out, err))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_a_rotation_is_followed_from_the_first_poll_to_the_retired_key(
    cluster: Cluster, watch: Callable[..., Watching], directory: Path
) -> None:
    cluster.write("secrets", "configmaps")
    old = cluster.rotate()
    watching = watch("--retire", "--report", str(directory / "scan.json"))
    introduced = watching.begun()
    assert (introduced["event"], introduced["rotated"]) == ("rotation", False)
    assert introduced["old_key"]["key_id"] == old
    assert introduced["new_key"]["key_id"] == cluster.first.status().write_key.key_id
    watching.told("nodes", "done", None)
    cluster.poll(cluster.second)
    watching.told("apiservers", "done", None, node="cp-2")
    assert not [each for each in watching.events if each.get("step") == "scan"]
    cluster.poll(cluster.first)
    watching.told("apiservers", "done", None)
    watching.told("scan", "active", "4 objects still under the old key")
    assert watching.told("rewrite", "active", None)["commands"] == [
        "kubectl get configmaps --all-namespaces -o json | kubectl replace -f -",
        "kubectl get secrets --all-namespaces -o json | kubectl replace -f -",
    ]
    cluster.write("secrets", "configmaps")
    watching.told("scan", "done", "nothing is under the old key")
    watching.told("retire", "done", "is retired")
    assert watching.end() == 0
    assert cluster.state(old) == pb.KEY_STATE_ARCHIVED
    report = read_report((directory / "scan.json").read_bytes())
    assert old not in {each.key_id for each in report.uses}


def test_killed_in_the_middle_and_started_again_it_goes_on_without_rotating_again(
    cluster: Cluster, watch: Callable[..., Watching]
) -> None:
    cluster.write("secrets")
    first = watch("--yes")
    introduced = first.begun()
    assert introduced["rotated"] is True
    first.told("apiservers", "active", None)
    first.process.kill()
    keys = cluster.labels()
    second = watch("--yes")
    again = second.begun()
    assert again["rotated"] is False
    assert [again[each]["key_id"] for each in ("old_key", "new_key")] == [
        introduced[each]["key_id"] for each in ("old_key", "new_key")
    ]
    assert cluster.labels() == keys


def test_ctrl_c_leaves_with_130_and_says_how_to_resume(cluster: Cluster, watch: Callable[..., Watching]) -> None:
    watching = watch("--yes")
    watching.told("apiservers", "active", None)
    watching.process.send_signal(signal.SIGINT)
    assert watching.end() == 130
    errors = watching.errors
    assert "left; the rotation goes on by itself" in errors
    assert f"`kmsctl rotate --watch --target {cluster.first.admin_socket} --node cp-2=" in errors
    assert f"--endpoints {cluster.etcd.url}" in errors
    assert "Traceback" not in errors


def test_what_only_kube_apiserver_can_rewrite_is_said_and_what_keeps_the_old_key_is_named(
    cluster: Cluster, watch: Callable[..., Watching]
) -> None:
    cluster.write("ranges")
    cluster.rotate()
    cluster.poll(cluster.first)
    cluster.poll(cluster.second)
    watching = watch("--show", "1")
    watching.told("scan", "active", "2 objects still under the old key")
    assert watching.told("rewrite", "active", None)["commands"] == []
    wait_for(lambda: "ranges: kube-apiserver's own records" in watching.errors)
    watching.process.send_signal(signal.SIGINT)
    assert watching.end() == 130
    (named,) = [each for each in watching.events if each["event"] == "object"]
    assert (named["key"], named["resource"]) == ("/registry/ranges/default/0", "ranges")


def test_when_time_is_up_it_says_what_it_waited_for(cluster: Cluster, watch: Callable[..., Watching]) -> None:
    watching = watch("--yes", "--timeout", "2s")
    assert watching.end() == 1
    assert "the rotation is not finished: kube-apiservers follow" in watching.errors


def test_a_scan_too_early_is_no_proof_and_kmsd_is_not_even_asked(
    cluster: Cluster, watch: Callable[..., Watching]
) -> None:
    watching = watch("--yes", "--retire")
    begun = watching.begun()
    for node in cluster.nodes:
        wait_for(lambda node=node: node.v2("Status").key_id == begun["new_key"]["key_id"])
        cluster.poll(node)
    watching.told("scan", "active", "once more when no kube-apiserver can write under it")
    old = begun["old_key"]["key_id"]
    assert cluster.state(old) == pb.KEY_STATE_READABLE
    assert watching.process.poll() is None


def test_what_kmsd_refuses_to_retire_is_told_and_tried_again_after_another_scan(
    cluster: Cluster, watch: Callable[..., Watching]
) -> None:
    sealed = cluster.first.v2("Encrypt", v2.EncryptRequest(plaintext=b"s" * 32, uid="seed"))
    old = cluster.rotate()
    for node in cluster.nodes:
        cluster.poll(node)
    cluster.write("secrets", number=MANY)
    over = threading.Event()

    def read_old() -> None:
        """Something decrypts under the old key, many times while a scan goes on."""
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="r")
        while not over.wait(0.01):
            cluster.first.v2("Decrypt", request)

    reader = threading.Thread(target=read_old)
    reader.start()
    try:
        watching = watch("--retire")
        wait_for(lambda: watching.process.poll() is not None or "not retired yet" in watching.errors, timeout=90)
        assert "not retired yet" in watching.errors, (watching.events[1:], watching.errors)
        assert cluster.state(old) == pb.KEY_STATE_READABLE
    finally:
        over.set()
        reader.join()
    watching.told("retire", "done", "is retired")
    assert watching.end() == 0


def test_a_node_that_is_stopped_is_told_and_waited_for(cluster: Cluster, watch: Callable[..., Watching]) -> None:
    cluster.rotate()
    cluster.poll(cluster.first)
    cluster.second.stop()
    process = forkserver.run(
        [KMSCTL, "rotate", "--watch", *cluster.options, "--timeout=2s"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 1
    (line,) = (line.split() for line in process.stdout.splitlines() if "cp-2" in line)
    assert " ".join(line[1:]).startswith("stuck every node writes with it cp-2 kmsd does not run: ")
    watching = watch()
    watching.told("nodes", "stuck", None)
    cluster.second.start().wait_ok()
    cluster.poll(cluster.second)
    watching.told("apiservers", "done", None)


def test_a_node_on_another_token_is_refused_before_anything_is_rotated(
    cluster: Cluster, tmp_path: Path, watch: Callable[..., Watching]
) -> None:
    from tests.tokens import make_token

    folder = tmp_path / "o"
    folder.mkdir()
    other = Kmsd(folder, make_token(tmp_path / "hsm2"), ("--auto-create",))
    before = cluster.labels()
    try:
        other.start().wait_ok()
        watching = watch("--yes", "--node", f"cp-3={other.admin_socket}")
        assert watching.end() == 6
    finally:
        other.stop()
    assert "nodes rotate together if they share a token" in watching.errors
    assert watching.events == []
    assert cluster.labels() == before


def test_without_etcd_it_ends_when_all_follow_and_names_the_commands_that_are_left(cluster: Cluster) -> None:
    old = cluster.rotate()
    for node in cluster.nodes:
        cluster.poll(node)
    done = forkserver.run(
        [KMSCTL, "rotate", "--watch", *cluster.options[:2]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines if len(line) > 2 and line[2] == "kube-apiservers"] == ["done"] * 3
    assert "      kubectl get secrets --all-namespaces -o json | kubectl replace -f -" in done.stdout.splitlines()
    assert f"kmsctl keys retire {old} --report scan.json" in done.stderr
    assert "kmsctl etcd scan --endpoints URL --report scan.json" in done.stderr


def test_a_person_is_guided_and_asked_at_the_end(cluster: Cluster, open_terminal: Callable[..., Terminal]) -> None:
    cluster.write("secrets")
    old = cluster.rotate()
    terminal = open_terminal(KMSCTL, "rotate", "--watch", *cluster.options)
    screen = terminal.shows(
        "Rotation of k8s-kek", "✔ 3 every node writes with it", "▶ 4 kube-apiservers follow", "next poll"
    )
    assert f"{socket.gethostname()} ✔   cp-2 ✔" in screen
    assert "BEFORE" not in screen  # it has a screen of its own
    assert f"old {old} sha256:" in screen
    assert "○ 7 retire the old key" in screen
    assert "q leaves" in screen
    for node in cluster.nodes:
        cluster.poll(node)
    terminal.shows("▶ 6 scan etcd", "2 objects still under the old key", "kubectl get secrets --all-namespaces -o json")
    cluster.write("secrets")
    terminal.press("s")
    screen = terminal.shows("retire the old key", "[y/N]")
    assert "BEFORE" in screen  # and gives the terminal back, with what was seen last on it
    assert "✔ 6 scan etcd" in screen
    terminal.type("y\n")
    assert terminal.exit_code() == 0
    assert "is retired, as" in terminal.screen()
    assert cluster.state(old) == pb.KEY_STATE_ARCHIVED


def test_a_person_who_says_no_is_told_the_command(
    cluster: Cluster, open_terminal: Callable[..., Terminal], directory: Path
) -> None:
    old = cluster.rotate()
    for node in cluster.nodes:
        cluster.poll(node)
    report = str(directory / "scan.json")
    terminal = open_terminal(KMSCTL, "rotate", "--watch", *cluster.options, "--report", report, columns=160)
    terminal.shows("retire the old key", "[y/N]")
    terminal.type("n\n")
    assert terminal.exit_code() == 0
    assert f"kmsctl keys retire {old} --report {report}" in terminal.screen()
    assert cluster.state(old) == pb.KEY_STATE_READABLE


def test_the_question_before_a_rotation_is_asked_on_a_terminal_and_no_means_no(
    cluster: Cluster, open_terminal: Callable[..., Terminal]
) -> None:
    before = cluster.labels()
    terminal = open_terminal(KMSCTL, "rotate", f"--target={cluster.first.admin_socket}")
    short = cluster.first.status().write_key.key_id_sha256[:8]
    terminal.shows(f"rotate k8s-kek away from {short}? [y/N]")
    terminal.type("\n")
    assert terminal.exit_code() == 1
    assert "nothing was done" in terminal.screen()
    assert cluster.labels() == before


@pytest.mark.parametrize("how", ["q", "SIGINT"])
def test_leaving_the_screen_restores_the_terminal(
    cluster: Cluster, open_terminal: Callable[..., Terminal], how: str
) -> None:
    cluster.rotate()
    terminal = open_terminal(KMSCTL, "rotate", "--watch", *cluster.options, columns=160)
    terminal.shows("next poll")
    assert terminal.flag("alternate_on") == "1"
    if how == "q":
        terminal.press("q")
    else:
        # The key would reach the shell that waits for kmsctl, too.
        shell = terminal.tmux("display-message", "-p", "#{pane_pid}").strip()
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(child), signal.SIGINT)
    assert terminal.exit_code() == 130
    screen = terminal.screen()
    assert terminal.flag("alternate_on") == "0"
    assert terminal.flag("cursor_flag") == "1"
    assert "Rotation of k8s-kek" in screen  # what was seen last
    assert "kmsctl rotate --watch --target" in screen


def test_a_small_terminal_and_one_without_beautiful_characters_do(
    cluster: Cluster, open_terminal: Callable[..., Terminal]
) -> None:
    cluster.rotate()
    terminal = open_terminal(
        KMSCTL, "rotate", "--watch", *cluster.options, columns=40, lines=12, PYTHONIOENCODING="ascii", LC_ALL="C"
    )
    screen = terminal.shows("> 4 kube-apiservers", f"{socket.gethostname()} ...")
    assert screen.isascii()
    terminal.resize(100, 30)
    terminal.shows("o 7 retire the old key", "q leaves")
    terminal.press("q")
    assert terminal.exit_code() == 130
