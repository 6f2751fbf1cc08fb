"""Making keys on a TPM, and what is known of tpm2-pkcs11 (`kmsd.hsm.vendors.quirks.TPM2`), on a TPM in software."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.errors import Denied, InvalidRequest, KmsdError, Misconfigured, Unavailable
from kmsd.hsm.vendors import tpm2
from kmsd.hsm.vendors.quirks import TPM2
from kmsd.hsm.vendors.tpm2 import NewKey
from tests import tpm
from tests.hsm import asking, probing
from tests.tokens import PIN
from tests.tpm import TpmToken

PAIR = (NewKey("aes", "k8s-kek", b"id-1"), NewKey("hmac", "k8s-kek.hmac", b"id-1"))


@pytest.fixture(params=[True, False], ids=["managed", "unmanaged"])
def token(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[TpmToken]:
    made = tpm.make_tpm(short_tmp / "hsm", managed=request.param)
    yield made
    made.stop()


@pytest.fixture
def unmanaged(short_tmp: Path) -> Iterator[TpmToken]:
    made = tpm.make_tpm(short_tmp / "hsm")
    yield made
    made.stop()


@pytest.fixture
def managed(short_tmp: Path) -> Iterator[TpmToken]:
    made = tpm.make_tpm(short_tmp / "hsm", managed=True)
    yield made
    made.stop()


def _ask(token: TpmToken, *steps: dict[str, Any]) -> list[Any]:
    return asking.ask(tpm.MODULE, token.label, PIN, token.environment, *steps)


# Making keys.


def test_a_pair_made_by_tpm2_ptool_serves(token: TpmToken) -> None:
    able = tpm2.abilities(token.environment)
    assert able == tpm2.TpmAbilities(aes_bits=256, hash_bits=512, encrypts=True)
    tpm2.add_keys(token.label, PIN, PAIR, hash_bits=able.hash_bits, environment=token.environment)
    report = probing.run(tpm.MODULE, token.label, PIN, token.environment, aes="id-1", hmac="id-1")
    assert report["verdict"]["enc"] == "A256CBC-HS512"
    (keys,) = _ask(token, {"do": "list"})
    assert {(key["label"], key["id"], key["kind"], key["sensitive"], key["extractable"]) for key in keys} == {
        ("k8s-kek", "id-1", "aes", True, False),
        ("k8s-kek.hmac", "id-1", "hmac", True, False),
    }


def test_no_secret_is_in_an_argument_list(token: TpmToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the PIN nor what tpm2_ptool makes of it for the tools: both are for everybody to read in /proc."""
    seen = tmp_path / "seen"
    path = tpm.spies(tmp_path / "bin", seen)
    monkeypatch.setenv("PATH", path)
    started: list[list[str]] = []
    popen = subprocess.Popen

    class Watched(popen):  # type: ignore[misc,valid-type]
        def __init__(self, command: list[str], **keywords: Any) -> None:
            started.append(command)
            assert PIN not in "".join(keywords.get("env", {}).values())
            super().__init__(command, **keywords)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    tpm2.add_keys(token.label, PIN, PAIR, environment={**token.environment, "PATH": path})
    words = seen.read_text().split()
    secrets = [words[at + 1] for at, word in enumerate(words[:-1]) if word in {"-p", "-P"}]
    assert len(secrets) >= 4, "the tools are called with the object's and the parent's secret"
    assert all(secret.startswith("file:/proc/self/fd/") for secret in secrets)
    assert started
    assert all(PIN not in word for command in started for word in command)


def test_a_label_and_an_id_that_look_like_options_are_taken_as_they_are(managed: TpmToken) -> None:
    tpm2.add_keys(managed.label, PIN, [NewKey("hmac", "--path=/", b"--id")], environment=managed.environment)
    (keys,) = _ask(managed, {"do": "list"})
    assert [(key["label"], key["id"]) for key in keys] == [("--path=/", "--id")]


@pytest.mark.parametrize("cka_id", [b"", b"\xff\x00", b"a b"])
def test_an_id_that_tpm2_ptool_cannot_store_is_refused(cka_id: bytes) -> None:
    with pytest.raises(InvalidRequest, match="printable ASCII"):
        tpm2.add_keys("any", PIN, [NewKey("aes", "label", cka_id)])


def _add(token: TpmToken, label: str = "", pin: str = PIN, **environment: str) -> KmsdError:
    with pytest.raises(KmsdError) as raised:
        tpm2.add_keys(label or token.label, pin, PAIR, environment={**token.environment, **environment})
    assert pin not in raised.value.sentence()
    return raised.value


def test_a_wrong_pin_is_denied_and_a_locked_tpm_named(managed: TpmToken) -> None:
    managed.forbid_guessing(1)
    refused = _add(managed, pin="not-the-pin")
    assert isinstance(refused, Denied)
    assert "refused the PIN" in refused.message
    assert managed.lockout_counter() == 1, "it was tried once and not again"
    locked = _add(managed)
    assert isinstance(locked, Denied)
    assert "locked after wrong PINs" in locked.message
    assert "tpm2_dictionarylockout" in locked.hint


def test_another_store_or_no_tpm_is_named(managed: TpmToken, tmp_path: Path) -> None:
    other = _add(managed, TPM2_PKCS11_STORE=str(tmp_path))
    assert isinstance(other, Misconfigured)
    assert "TPM2_PKCS11_STORE" in other.hint
    assert "no such token" in _add(managed, label="nobody's").message
    away = _add(managed, TPM2_PKCS11_TCTI="swtpm:host=127.0.0.1,port=1")
    assert isinstance(away, Unavailable)
    assert "cannot be reached" in away.message


def test_a_missing_tool_is_named_with_its_package(managed: TpmToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    missing = _add(managed)
    assert isinstance(missing, Misconfigured)
    assert "apt-get install libtpm2-pkcs11-tools" in missing.hint
    with pytest.raises(Misconfigured, match="tpm2_getcap is not installed"):
        tpm2.abilities({**managed.environment, "PATH": "/nowhere"})


def test_a_tool_of_another_kind_is_refused(managed: TpmToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tpm2_ptool").write_text("#!/bin/sh\n")
    (tmp_path / "tpm2_ptool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "no Python program" in _add(managed).message


def test_without_a_manager_making_keys_breaks_who_is_logged_in_until_it_begins_anew(unmanaged: TpmToken) -> None:
    """Why the module is finalised around tpm2_ptool."""
    unmanaged.add_pair("cbc0", "hmac0", "first")
    encrypt = {"do": "encrypt", "id": "first"}
    steps = [encrypt, {"do": "wait"}, encrypt, {"do": "anew"}, encrypt]
    with asking.holding(tpm.MODULE, unmanaged.label, PIN, unmanaged.environment, *steps) as held:
        tpm2.add_keys(unmanaged.label, PIN, PAIR, environment=unmanaged.environment)
    before, _, broken, _, again = held.answers
    assert before == again == {"bytes": 48}
    assert "error" in broken


# What the table says of TPMs.


def test_keys_made_elsewhere_are_seen_after_initialising_anew(managed: TpmToken) -> None:
    assert TPM2.foreign_changes == "after initialising anew"
    managed.add_key("first", "hmac:sha256", "first")

    def meanwhile() -> None:
        managed.add_key("second", "hmac:sha256", "second")
        managed.destroy("first")

    before, after, anew = _while_another(managed, meanwhile)
    assert before == after == ["first"]
    assert anew == ["second"]


def _while_another(token: TpmToken, change: Callable[[], None]) -> tuple[list[str], list[str], list[str]]:
    steps = [{"do": "list"}, {"do": "wait"}, {"do": "list"}, {"do": "anew"}, {"do": "list"}]
    with asking.holding(tpm.MODULE, token.label, PIN, token.environment, *steps) as held:
        change()
    answers = [sorted(key["label"] for key in answer) for answer in held.answers if isinstance(answer, list)]
    assert len(answers) == 3
    return answers[0], answers[1], answers[2]


def test_without_a_manager_a_third_key_is_one_too_many(unmanaged: TpmToken) -> None:
    assert TPM2.keys_per_login == 2
    for number in range(3):
        unmanaged.add_key(f"cbc{number}", "aes256", f"id{number}")
    *good, third = _ask(unmanaged, *({"do": "encrypt", "id": f"id{number}"} for number in range(3)))
    assert all(answer["bytes"] == 48 for answer in good)
    assert third == {"error": "C_EncryptInit: CKR_GENERAL_ERROR"}


def test_with_a_manager_many_keys_serve(managed: TpmToken) -> None:
    for number in range(4):
        managed.add_key(f"cbc{number}", "aes256", f"id{number}")
    answers = _ask(managed, *({"do": "encrypt", "id": f"id{number}"} for number in range(4)))
    assert [answer["bytes"] for answer in answers] == [48] * 4


def test_an_hmac_has_a_longest_message(managed: TpmToken) -> None:
    longest = TPM2.hmac_longest
    assert longest is not None
    managed.add_key("hmac0", "hmac:sha256", "id")
    good, bad = _ask(managed, *({"do": "sign", "id": "id", "size": size} for size in (longest, longest + 1)))
    assert good == {"bytes": 32}
    assert "error" in bad


def test_labels_move_and_keys_go_through_pkcs11(managed: TpmToken) -> None:
    managed.add_pair("k", "k.hmac", "id")
    answers = _ask(
        managed,
        {"do": "relabel", "label": "k", "to": "k@then"},
        {"do": "destroy", "label": "k.hmac"},
        {"do": "list"},
        {"do": "encrypt", "id": "id"},
    )
    assert [key["label"] for key in answers[2]] == ["k@then"]
    assert answers[3] == {"bytes": 48}


def test_a_tpm_that_was_killed_serves_again_after_initialising_anew(token: TpmToken) -> None:
    token.add_pair("k", "k.hmac", "id")
    encrypt = {"do": "encrypt", "id": "id"}
    steps = [encrypt, {"do": "wait"}, {"do": "random"}, encrypt, encrypt, {"do": "anew"}, encrypt]
    with asking.holding(tpm.MODULE, token.label, PIN, token.environment, *steps) as held, token.away():
        pass
    before, _, random, *lost, _, again = held.answers
    assert before == again == {"bytes": 48}
    assert all("CKR_GENERAL_ERROR" in answer["error"] for answer in lost)
    # Through a resource manager it fails, too; else it proves nothing.
    assert ("error" in random) is token.managed
    assert not TPM2.random_is_proof


def test_what_a_killed_program_has_left_keeps_others_out_until_it_is_flushed(unmanaged: TpmToken) -> None:
    unmanaged.add_pair("k", "k.hmac", "id")
    steps = [{"do": "encrypt", "id": "id"}, {"do": "sign", "id": "id"}, {"do": "wait"}]
    with (
        pytest.raises(AssertionError),
        asking.holding(tpm.MODULE, unmanaged.label, PIN, unmanaged.environment, *steps) as held,
    ):
        held.process.kill()
    with pytest.raises(AssertionError, match="CKR_GENERAL_ERROR"):
        _ask(unmanaged, {"do": "random"})
    assert tpm2.flush(unmanaged.environment)
    assert _ask(unmanaged, {"do": "random"}) == [{"bytes": 16}]


def test_where_a_manager_shares_out_the_memory_nothing_is_flushed(managed: TpmToken) -> None:
    assert not tpm2.flush(managed.environment)


@pytest.mark.parametrize(
    ("tcti", "unmanaged"),
    [
        ("device:/dev/tpm0", True),
        ("device:/dev/tpmrm0", False),
        ("tabrmd:bus_type=session", False),
        ("swtpm:host=127.0.0.1,port=2321", True),
        ("mssim", True),
        ("", False),
    ],
)
def test_the_tcti_says_whether_the_memory_is_managed(tcti: str, unmanaged: bool) -> None:
    assert tpm2.is_unmanaged({"TPM2TOOLS_TCTI": tcti}) is unmanaged


def test_the_tools_that_the_tests_wrap_are_there() -> None:
    assert shutil.which("tpm2_ptool")
    assert Path(tpm.MODULE).exists()
    assert sys.version_info >= (3, 11)
