"""kmsd under the name k8s-kms-plugin, as it is installed: that program's defaults, and which source wins."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.daemons import KMSD
from tests.tokens import clean_environment

pytestmark = pytest.mark.processes

ALIAS = str(Path(KMSD).with_name("k8s-kms-plugin"))
MODULE = "--p11-lib=/dev/null"


def run(*argv: str, program: str = ALIAS, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *argv],
        env={**clean_environment(), "KMSD_CONFIG": "/dev/null", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Setting -> (value, where from), for those that are not kmsd's defaults."""
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^([a-z]+\.[a-z0-9_]+) = (.*?) +# (.*)$", done.stdout, re.MULTILINE)
    return {key: (value, where) for key, value, where in rows if where != "default"}


def test_its_defaults_are_the_k8s_kms_plugins_and_those_of_kmsd_stay_its_own() -> None:
    theirs = "default of k8s-kms-plugin"
    done = run("check-config", MODULE, TMPDIR="/tmp")
    assert done.stderr == ""
    assert shown(done) == {
        "token.module": ('"/dev/null"', "--p11-lib"),
        "kms.socket": ('"/tmp/run/hsm-plugin-server.sock"', theirs),
        "keys.label": ('"k8s-dek"', theirs),
        "keys.hmac_label": ('"k8s-hmac"', theirs),
    }
    assert shown(run("check-config", MODULE, TMPDIR="/other"))["kms.socket"][0] == '"/other/run/hsm-plugin-server.sock"'
    assert shown(run("check-config", MODULE, program=KMSD)).keys() == {"token.module"}


def test_a_link_to_it_is_known_by_its_name(tmp_path: Path) -> None:
    link = tmp_path / "k8s-kms-plugin"
    link.symlink_to(KMSD)
    assert shown(run("check-config", MODULE, program=str(link)))["keys.label"][0] == '"k8s-dek"'


def test_its_variables_win_over_flags_and_the_label_of_a_token_over_its_slot() -> None:
    flags = ("--p11-label=flag", "--p11-slot=3", "--p11-pin=x", "--socket=/flag.sock", "--p11-key-label=aes0")
    environment = {"P11_TOKEN": "variable", "P11_SLOT": "4", "P11_PIN_FILE": "/dev/null", "SOCKET": "/variable.sock"}
    done = run("check-config", MODULE, *flags, **environment)
    found = {key: value for key, (value, _) in shown(done).items()}
    assert found.keys() & {"token.slot", "token.pin"} == set()
    assert (found["token.label"], found["token.pin_file"]) == ('"variable"', '"/dev/null"')
    assert (found["kms.socket"], found["keys.label"]) == ('"/variable.sock"', '"aes0"')
    assert done.stderr.splitlines() == [
        f"kmsd: warning: {winner}: wins over {loser}, as with k8s-kms-plugin"
        for winner, loser in (
            ("SOCKET", "--socket"),
            ("P11_TOKEN", "--p11-label"),
            ("P11_TOKEN", "--p11-slot"),
            ("P11_PIN_FILE", "--p11-pin"),
        )
    ]
    found = {key: value for key, (value, _) in shown(run("check-config", *flags, program=KMSD, **environment)).items()}
    assert (found["token.slot"], found["kms.socket"]) == ("3", '"/flag.sock"')


def test_a_slot_counts_where_no_label_is_given() -> None:
    assert shown(run("check-config", MODULE, "--p11-slot=3"))["token.slot"] == ("3", "--p11-slot")
    assert shown(run("check-config", MODULE, P11_SLOT="4"))["token.slot"] == ("4", "P11_SLOT")


def test_a_configuration_of_the_k8s_kms_plugins_is_refused_with_what_it_was_worth(tmp_path: Path) -> None:
    theirs = tmp_path / "k8s-kms-plugin.yaml"
    theirs.write_text("p11-label: x\n")
    done = run("check-config", MODULE, f"--config={theirs}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "not TOML" in done.stderr.splitlines()[0]
    assert "k8s-kms-plugin took no setting from the file of its --config: drop the flag" in done.stderr.splitlines()[-1]
    theirs.write_text('[token]\nlabel = "x"\n')
    assert shown(run("check-config", MODULE, f"--config={theirs}"))["token.label"][0] == '"x"'


@pytest.mark.parametrize(("program", "warns"), [(ALIAS, True), (KMSD, False)])
def test_who_takes_over_aes_cbc_is_sent_to_the_plan_first(program: str, warns: bool) -> None:
    done = run("check-config", MODULE, "--algorithm=aes-cbc", program=program)
    assert ("kmsctl migrate plan" in done.stderr) is warns
    reading = run("check-config", MODULE, "--algorithm=aes-cbc", KMSD_LEGACY__ALLOW_UNAUTHENTICATED="true")
    assert reading.stderr == ""


def test_it_calls_itself_by_the_name_that_it_was_called_by() -> None:
    assert "k8s-kms-plugin serve [OPTIONS]" in run("serve", "--help").stdout
    assert run("version").stdout.startswith("kmsd ")
