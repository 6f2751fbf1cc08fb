"""What a probe says of each kind of token, and that it leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import opencryptoki, p11kit, tpm
from tests.chaos import ChaosToken, make_chaos
from tests.hsm import probing
from tests.tokens import MODULE, PIN, SoftToken

_KEY = bytes(range(32))


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    return make_chaos(short_tmp / "chaos")


@pytest.fixture
def p11(short_tmp: Path) -> Iterator[p11kit.P11KitToken]:
    token = p11kit.make_p11kit(short_tmp / "hsm")
    yield token
    token.stop()


@pytest.fixture
def ock(short_tmp: Path) -> Iterator[opencryptoki.OpenCryptokiToken]:
    token = opencryptoki.make_opencryptoki(short_tmp / "hsm")
    yield token
    token.stop()


@pytest.fixture(params=[True, False], ids=["managed", "unmanaged"])
def tpm_token(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[tpm.TpmToken]:
    token = tpm.make_tpm(short_tmp / "hsm", managed=request.param)
    yield token
    token.stop()


def _probe_chaos(chaos: ChaosToken, **more: Any) -> dict[str, Any]:
    return probing.run(chaos.module, chaos.label, PIN, chaos.environment, provider="generic", **more)


def _missing(able: dict[str, Any], *names: str) -> list[str]:
    return [name for name in names if not able[name]]


def test_softhsm_is_served_with_gcm(token: SoftToken) -> None:
    token.import_aes("others", _KEY, b"others")
    report = probing.run(MODULE, token.label, PIN, token.environment, elsewhere=True, slow=True)
    able = report["abilities"]
    assert able["gcm_iv_sizes"] == [12, 16]
    assert _missing(able, "cbc", "cbc_pad", "hmac_sha512", "hmac_empty", "relabel") == []
    assert able["foreign_changes"] == "at once"
    assert not able["oaep_sha256"]
    assert (report["verdict"]["algorithm"], report["verdict"]["enc"]) == ("aes-gcm", "A256GCM")
    assert (report["provider"], report["worst"]) == ("softhsm", "ok")
    assert report["left"] == 1, "the other's key, and nothing of the probe's"
    assert [timing["operation"] for timing in report["timings"]] == ["random", "AES-GCM"]
    assert all(timing["per_second"] > 0 for timing in report["timings"])


def test_opencryptoki_is_served_with_a_cbc_pair(ock: opencryptoki.OpenCryptokiToken) -> None:
    ock.import_aes("others", _KEY, b"others")
    report = probing.run(
        opencryptoki.MODULE, ock.label, opencryptoki.PIN, ock.environment, ock.enter, elsewhere=True, slow=True
    )
    able = report["abilities"]
    assert able["gcm_iv_sizes"] == []
    assert _missing(able, "cbc", "hmac_sha512", "oaep_sha256", "generate_hmac", "relabel") == []
    assert report["verdict"]["enc"] == "A256CBC-HS512"
    assert (report["provider"], report["worst"], report["left"]) == ("opencryptoki", "ok", 1)


def test_a_tpm_is_served_with_the_operators_own_pair(tpm_token: tpm.TpmToken) -> None:
    tpm_token.add_pair("cbc0", "hmac0", "pair")
    where = (tpm.MODULE, tpm_token.label, PIN, tpm_token.environment)
    report = probing.run(*where, aes="pair", hmac="pair", elsewhere=True, slow=True)
    able = report["abilities"]
    assert _missing(able, "cbc", "hmac_sha256", "hmac_empty") == []
    assert not able["cbc_pad"]
    assert able["hmac_longest"] == 4096
    assert able["foreign_changes"] == "after initialising anew"
    assert (report["provider"], report["verdict"]["enc"], report["left"]) == ("tpm2", "A256CBC-HS256", 2)
    assert "kmsd pads by itself" in report["by_name"]["cbc_pad"]["seen"]
    assert "tpm2_ptool" in report["by_name"]["generate_aes"]["seen"]


def test_a_tpm_whose_hmac_key_is_for_sha512_is_served_with_the_standard_pair(tpm_token: tpm.TpmToken) -> None:
    tpm_token.add_key("cbc0", "aes256", "pair")
    tpm_token.add_key("hmac0", "hmac:sha512", "pair")
    where = (tpm.MODULE, tpm_token.label, PIN, tpm_token.environment)
    report = probing.run(*where, aes="pair", hmac="pair")
    assert report["verdict"]["enc"] == "A256CBC-HS512"
    assert report["by_name"]["hmac_sha256"]["outcome"] == "not applicable"


def test_what_is_chosen_at_each_login_is_what_the_probe_finds(chaos: ChaosToken) -> None:
    for told, gcm, iv in (
        ("", True, "caller's"),
        ("gcm-iv appended", True, "appended"),
        ("gcm-iv demanded", True, "appended"),
        ("gcm-iv zero", True, "written"),
        ("gcm-iv zero early", True, "written"),
        ("gcm-iv written", True, "written"),
        ("gcm-iv zero untold", False, "caller's"),
        ("gcm refused", False, "caller's"),
    ):
        chaos.tell(told)
        report = _probe_chaos(chaos, quick=True)
        quick = report["quick"]
        assert (quick["gcm"], quick["iv"], quick["others"]) == (gcm, iv, True), told
        assert (report["verdict"]["algorithm"] == "aes-gcm") is gcm, told
        assert bool(quick["refused"]) is not gcm, told
        assert report["left"] == 0, told


def test_a_token_that_makes_no_key_to_try_with_or_has_few_sessions_is_taken_at_its_word(chaos: ChaosToken) -> None:
    for told in ("C_GenerateKey rv=0x54", "C_OpenSession rv=0xb1 after=2"):
        chaos.tell("gcm refused", told)
        assert _probe_chaos(chaos, quick=True)["quick"]["gcm"], told


def test_one_bad_moment_does_not_cost_a_token_its_gcm(chaos: ChaosToken) -> None:
    chaos.tell("C_Encrypt rv=0x5 count=1")
    quick = _probe_chaos(chaos, quick=True)["quick"]
    assert (quick["gcm"], quick["refused"]) == (True, "")


def test_a_tpm_without_keys_is_told_how_to_make_them(tpm_token: tpm.TpmToken) -> None:
    report = probing.run(tpm.MODULE, tpm_token.label, PIN, tpm_token.environment)
    assert report["verdict"]["algorithm"] == "none"
    assert "kmsctl keygen" in report["by_name"]["aes_key"]["fix"]


def test_p11_kit_is_served_with_what_it_lets_through(p11: p11kit.P11KitToken) -> None:
    """Version 0.24 lets neither GCM nor CBC through, 0.25 both."""
    report = probing.run(p11kit.MODULE, p11.label, PIN, p11.environment, elsewhere=True, slow=True)
    able, verdict = report["abilities"], report["verdict"]
    assert _missing(able, "generate_aes", "relabel", "hmac_sha512") == []
    if able["gcm_iv_sizes"]:
        assert verdict["enc"] == "A256GCM"
    else:
        assert not able["cbc"]
        assert able["ecb"]
        assert (verdict["enc"], verdict["cbc_from_ecb"]) == ("A256CBC-HS512", True)
    assert (report["provider"], report["worst"], report["left"]) == ("p11-kit", "ok", 0)


def test_the_ivs_of_an_hsm_that_chooses_them_are_found(chaos: ChaosToken) -> None:
    for line in ("gcm-iv appended", "gcm-iv demanded", "gcm-iv zero", "gcm-iv written"):
        chaos.tell(line)
        report = _probe_chaos(chaos)
        assert report["abilities"]["gcm_iv_by_token"], line
        assert report["abilities"]["gcm_iv_sizes"] == []
        assert report["verdict"]["algorithm"] == "aes-gcm"
        assert "chooses" in report["verdict"]["why"]


def test_a_mechanism_that_is_listed_and_gives_wrong_bytes_is_not_used(chaos: ChaosToken) -> None:
    with chaos.told("C_Decrypt flip"):
        report = _probe_chaos(chaos)
    assert report["abilities"]["gcm_iv_sizes"] == []
    assert not report["abilities"]["cbc"]
    assert report["verdict"]["algorithm"] == "none"
    assert report["by_name"]["verdict"]["outcome"] == "failed"
    assert report["by_name"]["verdict"]["fix"]


def test_what_fails_is_named_and_the_rest_is_still_looked_at(chaos: ChaosToken) -> None:
    with chaos.told("C_GenerateRandom rv=0x30", "C_SetAttributeValue rv=0xe2"):
        report = _probe_chaos(chaos)
    assert report["by_name"]["random"]["outcome"] == "failed"
    assert "CKR_DEVICE_ERROR" in report["by_name"]["random"]["seen"]
    assert "CKR_TOKEN_WRITE_PROTECTED" in report["by_name"]["relabel"]["seen"]
    assert report["verdict"]["enc"] == "A256GCM"
    assert report["worst"] == "failed"
    assert report["left"] == 0


def test_a_key_of_the_probe_is_removed_when_its_making_answers_with_an_error(chaos: ChaosToken) -> None:
    """As SoftHSM does under load: the object is there, the answer says that it is not."""
    with chaos.told("C_GenerateKey rv=0x5 done after=2"):
        report = _probe_chaos(chaos)
    assert report["by_name"]["relabel"]["outcome"] == "failed"
    assert report["left"] == 0


def test_few_sessions_are_a_warning(chaos: ChaosToken) -> None:
    # Up to there: one of ours, and those of the checks before.
    with chaos.told("C_OpenSession rv=0xb1 after=40"):
        report = _probe_chaos(chaos)
    failed = [check for check in report["checks"] if "CKR_SESSION_COUNT" in check["seen"]]
    assert failed
    assert report["worst"] in {"warning", "failed"}


def test_no_pin_is_tried_and_nothing_is_written_but_what_is_removed_again(chaos: ChaosToken) -> None:
    report = _probe_chaos(chaos)
    assert report["verdict"]["algorithm"] == "aes-gcm"
    calls = chaos.calls()
    assert calls["C_Login"] == 1, "the test's own"
    assert calls["C_SetPIN"] == calls["C_InitPIN"] == calls["C_InitToken"] == calls["C_Logout"] == 0
    assert calls["C_DestroyObject"] == 1, "a key for relabelling"
    assert calls["C_SetAttributeValue"] == 1


def test_without_a_login_it_says_so(chaos: ChaosToken) -> None:
    report = _probe_chaos(chaos, login=False)
    assert report["by_name"]["login"] == {
        "name": "login",
        "title": "Login",
        "outcome": "failed",
        "seen": "not logged in",
        "fix": "correct the PIN that kmsd reads, then reload kmsd",
    }
    assert chaos.calls()["C_Login"] == 0


def test_warnings_about_the_pin_are_passed_on(token: SoftToken) -> None:
    wrong = ("pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--pin", "wrong", "-O")
    assert subprocess.run(wrong, env=token.environment, capture_output=True, check=False).returncode != 0
    report = probing.run(MODULE, token.label, PIN, token.environment)
    assert report["by_name"]["pin"]["outcome"] == "warning"
    assert "a wrong user PIN was given" in report["by_name"]["pin"]["seen"]
    assert report["worst"] == "warning"
