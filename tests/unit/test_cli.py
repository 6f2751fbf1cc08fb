"""The command line of kmsd: what check-config shows and refuses, and that k8s-kms-plugin's command lines carry over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kmsd import __version__, paths
from kmsd.config import pins
from tests.tokens import MODULE, PIN, clean_environment
from tests.unit.commandline import Run, kmsd, record_serve, table


@pytest.mark.processes
def test_check_config_shows_every_value_with_its_origin() -> None:
    # The one test that meets the defaults of this machine: as a child process, with files of its own.
    done = kmsd("check-config", "--config=/dev/null", "--provider=softhsm")
    assert (done.returncode, done.stderr) == (0, "")
    shown = table(done.stdout)
    assert shown["keys.label"] == ("k8s-kek", "default")
    assert shown["token.provider"] == ("softhsm", "--provider")
    assert shown["token.slot"] == (None, "default")


@pytest.mark.processes
def test_check_config_names_file_and_line_variable_and_flag(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('[keys]\n# comment\nlabel = "from-file"\nrefresh = 2\n[token]\nprovider = "softhsm"\n')
    done = kmsd("check-config", f"--config={file}", "--log-level=debug", KMSD_KEYS__REFRESH="3", P11_TOKEN="t")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"# configuration file: {file}"
    shown = table(done.stdout)
    assert shown["keys.label"] == ("from-file", f"{file}:3")
    assert shown["keys.refresh"] == (3.0, "KMSD_KEYS__REFRESH")
    assert shown["token.label"] == ("t", "P11_TOKEN")
    assert shown["log.level"] == ("debug", "--log-level")


def test_what_check_config_prints_is_a_configuration(run: Run, tmp_path: Path) -> None:
    odd = '--p11-label=a "quoted" \\ label \x7f # é'
    code, out, _ = run("check-config", odd, "--p11-slot=3", "--provider=softhsm", "--no-auto-create")
    assert code == 0
    file = tmp_path / "again.toml"
    file.write_text(out)
    code, again, _ = run("check-config", f"--config={file}")
    assert code == 0
    assert {key: value for key, (value, _) in table(again).items()} == {
        key: value for key, (value, _) in table(out).items()
    }
    assert table(out)["token.label"][0] == odd.partition("=")[2]


@pytest.mark.processes
def test_check_config_refuses_a_bad_file_with_exit_2_and_prints_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('[keys]\nrefresh = "soon"\nlable = "x"\n[token]\npin = 123456\n')
    done = kmsd("check-config", "--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f'kmsd: error: {file}:2: keys.refresh: expected a number from 0.1 to 3600, found "soon"',
        f"kmsd: error: {file}:3: keys.lable: unknown key; did you mean keys.label?",
        f"kmsd: error: {file}:5: token.pin: expected the PIN as a string in quotes, found a number without quotes",
        'hint: put the PIN in quotes (pin = "..."), or better in a file that token.pin_file names',
    ]


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_named_file_that_is_not_there_is_exit_2(run: Run, command: str, tmp_path: Path) -> None:
    code, out, err = run(command, f"--config={tmp_path}/absent.toml")
    assert (code, out) == (2, "")
    assert err == (f"kmsd: error: {tmp_path}/absent.toml: no such file\nhint: --config must name a file that exists\n")


# --- k8s-kms-plugin's command lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--provider p11 --p11-lib /usr/lib/softhsm/libsofthsm2.so --p11-key-label mykey "
            "--p11-label mylabel --p11-pin mypin --enable-server",
            {
                "token.provider": "p11",
                "token.module": "/usr/lib/softhsm/libsofthsm2.so",
                "keys.label": "mykey",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "server.enabled": True,
            },
        ),
        (
            "--provider p11 --p11-lib /usr/lib64/pkcs11/libtpm2_pkcs11.so --p11-key-label cbc0 --p11-hmac-label hmac0 "
            "--p11-label mylabel --p11-pin mypin --algorithm aes-cbc --enable-server",
            {
                "token.provider": "p11",
                "token.module": "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
                "keys.label": "cbc0",
                "keys.hmac_label": "hmac0",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "keys.algorithm": "aes-cbc",
                "server.enabled": True,
            },
        ),
        (
            "--provider p11 --p11-lib /lib/p11.so --p11-label mylabel --p11-pin mypin --p11-key-label cbc0 "
            "--p11-hmac-label hmac0 --algorithm aes-gcm --auto-create --socket /run/kms.sock",
            {
                "token.provider": "p11",
                "token.module": "/lib/p11.so",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "keys.label": "cbc0",
                "keys.hmac_label": "hmac0",
                "keys.algorithm": "aes-gcm",
                "keys.auto_create": True,
                "kms.socket": "/run/kms.sock",
            },
        ),
        (
            "--socket /run/user/1000/k8s-kms-plugin.sock --p11-lib /lib/p11.so --p11-label mylabel "
            "--p11-pin mypin --p11-key-label aes0 --enable-server",
            {
                "server.enabled": True,
                "kms.socket": "/run/user/1000/k8s-kms-plugin.sock",
                "token.module": "/lib/p11.so",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "keys.label": "aes0",
            },
        ),
    ],
    ids=["readme", "readme-tpm", "hmac", "quickstart"],
)
def test_the_k8s_kms_plugins_command_lines_carry_over(
    line: str, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    code, out, err = run("check-config", *line.split())
    assert code == 0
    assert {key: value for key, (value, where) in table(out).items() if where != "default"} == expected
    assert "mypin" not in out + err
    served = record_serve(monkeypatch)
    assert run("serve", *line.split())[0] == 0
    ((loaded, _),) = served
    assert loaded.settings.keys.label == expected["keys.label"]
    assert pins.read_pin(loaded.settings.token) == "mypin"


@pytest.mark.processes
def test_the_k8s_kms_plugins_pod_environment_carries_over() -> None:
    environ = {"P11_LIB": "/lib/p11.so", "P11_TOKEN": "default", "P11_PIN": "changeme", "P11_PIN_FILE": ""}
    done = kmsd("check-config", "--config=/dev/null", **environ)
    shown = table(done.stdout)
    assert shown["token.module"] == ("/lib/p11.so", "P11_LIB")
    assert shown["token.label"] == ("default", "P11_TOKEN")
    assert shown["token.pin"] == ("<redacted>", "P11_PIN")
    assert shown["token.pin_file"] == (None, "default")
    assert "changeme" not in done.stdout + done.stderr


# --- warnings


def test_check_config_warns_on_stderr_and_still_exits_0(run: Run) -> None:
    code, out, err = run("check-config", f"--p11-pin={PIN}", "--p11-pin-file=/absent/pin")
    assert code == 0
    assert err.splitlines() == [
        "kmsd: warning: --p11-pin: others on this machine can read the PIN there: use --p11-pin-file",
        "kmsd: warning: token.pin and token.pin_file are both given: the file is not read",
        "kmsd: warning: token.module is empty: name the PKCS#11 module with --p11-lib, P11_LIB or "
        'token.module, or say --provider softhsm (token.provider = "softhsm")',
    ]
    assert PIN not in out + err


def test_check_config_warns_of_a_module_and_a_pin_file_that_are_not_there(run: Run) -> None:
    code, _, err = run("check-config", "--p11-lib=/absent/p11.so", "--p11-pin-file=/absent/pin")
    assert code == 0
    assert err.splitlines() == [
        "kmsd: warning: token.module: there is no file /absent/p11.so",
        "kmsd: warning: token.pin_file: there is no file /absent/pin",
    ]


def test_check_config_has_nothing_to_warn_of_when_all_is_there(run: Run, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    code, _, err = run("check-config", f"--p11-lib={MODULE}", f"--p11-pin-file={pin}")
    assert (code, err) == (0, "")


# --- version, lazy imports


@pytest.mark.processes
@pytest.mark.parametrize("argv", [["version"], ["--version"]])
def test_version(argv: list[str]) -> None:
    done = kmsd(*argv)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kmsd {__version__}\n", "")


@pytest.mark.parametrize("command", ["version", "dev"])
def test_a_flag_that_a_command_has_no_use_for_is_refused(run: Run, command: str) -> None:
    code, out, err = run("--p11-label=x", command)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"kmsd: error: --p11-label is not a flag of {command}"


def test_dev_refuses_a_wrong_level_before_it_makes_anything(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "dev_dir", lambda: tmp_path / "dev")
    code, out, err = run("dev", "--log-level=loud")
    assert (code, out) == (2, "")
    assert '--log-level: expected "debug" or "info" or "warning" or "error", found "loud"' in err
    assert not (tmp_path / "dev").exists()


@pytest.mark.processes
@pytest.mark.parametrize(
    "argv",
    [["--help"], ["serve", "--help"], ["check-config", "--config=/dev/null"], ["version"], ["serve", "x"]],
)
def test_only_serving_loads_grpc_and_pkcs11(argv: list[str]) -> None:
    program = (
        "import json, sys\nfrom kmsd import cli\ntry:\n    cli.main(sys.argv[1:])\nfinally:\n"
        "    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "typer" in loaded
    assert loaded & {"grpc", "pkcs11", "google", "textual", "uvloop"} == set()


@pytest.mark.processes
@pytest.mark.parametrize(
    "given",
    [["--p11-label=a\x1b]0;x\x07\u202e"], ["--config=/none/\x1b]0;x\x07\u202e"], ["--bogus\x1b]0;x\x07\u202e"]],
    ids=["value", "file", "flag"],
)
def test_check_config_sends_no_control_characters_to_the_terminal(given: list[str]) -> None:
    done = kmsd("check-config", "--provider=softhsm", *given)
    said = done.stdout + done.stderr
    assert "]0;x" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


@pytest.mark.processes
def test_check_config_sends_no_control_characters_of_a_file_to_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('[keys]\n"lab\\u001b]0;x\\u0007el" = "x"\nlabel = 5\n')
    done = kmsd("check-config", f"--config={file}", "--provider=softhsm")
    assert done.returncode == 2
    assert "]0;x" in done.stderr
    assert not {"\x1b", "\x07"} & set(done.stderr)
