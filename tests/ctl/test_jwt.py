"""kmsctl with a kmsd that signs service account tokens: the whole way of a rotation, and what interrupts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests import forkserver
from tests.ctl.conftest import Result, Run
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import ISSUER, Apiserver, apiserver, settings
from tests.tokens import make_token


class Call(Protocol):
    def __call__(self, *words: str, code: int = 0, stdin: bytes = b"") -> Result: ...


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    folder = tmp_path_factory.mktemp("jwt")
    environment = settings(folder, issuers=ISSUER, max_token_expiration="7200", refresh_hint="4")
    with Kmsd(folder, make_token(folder), environment=environment).start() as kmsd:
        yield kmsd


@pytest.fixture
def kmsd(shared: Kmsd, run: Run, monkeypatch: pytest.MonkeyPatch) -> Kmsd:
    """With a key that signs, made by kmsctl."""
    monkeypatch.setenv("KMSCTL_TARGET", str(shared.admin_socket))
    done = run("keygen", "sa-signer", "--type", "ec-p256", "--purpose", "jwt", "--if-not-exists", "-o", "json")
    assert json.loads(done.out)["key"]["purpose"] == "jwt"
    wait_for(lambda: shared.admin("GetJwt").state == "ready")
    return shared


@pytest.fixture
def caller(kmsd: Kmsd) -> Apiserver:
    return apiserver(kmsd)


@pytest.fixture
def kmsctl(run: Run) -> Call:
    def call(*words: str, code: int = 0, stdin: bytes = b"") -> Result:
        done = run(*words, stdin=stdin)
        assert done.code == code, (words, done)
        return done

    return call


def keys_of(kmsd: Kmsd) -> dict[str, str]:
    """The states of keys by kid."""
    return {each.kid: each.state for each in kmsd.admin("GetJwt").keys}


class Watch:
    """A `kmsctl jwt rotate --watch`. events: what it has told."""

    def __init__(self, *words: str) -> None:
        line = [sys.executable, "-m", "kmsctl", "jwt", "rotate", "--watch", "-o", "json", *words]
        self.process = forkserver.Popen[bytes](line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def shows(self, step: str) -> None:
        wait_for(lambda: any(each["step"] == step for each in self.events))

    def end(self, number: signal.Signals) -> str:
        """Send it a signal; return what stands on stderr."""
        self.process.send_signal(number)
        self._reader.join(20)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with self.process.stdout, self.process.stderr:
            told = self.process.stderr.read().decode()
        self.process.wait(20)
        return told


def test_a_rotation_is_killed_and_resumed(kmsctl: Call, kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    ((old, _),) = keys_of(kmsd).items()
    first = Watch("--yes")
    first.shows("publish")
    first.shows("fetch")
    first.end(signal.SIGKILL)
    assert sorted(keys_of(kmsd).values()) == ["pending", "signing"]
    second = Watch()
    second.shows("fetch")
    assert any("has not fetched it" in text for each in second.events for text in each["waits_for"])
    caller.fetch()
    second.shows("sign")
    second.shows("wait")
    (new,) = (kid for kid, state in keys_of(kmsd).items() if state == "signing")
    assert keys_of(kmsd) == {new: "signing", old: "verifying"}
    told = second.end(signal.SIGINT)
    assert second.process.returncode == 130
    assert "`kmsctl jwt rotate --watch" in told
    third = kmsctl("jwt", "rotate", "--watch", "--timeout", "1s", code=1)
    assert "the rotation is not finished: wait" in third.err
    assert set(keys_of(kmsd)) == {old, new}, "what is resumed is not begun again"
    assert caller.verify(caller.token())


def test_revert_has_the_key_before_sign_again(kmsctl: Call, kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    before = keys_of(kmsd)
    (bad,) = (kid for kid, state in before.items() if state == "signing")
    token = caller.token()
    done = json.loads(kmsctl("jwt", "revert", "--yes", "-o", "json").out)
    assert done["withdrawn"]["kid"] == bad
    assert keys_of(kmsd)[done["signs"]["kid"]] == "signing"
    assert keys_of(kmsd)[bad] == "verifying"
    known = dict(caller.known)
    assert caller.verify(token)
    assert caller.verify(caller.token())
    assert caller.known.keys() == known.keys(), "nothing was fetched for it"
    kmsctl("jwt", "rotate", "--again", "--yes")
    kmsctl("jwt", "revert", "--yes")
    assert list(keys_of(kmsd).values()).count("signing") == 1
    assert "pending" not in keys_of(kmsd).values()


def test_a_way_back_that_died_is_gone_on_with_and_retires_nothing(kmsctl: Call, kmsd: Kmsd) -> None:
    states = keys_of(kmsd)
    (signs,) = (kid for kid, state in states.items() if state == "signing")
    (other,) = (each for each in kmsd.admin("GetJwt").keys if each.state == "verifying")
    kmsctl("jwt", "revert", "--yes")  # so that the newer key signs, and the older one may come back
    older, newer = sorted(kmsd.admin("GetJwt").keys, key=lambda each: str(each.key_id))[:2]
    assert {older.kid, newer.kid} == {signs, other.kid}
    assert newer.state == "signing"
    kmsd.soft.relabel(older.label, "sa-signer.pending")
    wait_for(lambda: keys_of(kmsd)[older.kid] == "pending")
    refused = kmsctl("jwt", "retire", "sa-signer.pending", code=6)
    assert "tokens that it signed may be in force" in refused.err
    kmsctl("jwt", "revert", "--yes")
    assert keys_of(kmsd)[older.kid] == "signing"
    assert keys_of(kmsd)[newer.kid] == "verifying"


def test_a_key_file_is_taken_in_and_its_public_key_trusted(kmsctl: Call, kmsd: Kmsd, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    done = kmsctl("jwt", "import", "--pem", "-", "--pending", "-o", "json", stdin=private)
    (taken,) = json.loads(done.out)["keys"]
    assert (taken["alg"], taken["from_outside"]) == ("RS256", True)
    (tmp_path / "sa.pub").write_bytes(public)
    kid = kmsctl("jwt", "trust", "--pem", str(tmp_path / "sa.pub"), "-o", "name").text.strip()
    assert kid == taken["kid"]
    kmsctl("jwt", "retire", "sa-signer.pending")
    jwks = json.loads(kmsctl("jwt", "export").out)
    assert kid in {each["kid"] for each in jwks["keys"]}
    assert public in kmsctl("jwt", "export", "--pem").out
    kmsctl("jwt", "untrust", "--", kid, code=6)
    kmsctl("jwt", "untrust", "--confirm", kid, "--", kid)
    assert kid not in {each["kid"] for each in json.loads(kmsctl("jwt", "export").out)["keys"]}
    long = kmsctl("jwt", "import", "--pem", "-", code=2, stdin=b"x" * 70_000)
    assert "stdin holds more than 65536 bytes" in long.err
    for secret in private.decode().splitlines()[8:-2]:  # behind the modulus, which is public
        assert secret not in kmsd.log_text() + done.text + done.err


def test_two_nodes_are_waited_for(kmsctl: Call, kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    done = kmsctl("jwt", "rotate", "--again", "--dry-run", "--node", f"cp-2={kmsd.admin_socket}", "-o", "json")
    assert json.loads(done.out)["step"] == "publish"
    kmsd.admin("PublishJwtKey", admin.PublishJwtKeyRequest())
    done = kmsctl("jwt", "rotate", "--node", f"cp-2={kmsd.admin_socket}", "-o", "json")
    found = json.loads(done.out)
    assert found["step"] == "fetch"
    assert any(text.startswith("cp-2: ") for text in found["waits_for"])
