"""kmsctl against a real kmsd on a real token: a node's bootstrap script, run again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.tokens import SoftToken

SCRIPT = Path(__file__).with_name("bootstrap.sh")


@dataclass(frozen=True)
class Node:
    folder: Path
    token: SoftToken

    @property
    def admin(self) -> Path:
        return self.folder / "admin" / "admin.sock"

    @property
    def kms(self) -> Path:
        return self.folder / "kms" / "kms.sock"

    @property
    def environment(self) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return {
            **self.token.environment,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "KMSCTL_TARGET": str(self.admin),
            "KMSCTL_SOCKET": str(self.kms),
            "STATE": str(self.folder),
        }

    def bootstrap(self) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [
                SCRIPT,
                *("--provider", "softhsm", "--p11-label", self.token.label),
                *("--p11-pin-file", str(self.token.pin_file)),
                *("--socket", str(self.kms), "--admin-socket", str(self.admin)),
            ],
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=100,
        )

    def kmsctl(self, *argv: str, stdin: bytes = b"") -> bytes:
        done = forkserver.run(
            [KMSCTL, *argv], env=self.environment, input=stdin, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return bytes(done.stdout)

    def end_state(self) -> object:
        """Keys, write key and settings: what a run leaves behind, without how often a key was used meanwhile."""
        used = {"encrypts", "decrypts", "last_used_at"}
        keys = json.loads(self.kmsctl("keys", "list", "-o", "json"))["keys"]
        return (
            [{name: value for name, value in key.items() if name not in used} for key in keys],
            json.loads(self.kmsctl("status", "-o", "json"))["write_key"]["key_id"],
            json.loads(self.kmsctl("config", "view", "-o", "json")),
        )

    def stop(self) -> None:
        os.kill(int((self.folder / "pid").read_text()), signal.SIGTERM)
        wait_for(lambda: not self.admin.exists())


@pytest.fixture
def node(short_tmp: Path, token: SoftToken) -> Iterator[Node]:
    node = Node(short_tmp, token)
    yield node
    if node.admin.exists():
        node.stop()


SAID = b"k8s-kek\nok\nk8s-kek\nrecovery\nintact\n"


def test_bootstrap_run_again_ends_in_the_same_state(node: Node) -> None:
    first = node.bootstrap()
    assert (first.returncode, first.stdout) == (0, SAID), first.stderr
    state = node.end_state()
    keys = json.loads(node.kmsctl("keys", "list", "-o", "json"))["keys"]
    assert {key["label"]: key["state"] for key in keys} == {"k8s-kek": "write", "recovery": "readable"}
    sealed = node.kmsctl("encrypt", stdin=b"kept across restarts")

    second = node.bootstrap()
    assert (second.returncode, second.stdout) == (0, SAID), second.stderr
    assert node.end_state() == state

    node.stop()
    third = node.bootstrap()
    assert (third.returncode, third.stdout) == (0, SAID), third.stderr
    assert node.end_state() == state
    assert node.kmsctl("decrypt", stdin=sealed) == b"kept across restarts"


def test_bootstrap_that_was_stopped_between_two_steps_is_finished_by_the_next_run(node: Node) -> None:
    assert node.bootstrap().returncode == 0
    state = node.end_state()
    node.kmsctl("keys", "relabel", "recovery", "recovery.new")
    again = node.bootstrap()
    assert (again.returncode, again.stdout) == (0, SAID), again.stderr
    assert node.end_state() == state


def test_a_fresh_kmsd_says_what_is_missing_and_is_healthy_once_it_is_there(
    start_kmsd: Callable[..., Kmsd],
) -> None:
    kmsd = start_kmsd()

    def kmsctl(*argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "KMSCTL_TARGET": str(kmsd.admin_socket),
            "KMSCTL_SOCKET": str(kmsd.socket),
        }
        return forkserver.run(
            [KMSCTL, *argv], env=environment, input=stdin, capture_output=True, check=False, timeout=60
        )

    def document(*argv: str) -> Any:
        return json.loads(kmsctl(*argv, "-o", "json").stdout)

    health = kmsctl("health")
    assert health.returncode == 7
    assert b"hint: make one: kmsctl keygen k8s-kek" in health.stderr
    assert document("status")["state"] == "down"
    assert document("keys", "list") == {"keys": []}

    made = document("keygen", "k8s-kek", "--id", "the-first")
    assert made["created"] is True
    assert (made["key"]["key_id"], made["key"]["state"], made["key"]["bits"]) == ("the-first", "write", 256)
    assert kmsctl("health", "--wait", "--timeout", "30s").stdout == b"ok\n"

    taken = kmsctl("keygen", "k8s-kek")
    assert taken.returncode == 6
    again = document("keygen", "k8s-kek", "--if-not-exists")
    assert (again["created"], again["key"]["key_id"]) == (False, "the-first")

    sealed = kmsctl("encrypt", "-o", "json", stdin=b"seed")
    assert json.loads(sealed.stdout)["key_id"] == "the-first"
    assert kmsctl("decrypt", stdin=sealed.stdout).stdout == b"seed"
    assert kmsctl("decrypt", "--key-id", "another", stdin=sealed.stdout).returncode == 2

    status = document("status")
    assert (status["state"], status["write_key"]["key_id"]) == ("serving", "the-first")
    (used,) = [slot for slot in document("slots")["slots"] if slot["in_use"]]
    assert used["token"]["label"] == status["token"]["label"]
