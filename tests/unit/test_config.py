"""The configuration is what the operator wrote, each value from the highest level that gives it, or an error
that names the place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd import config, paths
from kmsd.config import ConfigError, Origin, load, read_pin
from kmsd.config_values import LEAVES, SECTIONS
from kmsd.settings import Settings, Token

PIN = "s3cret-pin"


@pytest.fixture(autouse=True)
def no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine reaches a test."""
    monkeypatch.setattr(paths, "config_files", lambda: (tmp_path / "etc.toml", tmp_path / "user.toml"))


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def value(settings: Settings, key: str) -> object:
    section, name = key.split(".")
    found = getattr(getattr(settings, section), name)
    return found.get_secret_value() if key == "token.pin" and found else found


def error_of(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> str:
    path = tmp_path / "kmsd.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=path, environ=environ or {})
    return caught.value.message.replace(str(path), "F")


# --- precedence


@pytest.mark.parametrize(
    ("key", "toml", "variable", "text", "flag", "expected"),
    [
        ("keys.label", '"a"', "KMSD_KEYS__LABEL", "b", "c", ("a", "b", "c")),
        ("keys.refresh", "5", "KMSD_KEYS__REFRESH", "6.5", "7", (5.0, 6.5, 7.0)),
        ("token.slot", "5", "KMSD_TOKEN__SLOT", "6", "7", (5, 6, 7)),
        ("keys.auto_create", "true", "KMSD_KEYS__AUTO_CREATE", "off", True, (True, False, True)),
        (
            "state.dir",
            '"/a"',
            "KMSD_STATE__DIR",
            "/b",
            "/c",
            (Path("/a"), Path("/b"), Path("/c")),
        ),
    ],
)
def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, key: str, toml: str, variable: str, text: str, flag: object, expected: tuple[object, ...]
) -> None:
    file = write(tmp_path / "kmsd.toml", f"\n{key} = {toml}\n")
    environ = {variable: text}

    bare = load({}, environ={})
    assert (value(bare.settings, key), bare.origins[key]) == (
        value(Settings(), key),
        Origin("default", "default"),
    )
    filed = load({}, config_file=file, environ={})
    assert (value(filed.settings, key), filed.origins[key]) == (expected[0], Origin("file", f"{file}:2"))
    environed = load({}, config_file=file, environ=environ)
    assert (value(environed.settings, key), environed.origins[key]) == (
        expected[1],
        Origin("environment", variable),
    )
    flagged = load({key: ("--the-flag", flag)}, config_file=file, environ=environ)
    assert (value(flagged.settings, key), flagged.origins[key]) == (expected[2], Origin("flag", "--the-flag"))


@pytest.mark.parametrize("variable", config.ENVIRON)
def test_every_setting_has_a_variable_of_its_own(variable: str) -> None:
    key = config.ENVIRON[variable]
    texts: dict[str, tuple[str, object]] = {
        "kms.socket": ("/s/kms.sock", Path("/s/kms.sock")),
        "kms.mode": ("0660", "0660"),
        "kms.on_hsm_loss": ("fail-closed", "fail-closed"),
        "admin.socket": ("/s/admin.sock", Path("/s/admin.sock")),
        "token.provider": ("softhsm", "softhsm"),
        "token.pin_file": ("/p", Path("/p")),
        "keys.algorithm": ("aes-gcm", "aes-gcm"),
        "keys.write_format": ("k8s-kms-plugin", "k8s-kms-plugin"),
        "keys.auto_create": ("true", True),
        "log.format": ("json", "json"),
        "audit.enabled": ("false", False),
        "legacy.allow_unauthenticated": ("true", True),
        "audit.file": ("/a", Path("/a")),
        "audit.kms": ("all", "all"),
        "audit.max_bytes": ("70000", 70000),
        "audit.required": ("true", True),
        "log.level": ("debug", "debug"),
        "state.dir": ("/d", Path("/d")),
    }
    leaf = LEAVES[key]
    numbers: dict[type, tuple[str, object]] = {int: ("64", 64), float: ("2.5", 2.5)}
    text, expected = texts.get(key) or numbers.get(leaf.kind) or ("some-text", "some-text")
    loaded = load({}, environ={variable: text})
    assert value(loaded.settings, key) == expected
    assert loaded.origins[key] == Origin("environment", variable)
    assert [name for name, origin in loaded.origins.items() if origin.kind != "default"] == [key]


@pytest.mark.parametrize(
    ("variable", "text", "key", "expected"),
    [
        ("SOCKET", "/s/kms.sock", "kms.socket", Path("/s/kms.sock")),
        ("P11_LIB", "/lib/p11.so", "token.module", "/lib/p11.so"),
        ("P11_TOKEN", "mylabel", "token.label", "mylabel"),
        ("P11_SLOT", "3", "token.slot", 3),
        ("P11_PIN", PIN, "token.pin", PIN),
        ("P11_PIN_FILE", "/run/pin", "token.pin_file", Path("/run/pin")),
    ],
)
def test_the_ancestors_variables_work_below_ours_and_empty_ones_count_as_unset(
    variable: str, text: str, key: str, expected: object
) -> None:
    loaded = load({}, environ={variable: text})
    assert (value(loaded.settings, key), loaded.origins[key]) == (expected, Origin("environment", variable))
    empty = load({}, environ={variable: ""})
    assert (value(empty.settings, key), empty.origins[key].kind) == (value(Settings(), key), "default")
    ours = "KMSD_" + key.replace(".", "__").upper()
    both = load({}, environ={variable: text, ours: "/7" if LEAVES[key].kind is Path else "7"})
    assert both.origins[key] == Origin("environment", ours)


def test_the_ancestors_variables_beat_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "kmsd.toml", 'token.module = "/file.so"\n')
    assert load({}, config_file=file, environ={"P11_LIB": "/env.so"}).settings.token.module == "/env.so"


def test_every_setting_has_an_origin() -> None:
    loaded = load({}, environ={})
    keys = [f"{name}.{field}" for name in Settings.model_fields for field in SECTIONS[name]]
    assert list(loaded.origins) == keys
    assert len(keys) >= 27
    assert (loaded.file, loaded.warnings) == (None, ())


def test_the_first_usual_file_that_exists_is_the_only_one_read(tmp_path: Path) -> None:
    user = write(tmp_path / "user.toml", 'keys.label = "user"\nlog.level = "debug"\n')
    assert load({}, environ={}).file == user
    etc = write(tmp_path / "etc.toml", 'keys.label = "etc"\n')
    loaded = load({}, environ={})
    assert (loaded.file, loaded.settings.keys.label, loaded.settings.log.level) == (etc, "etc", "info")


def test_a_named_file_replaces_the_usual_ones_and_a_flag_beats_the_variable(tmp_path: Path) -> None:
    write(tmp_path / "etc.toml", 'keys.label = "etc"\n')
    one, two = (write(tmp_path / name, f'keys.label = "{name}"\n') for name in ("one", "two"))
    environ = {"KMSD_CONFIG": str(one)}
    assert load({}, environ=environ).settings.keys.label == "one"
    assert load({}, environ=environ, config_file=two).settings.keys.label == "two"
    assert load({}, environ={"KMSD_CONFIG": ""}).settings.keys.label == "etc"


@pytest.mark.parametrize("by", ["--config", "KMSD_CONFIG"])
def test_a_named_file_must_exist(tmp_path: Path, by: str) -> None:
    absent = tmp_path / "absent.toml"
    named, environ = (absent, {}) if by == "--config" else (None, {"KMSD_CONFIG": str(absent)})
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=named, environ=environ)
    assert caught.value.message == f"{absent}: no such file"
    assert caught.value.hint == f"{by} must name a file that exists"


def test_what_is_given_higher_sets_aside_its_alternative_from_below(tmp_path: Path) -> None:
    file = write(tmp_path / "kmsd.toml", f'[token]\npin = "{PIN}"\nslot = 4\n')
    flags = {"token.pin_file": ("--p11-pin-file", "/run/pin"), "token.label": ("--p11-label", "new")}
    loaded = load(flags, config_file=file, environ={})
    token = loaded.settings.token
    assert (token.pin, token.pin_file, token.slot, token.label) == (None, Path("/run/pin"), None, "new")
    assert loaded.origins["token.pin"] == Origin("flag", "--p11-pin-file")
    assert loaded.warnings == (
        f"--p11-pin-file: sets aside token.pin of {file}:2",
        f"--p11-label: sets aside token.slot of {file}:3",
    )


def test_slot_and_label_of_one_level_stand_together() -> None:
    token = load({}, environ={"P11_TOKEN": "label", "P11_SLOT": "4"}).settings.token
    assert (token.label, token.slot) == ("label", 4)


# --- bad files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[keys]\nrefresh = "soon"',
            'F:2: keys.refresh: expected a number from 0.1 to 3600, found "soon"',
        ),
        ("[keys]\nrefresh = 0", "F:2: keys.refresh: expected a number from 0.1 to 3600, found 0"),
        (
            "[keys]\nrefresh = nan",
            "F:2: keys.refresh: expected a number from 0.1 to 3600, found a number that is not finite",
        ),
        (
            "kms.request_timeout = 0",
            "F:1: kms.request_timeout: expected a number above 0, at most 60, found 0",
        ),
        ("token.slot = -1", "F:1: token.slot: expected a whole number from 0 up, found -1"),
        ('token.slot = "1"', 'F:1: token.slot: expected a whole number from 0 up, found "1"'),
        ("token.sessions = 65", "F:1: token.sessions: expected a whole number from 1 to 64, found 65"),
        ("token.sessions = true", "F:1: token.sessions: expected a whole number from 1 to 64, found true"),
        (
            "token.sessions = 0x" + "f" * 5000,
            "F:1: token.sessions: expected a whole number from 1 to 64, found a number with too many digits",
        ),
        ("keys.auto_create = 1", "F:1: keys.auto_create: expected true or false, found 1"),
        ('keys.auto_create = "yes"', 'F:1: keys.auto_create: expected true or false, found "yes"'),
        (
            'log.level = "loud"',
            'F:1: log.level: expected "debug" or "info" or "warning" or "error", found "loud"',
        ),
        (
            'keys.algorithm = "aes-ctr"',
            'F:1: keys.algorithm: expected "auto" or "aes-gcm" or "aes-cbc", found "aes-ctr"',
        ),
        ("keys.label = 5", "F:1: keys.label: expected a string in quotes, found 5"),
        ("keys.label = 1979-05-27", "F:1: keys.label: expected a string in quotes, found a date or time"),
        ('keys.label = ["a"]', "F:1: keys.label: expected a string in quotes, found an array"),
        ('[keys.label]\nx = "a"', "F:1: keys.label: expected a string in quotes, found a table"),
        (
            'keys.label = ""',
            'F:1: keys.label: a label has 1 to 255 bytes and no control characters, found ""',
        ),
        (
            f'keys.label = "{"x" * 300}"',
            f'F:1: keys.label: a label has 1 to 255 bytes and no control characters, found "{"x" * 60}..."',
        ),
        ("kms.mode = 0o600", 'F:1: kms.mode: expected a string such as "0600", found 384'),
        ('kms.mode = "600"', 'F:1: kms.mode: expected a string such as "0600", found "600"'),
        (
            'kms.mode = "0666"',
            'F:1: kms.mode: a socket\'s mode is 0600 or 0660: no execute bits, nothing for others, found "0666"',
        ),
        ('kms.socket = "x.sock"', 'F:1: kms.socket: the path of a socket must be absolute, found "x.sock"'),
        (
            'kms.socket = "@x"',
            'F:1: kms.socket: abstract sockets have no permissions: name a path in a directory, found "@x"',
        ),
        ('kms.socket = ""', 'F:1: kms.socket: expected a path in quotes, found ""'),
        ('state.dir = "a\\u0000"', 'F:1: state.dir: expected a path in quotes, found "a\\u0000"'),
        ('[keys]\n\nlable = "x"', "F:3: keys.lable: unknown key; did you mean keys.label?"),
        ("[keys]\nauto-create = true", "F:2: keys.auto-create: unknown key; did you mean keys.auto_create?"),
        ('[log]\npin = "x"', "F:2: log.pin: unknown key; did you mean token.pin?"),
        ("[log]\nzzz = 1", "F:2: log.zzz: unknown key; [log] has format, level"),
        (
            "[keys.sub]\nx = 1",
            "F:1: keys.sub: unknown key; [keys] has label, hmac_label, algorithm, write_format, auto_create, refresh, "
            "idle_before_destroy",
        ),
        (
            "[keys]\nlabel = 'x'\nhmac_label = 'x'",
            "F:3: keys.hmac_label: expected another label than keys.label: the HMAC key of a pair is not its AES key, "
            'found "x"',
        ),
        ("# first\n[tokens]\nlabel = 'x'", "F:2: tokens: expected tables, [[tokens]], found a table"),
        ('socket = "/x"', "F:1: socket: unknown key; did you mean kms.socket or admin.socket?"),
        (
            "qqq = 1",
            "F:1: qqq: unknown key; the sections are [kms], [admin], [token], [tokens], [keys], [legacy], [health], "
            "[log], [audit], [state]",
        ),
        ('keys = "x"', "F:1: keys: expected a section, [keys], found a string"),
        ("[[keys]]\nlabel = 'x'", "F:1: keys: expected a section, [keys], found an array"),
        ("[keys]\nlabel = x", "F:2:9: not TOML: Invalid value"),
        ("[keys]\nlabel = 'a'\nlabel = 'b'\n", "F:3:12: not TOML: Cannot overwrite a value"),
        ("[keys]\nlabel = ", "F:2: not TOML: Invalid value, at the end of the file"),
        ("[keys]\nlabel = '''a", "F:2: not TOML: Expected \"'''\", at the end of the file"),
        (b"[keys]\nlabel = '\xff'", "F:2: not UTF-8"),
        (
            "keys.refresh = " + "1" * 5000,
            "F: not TOML that kmsd reads: a number too long, or too many brackets in brackets",
        ),
        (
            "a = " + "[" * 5000 + "]" * 5000,
            "F: not TOML that kmsd reads: a number too long, or too many brackets in brackets",
        ),
        ("#" * (1 << 20) + "\n", "F: more than 1 MiB; this is not a configuration of kmsd"),
    ],
)
def test_a_bad_file_is_told_by_line_key_and_what_was_expected(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert error_of(tmp_path, text) == message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = '[log]\nlevel = "loud"\n\n[keys]\nlable = 1\nrefresh = "soon"\n'
    environ = {"KMSD_TOKEN__QUEUE": "many", "KMSD_KEYS__LABLE": "x", "P11_SLOT": "one"}
    assert error_of(tmp_path, text, environ).splitlines() == [
        'F:2: log.level: expected "debug" or "info" or "warning" or "error", found "loud"',
        "F:5: keys.lable: unknown key; did you mean keys.label?",
        'F:6: keys.refresh: expected a number from 0.1 to 3600, found "soon"',
        "KMSD_KEYS__LABLE: no such setting; did you mean KMSD_KEYS__LABEL?",
        'KMSD_TOKEN__QUEUE: expected a whole number from 1 to 65536, found "many"',
        'P11_SLOT: expected a whole number from 0 up, found "one"',
    ]


def test_a_mistake_in_the_file_shows_though_a_variable_hides_it(tmp_path: Path) -> None:
    message = error_of(tmp_path, 'keys.refresh = "soon"', {"KMSD_KEYS__REFRESH": "5"})
    assert message == 'F:1: keys.refresh: expected a number from 0.1 to 3600, found "soon"'


def test_an_ancestors_variable_that_is_overridden_may_hold_anything() -> None:
    loaded = load({"kms.socket": ("--socket", "/s/kms.sock")}, environ={"SOCKET": "tcp:80"})
    assert loaded.settings.kms.socket == Path("/s/kms.sock")


@pytest.mark.parametrize(
    "text",
    [
        '# a\n[ "keys" ]\nrefresh = "x"',
        "# a\n[keys]\n'refresh' = 'x'",
        '# a\n# b\nkeys . "refresh" = "x"',
        '# a\n# b\nkeys = { label = "y", refresh = "x" }',
        '# a\n#\nkeys.refresh="x"',
        '[keys] # [log]\nlabel = "# not a comment [log]"\nrefresh = "x"',
        'keys.label = """\nkeys.refresh = 5"""\nkeys.refresh = "x"',
    ],
)
def test_lines_are_right_for_every_way_to_write_a_key(tmp_path: Path, text: str) -> None:
    line_3 = 'F:3: keys.refresh: expected a number from 0.1 to 3600, found "x"'
    assert line_3 in error_of(tmp_path, text).splitlines()


def test_multi_line_strings_do_not_shift_lines(tmp_path: Path) -> None:
    strings = "label = '''\n[log]\nlevel = 'loud'\n\"\"\"'''\n" + 'module = """\n\\"""\n[keys]\n"""\n'
    text = f"[token]\n{strings}slot = 'x'\n"
    assert error_of(tmp_path, text) == 'F:10: token.slot: expected a whole number from 0 up, found "x"'


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=tmp_path, environ={})
    assert caught.value.message == f"{tmp_path}: is a directory"


def test_a_usual_file_that_cannot_be_read_is_an_error_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "etc.toml").symlink_to("etc.toml")
    write(tmp_path / "user.toml", "")
    with pytest.raises(ConfigError) as caught:
        load({}, environ={})
    assert caught.value.message == f"{tmp_path / 'etc.toml'}: too many levels of symbolic links"


def test_a_default_that_cannot_be_used_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_is_root", lambda: False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/" + "x" * 200)
    with pytest.raises(ConfigError) as caught:
        load({}, environ={})
    first = caught.value.message.splitlines()[0]
    assert first.startswith("kms.socket: the path of a Unix socket may have at most 107 bytes, found ")
    assert first.endswith("(the default)")


# --- the environment's strangers


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("KMSD_KEYS__LABLE", "KMSD_KEYS__LABLE: no such setting; did you mean KMSD_KEYS__LABEL?"),
        ("KMSD_keys__label", "KMSD_keys__label: no such setting, though it is written like one"),
        ("KMSD_ZZZ__Q", "KMSD_ZZZ__Q: no such setting, though it is written like one"),
    ],
)
def test_a_variable_written_like_a_setting_must_be_one(variable: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ={variable: PIN})
    assert caught.value.message == message


def test_other_variables_only_warn_and_those_of_kubernetes_do_not() -> None:
    kubernetes = ("KMSD_SERVICE_HOST", "KMSD_SERVICE_PORT", "KMSD_SERVICE_PORT_GRPC", "KMSD_PORT")
    environ = dict.fromkeys((*kubernetes, "KMSD_PORT_443_TCP_ADDR", "KMSD_UI_SERVICE_HOST", "KMSD_LABEL"), "x")
    warning = "KMSD_LABEL is not a setting of kmsd: it is ignored"
    assert load({}, environ=environ).warnings == (warning,)


@pytest.mark.parametrize(("text", "expected"), [("TRUE", True), ("1", True), ("no", False), ("f", False)])
def test_true_and_false_as_people_and_go_write_them(text: str, expected: bool) -> None:
    assert load({}, environ={"KMSD_KEYS__AUTO_CREATE": text}).settings.keys.auto_create is expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0x1", "\u0661", "nan", "9" * 5000])
def test_text_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ={"KMSD_TOKEN__QUEUE": text})
    assert caught.value.message.startswith("KMSD_TOKEN__QUEUE: expected a whole number from 1 to 65536, found ")
    assert len(caught.value.message) < 200


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ={"KMSD_KEYS__LABEL": os.fsdecode(b"\xff"), "P11_PIN": os.fsdecode(b"\xff")})
    assert caught.value.message.splitlines() == [
        "KMSD_KEYS__LABEL: expected a string, found text that is not UTF-8",
        "P11_PIN: expected the PIN as a string, found text that is not UTF-8",
    ]


# --- the PIN


def test_a_pin_as_a_number_is_refused_without_repeating_it(tmp_path: Path) -> None:
    path = write(tmp_path / "kmsd.toml", "[token]\npin = 918273\n")
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=path, environ={})
    expected = f"{path}:2: token.pin: expected the PIN as a string in quotes, found a number without quotes"
    assert caught.value.message == expected
    assert caught.value.hint.startswith('put the PIN in quotes (pin = "...")')


@pytest.mark.parametrize(
    "text",
    [
        "[token]\npin = 918273",
        "[token]\npin = 9182.73",
        "[token]\npin = [918273]",
        "[token]\npin = { p = 918273 }",
        "[token]\npin = 918273x",
        '[token]\npin = "918273',
        '[token]\npin = "918273"\npin = "918273"',
        '[token]\nbin = "918273"',
        'token = "918273"',
        'pin = "918273"',
        "[token]\npin = 9182-73-01",
        b'[token]\npin = "918273\xff"',
        '[token]\npin = "918273"\nslot = "x"',
    ],
)
def test_no_error_repeats_a_pin(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "kmsd.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=path, environ={})
    chain: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    told = f"{chain!r}{caught.value.hint}".replace(str(path), "F")
    assert "9182" not in told


def test_neither_settings_nor_origins_show_the_pin() -> None:
    loaded = load({"token.pin": ("--p11-pin", PIN)}, environ={})
    assert PIN not in repr(loaded) + str(loaded) + repr(loaded.settings) + loaded.settings.model_dump_json()
    assert read_pin(loaded.settings.token, {}) == PIN


@pytest.mark.parametrize("name", ["P11_PIN", "KMSD_TOKEN__PIN", "--p11-pin"])
def test_a_pin_that_others_can_read_warns(name: str) -> None:
    flags: dict[str, tuple[str, object]] = {"token.pin": (name, PIN)} if name.startswith("--") else {}
    environ = {} if flags else {name: PIN}
    warning = f"{name}: others on this machine can read it: use --p11-pin-file"
    assert load(flags, environ=environ).warnings == (warning,)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_configuration_with_a_pin_is_for_its_owner_only(tmp_path: Path, mode: int, warns: bool) -> None:
    path = write(tmp_path / "kmsd.toml", f'token.pin = "{PIN}"', mode)
    warning = f"{path}: holds the PIN and has mode {mode:04o}: chmod 600 {path}"
    assert load({}, config_file=path, environ={}).warnings == ((warning,) if warns else ())


def test_a_configuration_without_a_pin_may_be_read_by_all(tmp_path: Path) -> None:
    path = write(tmp_path / "kmsd.toml", 'token.label = "x"', 0o644)
    assert load({}, config_file=path, environ={}).warnings == ()


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_pin_file_may_be_read_by_its_group_but_not_by_others(tmp_path: Path, mode: int, warns: bool) -> None:
    path = write(tmp_path / "pin", PIN, mode)
    loaded = load({"token.pin_file": ("--p11-pin-file", str(path))}, environ={})
    warning = f"{path}: holds the PIN and has mode {mode:04o}: chmod o= {path}"
    assert loaded.warnings == ((warning,) if warns else ())


def test_a_pin_beside_a_pin_file_wins_and_warns(tmp_path: Path) -> None:
    path = write(tmp_path / "kmsd.toml", f'token.pin = "{PIN}"\ntoken.pin_file = "/absent"')
    loaded = load({}, config_file=path, environ={})
    assert loaded.warnings == ("token.pin and token.pin_file are both given: the file is not read",)
    assert read_pin(loaded.settings.token, {}) == PIN


def test_no_pin_configured_is_no_pin() -> None:
    assert read_pin(Token(), {}) is None
    assert load({}, environ={"KMSD_TOKEN__PIN": "", "KMSD_TOKEN__PIN_FILE": ""}).settings.token == Token()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"1234", "1234"),
        (b"1234\n", "1234"),
        (b"1234\r\n", "1234"),
        (b"1234\nsecond line\n", "1234"),
        (b" 12 34 \n", " 12 34 "),
        ("pässwort\n".encode(), "pässwort"),
        (b"x" * 1024 + b"\r\n", "x" * 1024),
    ],
)
def test_the_pin_is_the_first_line_of_its_file(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "pin"
    path.write_bytes(content)
    assert read_pin(Token(pin_file=path), {}) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory"),
        (b"", "its first line is empty"),
        (b"\n1234\n", "its first line is empty"),
        (b"x" * 1025, "its first line has more than 1024 bytes: this is no PIN"),
        (b"98\xff76\n", "its first line is not UTF-8"),
    ],
)
def test_a_pin_file_that_holds_no_pin_is_told_and_not_shown(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "pin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_pin(Token(pin_file=path), {})
    assert caught.value.message == f"the PIN file {path}: {message}"
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, OSError)


def test_a_directory_is_no_pin_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pin(Token(pin_file=tmp_path), {})
    assert caught.value.message == f"the PIN file {tmp_path}: is a directory"
    assert "token.pin_file must name a file" in caught.value.hint


def test_a_relative_pin_file_is_a_credential_first_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pin").write_text("from-cwd\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    token = Token(pin_file=Path("pin"))
    assert read_pin(token, environ) == "from-cwd"
    (credentials / "pin").write_text("from-credential\n")
    assert read_pin(token, environ) == "from-credential"
    assert read_pin(token, {}) == "from-cwd"
    assert read_pin(Token(pin_file=tmp_path / "pin"), environ) == "from-cwd"


def test_a_pin_comes_through_a_file_descriptor_that_stays_open() -> None:
    reader, writer = os.pipe()
    got: list[str | None] = []
    thread = threading.Thread(
        target=lambda: got.append(read_pin(Token(pin_file=Path(f"/dev/fd/{reader}")), {})), daemon=True
    )
    try:
        os.write(writer, b"1234\nnot the PIN")
        thread.start()
        thread.join(timeout=10)
        assert got == ["1234"]
        assert os.read(reader, 100) == b"not the PIN"
    finally:
        os.close(writer)
        os.close(reader)


# --- anything at all


def refusal(loading: Callable[[], object]) -> str | None:
    """What the loading was refused with, if it was; anything but a ConfigError fails the test."""
    try:
        loading()
    except ConfigError as error:
        return error.message
    return None


_NAMES = st.sampled_from([*SECTIONS, *(key.split(".")[1] for key in LEAVES), "x", '"a b"', "''", '"\\u0000"'])
_VALUES = st.one_of(
    st.sampled_from(
        [
            "true",
            "0",
            "-1",
            "nan",
            "-inf",
            "1e999",
            '""',
            "'0660'",
            '"""\n[keys]\n"""',
            "[]",
            "{}",
            "1979-05-27",
        ]
    ),
    st.sampled_from(["07:32:00", "0x" + "f" * 5000, "{ label = 1 }", '"\\u0000"', "'/run/x'", '"@x"', "''' '''"]),
    st.integers().map(str),
    st.text(max_size=12).map(lambda text: f'"{text}"'),
)
_LINES = st.one_of(
    st.builds("[{}]".format, _NAMES),
    st.builds("[[{}]]".format, _NAMES),
    st.builds("[{}.{}]".format, _NAMES, _NAMES),
    st.builds("{} = {}".format, _NAMES, _VALUES),
    st.builds("{}.{} = {}".format, _NAMES, _NAMES, _VALUES),
    st.text(max_size=12),
)


@given(st.one_of(st.lists(_LINES, max_size=6).map("\n".join), st.text()), st.just(b"") | st.binary(max_size=4))
def test_whatever_the_file_holds_it_loads_or_is_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, text: str, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode(errors="surrogatepass") + b"\n#" + tail)
    message = refusal(lambda: load({}, config_file=path, environ={}))
    assert message is None or message.startswith(str(path))
    assert all(line.isprintable() for line in (message or "").splitlines())


@given(st.sampled_from([*config.ENVIRON, *config.ANCESTOR_ENVIRON]), st.binary(max_size=20))
def test_whatever_a_variable_holds_it_loads_or_is_refused_in_words(variable: str, content: bytes) -> None:
    text = os.fsdecode(content.replace(b"\0", b""))
    message = refusal(lambda: load({}, environ={variable: text}))
    assert message is None or message.startswith(f"{variable}: ")


TWO_TOKENS = """
[[tokens]]
name = "old"
module = "/lib/p11.so"
label = "hsm-1"
pin_file = "/old.pin"

[[tokens]]
label = "hsm-2"
module = "/lib/p11.so"
pin = "{pin}"
write = true
"""


def test_several_tokens_take_the_place_of_one(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text(TWO_TOKENS.format(pin=PIN))
    file.chmod(0o600)
    loaded = load({}, config_file=file, environ={})
    assert [place.called for place in loaded.settings.places] == ["old", "hsm-2"]
    assert loaded.settings.write_place.called == "hsm-2"
    assert loaded.settings.places[0].pin_file == Path("/old.pin")
    assert loaded.settings.places[1].sessions == 4
    assert loaded.origins["tokens.1.write"] == Origin("file", f"{file}:12")
    assert config.value(loaded.settings, "tokens.0.label") == "hsm-1"
    assert PIN not in repr(loaded.settings)


def test_without_tokens_the_one_token_is_the_only_place() -> None:
    settings = load({"token.label": ("--p11-label", "prod")}, environ={}).settings
    assert [place.called for place in settings.places] == ["prod"]
    assert settings.write_place is not None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('label = "hsm-2"', 'label = "old"', "two tokens are called 'old': give each a name"),
        ('name = "old"', 'name = "old"\nwrite = true', "write is true for more than one token"),
        ('name = "old"', 'name = "o l d"', "F:3: tokens.0.name: expected 1 to 64 letters, digits, dots"),
        ('label = "hsm-1"', 'lable = "hsm-1"', "F:5: tokens.0.lable: unknown key; [[tokens]] has name, write"),
        ("write = true", "sessions = 99", "F:12: tokens.1.sessions: expected a whole number from 1 to 64"),
        (
            'pin = "{pin}"',
            "pin = 12345678",
            "F:11: tokens.1.pin: expected the PIN as a string in quotes, found a number",
        ),
        ("[[tokens]]\nname", "[token]\nlabel = 'x'\n[[tokens]]\nname", "token.label: the file has [[tokens]]"),
    ],
)
def test_what_is_wrong_with_several_tokens_is_told(tmp_path: Path, before: str, after: str, message: str) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text(TWO_TOKENS.replace(before, after).format(pin=PIN))
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=file, environ={})
    assert message in caught.value.message.replace(str(file), "F")
    assert PIN not in caught.value.message


def test_flags_of_the_one_token_are_refused_beside_several(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text(TWO_TOKENS.format(pin=PIN))
    with pytest.raises(ConfigError, match=r"--p11-label: token\.label: the file has"):
        load({"token.label": ("--p11-label", "x")}, config_file=file, environ={})
    with pytest.raises(ConfigError, match=r"P11_TOKEN: token\.label: the file has"):
        load({}, config_file=file, environ={"P11_TOKEN": "x"})
