"""What a real kmsd refuses: the right exit code, one clear line, a hint, and nothing changed."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.tokens import make_token


@dataclass(frozen=True)
class Ctl:
    kmsd: Kmsd

    def __call__(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "KMSCTL_TARGET": str(self.kmsd.admin_socket),
            "KMSCTL_SOCKET": str(self.kmsd.socket),
        }
        return forkserver.run(
            [KMSCTL, *argv], env=environment, input=stdin, capture_output=True, check=False, timeout=60
        )

    def document(self, *argv: str) -> Any:
        done = self(*argv, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def listed(self) -> list[tuple[object, ...]]:
        """What a key is, without how often it was used."""
        fields = ("label", "key_id", "type", "bits", "state")
        return [tuple(key[field] for field in fields) for key in self.document("keys", "list")["keys"]]


@pytest.fixture(scope="module")
def ctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctl]:
    folder = tmp_path_factory.mktemp("k")
    (folder / "d").mkdir()
    token = make_token(folder / "hsm")
    token.import_aes("nameless", bytes(32), None)
    token.import_aes("twin", bytes(32), b"twin-1")
    token.import_aes("twin", bytes(32), b"twin-2")
    token.import_aes("foreign", bytes(32), b"foreign")
    with Kmsd(folder / "d", token, ("--auto-create",)) as kmsd:
        kmsd.wait_ok()
        ctl = Ctl(kmsd)
        assert ctl("keygen", "spare").returncode == 0
        yield ctl


LONG = "x" * 256
BAD = [
    ("keys show nothing", 5, "there is no key 'nothing'"),
    ("keys test nothing", 5, "there is no key 'nothing'"),
    ("keys test nameless", 6, "CKA_ID"),
    ("keys show sha256:12", 2, "no hash of a key id"),
    ("keys show twin", 2, "2 keys are called 'twin'"),
    ("keys relabel nothing another", 5, "there is no key 'nothing'"),
    ("keys relabel spare k8s-kek", 6, "has a key labelled 'k8s-kek' already"),
    (("keys", "relabel", "spare", "a\tb"), 2, "a label must have 1 to 255 bytes and no control characters"),
    (("keys", "relabel", "spare", ""), 2, "a label must have 1 to 255 bytes"),
    (("keys", "relabel", "spare", LONG), 2, "a label must have 1 to 255 bytes"),
    (("keys", "relabel", "spare", "ключ" * 33), 2, "a label must have 1 to 255 bytes"),  # 264 bytes, 132 characters
    ("keys relabel k8s-kek another", 6, "is the write key"),
    ("keys relabel k8s-kek another --confirm spare", 2, "spare"),
    ("keygen k8s-kek", 6, "'k8s-kek'"),
    (("keygen", "a\x1b[2Jb"), 2, "no control characters"),
    (("keygen", LONG), 2, "a label must have 1 to 255 bytes"),
    ("keygen other --token nowhere", 5, "nowhere"),
    ("keys destroy nothing --yes", 5, "there is no key 'nothing'"),
    ("keys destroy k8s-kek --yes", 6, "is the write key"),
    ("keys destroy k8s-kek --confirm k8s", 2, "is not the label of this key"),
    ("keys retire k8s-kek", 6, "write key"),
    ("keys retire foreign", 6, "nothing shows that no stored object needs 'foreign'"),
    ("keys destroy foreign --yes", 6, "nothing shows that no stored object needs 'foreign'"),
    ("keys destroy spare --yes --report /nonexistent", 2, "cannot read /nonexistent"),
    ("keys destroy spare --yes --report /etc/hostname", 2, "the report of the scan cannot be used"),
    ("keys retire spare --report /nonexistent", 2, "cannot read /nonexistent"),
    ("keys retire spare --report /etc/hostname", 2, "the report of the scan cannot be used"),
    ("keys adopt nothing", 5, "nothing"),
    ("keys adopt k8s-kek", 6, "k8s-kek"),
    ("keys revert --yes", 5, "had the label 'k8s-kek' before"),
    ("keys revert --yes --from another", 5, "before"),
    ("mechanisms nowhere", 5, "nowhere"),
    ("unlock nowhere", 5, "nowhere"),
    ("health --live --wait", 2, "--live and --wait exclude each other"),
    ("log-level loud", 2, "loud"),
    ("requests -n 1001", 2, "less than or equal to 1000"),
    ("audit tail -n 10001", 2, "less than or equal to 10000"),
    ("audit verify --head 1:x", 2, "--head needs FILEs to be checked against"),
    ("audit verify /etc/hostname --head 1:x", 2, "SEQ:HASH"),
    ("audit verify /etc/hostname --head 17", 2, "[kms:]SEQ:HASH"),
    ("audit verify --begins-at 7", 2, "--begins-at needs FILEs to be checked against"),
    ("audit verify /etc/hostname --begins-at 0", 2, "[kms:]SEQ"),
    ("audit verify /nonexistent", 2, "cannot read /nonexistent"),
    ("stats --since 16m", 2, "--since must be 1s to 15m, got 960s"),
    ("stats --since 10ms", 2, "--since must be 1s to 15m, got 0.01s"),
    ("stats --interval 1s", 2, "--watch"),
    ("stats --watch --interval 61s", 2, "--interval must be 200ms to 60s, got 61s"),
    ("stats --watch -o yaml", 2, "yaml"),
    ("keys test k8s-kek --rounds 1001", 2, "less than or equal to 1000"),
    ("inspect /nonexistent", 2, "cannot read /nonexistent"),
]


@pytest.mark.parametrize(("line", "code", "told"), BAD, ids=lambda each: str(each)[:60])
def test_bad_input_is_refused_and_changes_nothing(ctl: Ctl, line: str | tuple[str, ...], code: int, told: str) -> None:
    before = ctl.listed()
    done = ctl(*(line.split() if isinstance(line, str) else line))
    error, *rest = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert error.startswith("kmsctl: error: ")
    assert told in error
    assert rest, "no hint"
    assert rest[0].startswith("hint: ")
    assert len(rest) == 1 or rest[1:] == ["retry: the same command may succeed later"]
    assert all(text.isprintable() for text in (error, *rest))
    assert ctl.listed() == before


def test_a_key_that_was_confirmed_is_relabelled_retired_and_destroyed(ctl: Ctl) -> None:
    assert ctl("keygen", "doomed").returncode == 0
    key_id = ctl.document("keys", "show", "doomed")["key"]["key_id"]
    renamed = ctl.document("keys", "relabel", key_id, "renamed")
    assert (renamed["previous_label"], renamed["key"]["label"]) == ("doomed", "renamed")
    retired = ctl.document("keys", "retire", "renamed", "--confirm", "renamed")
    assert retired["key"]["state"] == "archived"
    assert ctl.document("status")["keys_by_state"]["archived"] == 1
    told = ctl.document("keys", "destroy", key_id, "--confirm", retired["key"]["label"], "--dry-run")
    assert (told["destroyed"], told["dry_run"]) == (False, True)
    assert key_id in {key[1] for key in ctl.listed()}
    done = ctl.document("keys", "destroy", key_id, "--confirm", retired["key"]["label"])
    assert (done["destroyed"], done["dry_run"]) == (True, False)
    assert key_id not in {key[1] for key in ctl.listed()}


def test_a_key_in_use_is_not_destroyed_without_its_label(ctl: Ctl) -> None:
    sealed = ctl("encrypt", stdin=b"kept").stdout
    assert ctl("keys", "destroy", "k8s-kek", "--yes").returncode == 6
    assert ctl("decrypt", stdin=sealed).stdout == b"kept"
    shown = ctl.document("keys", "show", "k8s-kek")["key"]
    assert shown["encrypts"] >= 1
    assert shown["decrypts"] >= 1
    assert shown["last_used_at"] is not None


def test_a_pair_is_made_shown_and_destroyed_as_one(ctl: Ctl) -> None:
    made = ctl.document("keygen", "pair", "--type", "pair")
    assert made["key"]["key_id"] == made["companion"]["key_id"]
    shown = ctl.document("keys", "show", "pair")
    assert shown["companion"]["state"] == "companion"
    gone = ctl.document("keys", "destroy", "pair", "--confirm", "pair")
    assert gone["companion"]["label"] == "pair.hmac"
    assert not {"pair", "pair.hmac"} & {key[0] for key in ctl.listed()}


def test_what_was_written_is_explained_from_every_form_of_it(ctl: Ctl) -> None:
    sealed = ctl("encrypt", stdin=b"seed").stdout
    as_json = ctl("encrypt", "-o", "json", stdin=b"seed").stdout
    for data in (sealed, sealed + b"\n", base64.encodebytes(sealed), as_json):
        done = ctl("inspect", "-o", "json", stdin=data)
        found = json.loads(done.stdout)
        assert (found["format"], found["readable"], found["jwe"]["enc"]) == ("native", True, "A256GCM")
    assert json.loads(ctl("inspect", "-o", "json", stdin=b"nonsense").stdout)["readable"] is False


def test_what_is_done_is_in_the_audit_and_among_the_requests(ctl: Ctl) -> None:
    assert ctl("keygen", "told").returncode == 0
    records = ctl.document("audit", "tail", "-n", "10000")["records"]
    (made,) = (each for each in records if each["action"] == "GenerateKey" and "told" in (each["detail"] or ""))
    assert re.match(r"kmsctl uid=\d+ user=\S+", made["caller"])
    calls = ctl.document("requests", "--admin", "-n", "100")["requests"]
    assert any(each["method"] == "GenerateKey" and each["code"] == "OK" for each in calls)
    verdict = ctl.document("audit", "verify")
    assert verdict["intact"] is True
    offline = ctl.document("audit", "verify", *verdict["files"], "--head", f"{verdict['last_seq']}:{verdict['head']}")
    assert offline["intact"] is True
    assert offline["records"] >= verdict["records"]


def test_statistics_follow_what_is_done(ctl: Ctl) -> None:
    def encrypts() -> int:
        calls = ctl.document("stats")["calls"]
        return sum(each["count"] for each in calls if (each["api"], each["method"]) == ("v2", "Encrypt"))

    before = encrypts()
    assert ctl("encrypt", stdin=b"x").returncode == 0
    wait_for(lambda: encrypts() == before + 1)
    (used,) = (each for each in ctl.document("stats")["keys"] if each["encrypts"])
    assert used["key_id"] == ctl.document("keys", "show", "k8s-kek")["key"]["key_id"]


def test_the_log_level_takes_effect(ctl: Ctl) -> None:
    assert ctl("log-level").stdout == b"debug\n"
    assert ctl("log-level", "error").stdout == b"error\n"
    assert ctl("log-level").stdout == b"error\n"
    assert ctl("log-level", "configured").stdout == b"debug\n"


def test_a_reverted_rotation_has_a_new_key_and_says_what_is_not_undone(
    start_kmsd: Callable[..., Kmsd],
) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    ctl = Ctl(kmsd)
    first = ctl.document("keys", "show", "k8s-kek")["key"]["key_id"]
    kmsd.admin("RotateKey")
    bad = ctl.document("keys", "show", "k8s-kek")["key"]["key_id"]
    sealed = ctl("encrypt", stdin=b"written with the bad key").stdout
    told = ctl.document("keys", "revert", "--dry-run")
    assert (told["reverted"], told["new_key"]) == (False, None)
    assert ctl.document("keys", "show", "k8s-kek")["key"]["key_id"] == bad
    done = ctl.document("keys", "revert", "--yes", "--from", bad)
    assert (done["reverted"], done["old_key"]["key_id"], done["previous_key"]["key_id"]) == (True, bad, first)
    assert done["not_undone"]
    new = ctl.document("keys", "show", "k8s-kek")["key"]["key_id"]
    assert new == done["new_key"]["key_id"]
    assert new not in (first, bad)
    again = ctl.document("keys", "revert", "--yes", "--from", bad)
    assert again["reverted"] is False
    assert ctl.document("keys", "show", "k8s-kek")["key"]["key_id"] == new
    assert ctl("decrypt", stdin=sealed).stdout == b"written with the bad key"
