"""The flags of kmsd: each sets its setting, and a wrong one is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd import cli
from kmsd.config.values import LEAVES
from tests.tokens import PIN
from tests.unit.commandline import Run, record_serve, table

FLAGS: list[tuple[list[str], str, object, str]] = [
    (["--socket", "/s/kms.sock"], "kms.socket", "/s/kms.sock", "--socket"),
    (["--jwt-socket=/s/jwt.sock"], "jwt.socket", "/s/jwt.sock", "--jwt-socket"),
    (["--admin-socket=/s/admin.sock"], "admin.socket", "/s/admin.sock", "--admin-socket"),
    (["--admin-group", "wheel"], "admin.group", "wheel", "--admin-group"),
    (["--state-dir", "/d"], "state.dir", "/d", "--state-dir"),
    (["--log-format", "json"], "log.format", "json", "--log-format"),
    (["--log-level", "warning"], "log.level", "warning", "--log-level"),
    (["--provider", "softhsm"], "token.provider", "softhsm", "--provider"),
    (["--p11-lib", "/lib/p11.so"], "token.module", "/lib/p11.so", "--p11-lib"),
    (["--p11-label", "mylabel"], "token.label", "mylabel", "--p11-label"),
    (["--p11-slot", "7"], "token.slot", 7, "--p11-slot"),
    (["--p11-pin", PIN], "token.pin", "<redacted>", "--p11-pin"),
    (["--p11-pin-file", "/run/pin"], "token.pin_file", "/run/pin", "--p11-pin-file"),
    (["--p11-key-label", "aes0"], "keys.label", "aes0", "--p11-key-label"),
    (["--p11-hmac-label", "hmac0"], "keys.hmac_label", "hmac0", "--p11-hmac-label"),
    (["--algorithm", "aes-gcm"], "keys.algorithm", "aes-gcm", "--algorithm"),
    (["--auto-create"], "keys.auto_create", True, "--auto-create"),
    (["--auto-create=true"], "keys.auto_create", True, "--auto-create"),
    (["--auto-create=1"], "keys.auto_create", True, "--auto-create"),
    (["--no-auto-create"], "keys.auto_create", False, "--no-auto-create"),
    (["--auto-create=false"], "keys.auto_create", False, "--no-auto-create"),
    (["--auto-create", "--auto-create=F"], "keys.auto_create", False, "--no-auto-create"),
    (["--p11-slot=1", "--p11-slot=2"], "token.slot", 2, "--p11-slot"),
    (["--enable-server"], "server.enabled", True, "--enable-server"),
    (["--enable-server", "--enable-server=false"], "server.enabled", False, "--no-enable-server"),
    (["--host", "::1"], "server.host", "::1", "--host"),
    (["--port=31401"], "server.port", 31401, "--port"),
    (["--tls-ca", "certs/ca.crt"], "server.tls_ca", "certs/ca.crt", "--tls-ca"),
    (["--tls-certificate", "/c/tls.crt"], "server.tls_certificate", "/c/tls.crt", "--tls-certificate"),
    (["--tls-key", "/c/tls.key"], "server.tls_key", "/c/tls.key", "--tls-key"),
    (["--tls-revoked", "/c/revoked.pem"], "server.tls_revoked", "/c/revoked.pem", "--tls-revoked"),
    (["--tls-revoked", "/c/revoked.pem"], "server.tls_revoked", "/c/revoked.pem", "--tls-revoked"),
    (["--output", "text"], "log.format", "console", "--output"),
    (["--output=json"], "log.format", "json", "--output"),
    (["--output=text", "--log-format=json"], "log.format", "json", "--log-format"),
    (["--debug"], "log.level", "debug", "--debug"),
    (["--debug=true", "--log-level=error"], "log.level", "error", "--log-level"),
]


@pytest.mark.parametrize(("argv", "key", "value", "where"), FLAGS, ids=lambda each: str(each))
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_every_flag_sets_its_setting_before_and_after_the_command(
    run: Run, argv: list[str], key: str, value: object, where: str, before: bool
) -> None:
    code, out, _ = run(*argv, "check-config") if before else run("check-config", *argv)
    assert code == 0
    changed = {name: each for name, each in table(out).items() if each[1] != "default"}
    assert changed == {key: (value, where)}


def test_every_flag_that_sets_something_is_in_this_file() -> None:
    tried = {argv[0].partition("=")[0] for argv, *_ in FLAGS}
    assert {flag.name for flag in cli.FLAGS if flag.key} <= tried
    assert all(flag.key in LEAVES for flag in cli.FLAGS if flag.key)


def test_a_flag_after_the_command_beats_the_same_one_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served = record_serve(monkeypatch)
    run("--p11-label=before", "serve", "--p11-label=after")
    assert served[0][0].settings.token.label == "after"
    _, out, _ = run("--p11-label=before", "--auto-create", "check-config", "--p11-label=after")
    assert table(out)["token.label"] == ("after", "--p11-label")
    assert table(out)["keys.auto_create"] == (True, "--auto-create")


def test_config_may_stand_before_the_command(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('keys.label = "x"')
    assert table(run("--config", str(file), "check-config")[1])["keys.label"] == ("x", f"{file}:1")


@pytest.mark.parametrize(
    "argv", [["--disable-socket"], ["--disable-socket=true"], ["--enable-server", "--disable-socket"]]
)
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_kmsd_that_nothing_could_call_is_refused(run: Run, command: str, argv: list[str]) -> None:
    for line in ([command, *argv], [*argv, command]):
        code, out, err = run(*line)
        assert (code, out) == (2, "")
        assert err.splitlines() == [
            "kmsd: error: --disable-socket is not taken: kmsd always serves its Unix sockets, where kmsctl reaches it",
            "hint: drop --disable-socket; --enable-server serves callers from other machines besides",
        ]


@pytest.mark.parametrize(
    "argv",
    [["--disable-socket=false"], ["--disable-socket", "--disable-socket=false"], ["--allow-any=false"], ["--debug=0"]],
    ids=lambda argv: argv[-1],
)
def test_a_switch_that_is_off_changes_nothing(run: Run, argv: list[str]) -> None:
    code, out, err = run("check-config", "--provider=softhsm", *argv)
    assert (code, err) == (0, "")
    assert {key for key, (_, where) in table(out).items() if where != "default"} == {"token.provider"}


@pytest.mark.parametrize(
    "argv",
    [["--allow-any"], ["--kek-id", "a"], ["--ca-id=a"], ["--native-path=.keys"], ["-p", ".keys"]],
    ids=lambda argv: argv[0],
)
def test_a_flag_that_does_nothing_in_the_k8s_kms_plugin_is_taken_with_a_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    name = "--native-path" if argv[0] == "-p" else argv[0].partition("=")[0]
    says = f"{name} does nothing in k8s-kms-plugin serve, and nothing here"
    served = record_serve(monkeypatch)
    for line in (["check-config", *argv], [*argv, "check-config"]):
        code, out, err = run(*line, "--provider=softhsm")
        assert code == 0
        assert err.startswith(f"kmsd: warning: {says}")
        assert {key for key, (_, where) in table(out).items() if where != "default"} == {"token.provider"}
    run("serve", *argv)
    assert [warning.startswith(says) for warning in served[0][0].warnings] == [True]


def test_check_config_names_what_keeps_tcp_from_being_served(run: Run) -> None:
    code, _, err = run("check-config", "--provider=softhsm", "--enable-server", "--tls-key=/absent/tls.key")
    assert code == 0
    assert err.splitlines() == [
        "kmsd: warning: nothing listens on TCP, though --enable-server (server.enabled) asks for it: --tls-ca is not "
        "given; --tls-certificate is not given; --tls-key names /absent/tls.key: no such file or directory"
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--p11-slot=one"], '--p11-slot: expected a whole number from 0 up, found "one"'),
        (["--p11-slot=-1"], "--p11-slot: expected a whole number from 0 up, found -1"),
        (["--algorithm=aes-ctr"],
         '--algorithm: expected "auto" or "aes-gcm" or "aes-cbc" or "rsa-oaep", found "aes-ctr"'),
        (["--provider=native"],
         '--provider: expected "auto" or "p11" or "softhsm" or "tpm2" or "p11-kit" or "luna" or "dpod" or '
         '"cloudhsm" or "opencryptoki" or "generic", found "native"'),
        (["--socket=kms.sock"], '--socket: the path of a socket must be absolute, found "kms.sock"'),
        (
            ["--log-level=loud"],
            '--log-level: expected "debug" or "info" or "warning" or "error", found "loud"',
        ),
        (["--auto-create=maybe"], "--auto-create: expected true or false after the =, found 'maybe'"),
        (["--enable-server=maybe"], "--enable-server: expected true or false after the =, found 'maybe'"),
        (["--output=yaml"], '--output: expected "text" or "json", found "yaml"'),
        (["--port=0"], "--port: expected a whole number from 1 to 65535, found 0"),
        (["--port=65536"], "--port: expected a whole number from 1 to 65535, found 65536"),
        (["--host="], '--host: a host must be a name or an IP address, without brackets and without a port, found ""'),
        (["--host=[::1]:3"],
         '--host: a host must be a name or an IP address, without brackets and without a port, found "[::1]:3"'),
        (["--p11-pim=9182"], "no such option: --p11-pim (Possible options: --p11-lib, --p11-pin, "
         "--p11-pin-file)"),
        (["--p11-pin"], "option '--p11-pin' requires an argument"),
        (["--p11-pin", "a", "9182"], "an argument that is not a flag"),
    ],
    ids=lambda each: str(each),
)  # fmt: skip
def test_a_wrong_command_line_is_exit_2_in_words(run: Run, argv: list[str], message: str) -> None:
    code, out, err = run("check-config", *argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"kmsd: error: {message}"
    assert "9182" not in err


def test_an_unknown_command_is_told_what_there_is_but_not_repeated(run: Run) -> None:
    code, out, err = run("9182")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "kmsd: error: no such command",
        "hint: the commands are serve, proxy, check-config, dev, version",
    ]


def test_no_command_shows_the_help_and_is_exit_2(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "check-config" in err
