"""A file that is no configuration is refused with the place, the key and what was expected there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd import paths
from kmsd.config.sources import ConfigError, load
from tests.unit.config.written import error_of, write


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
        ("token.sessions = 65", 'F:1: token.sessions: expected "auto" or a whole number from 1 to 64, found 65'),
        (
            'token.sessions = "many"',
            'F:1: token.sessions: expected "auto" or a whole number from 1 to 64, found "many"',
        ),
        ("token.sessions = true", 'F:1: token.sessions: expected "auto" or a whole number from 1 to 64, found true'),
        (
            "token.sessions = 0x" + "f" * 5000,
            'F:1: token.sessions: expected "auto" or a whole number from 1 to 64, found a number with too many digits',
        ),
        ("keys.auto_create = 1", "F:1: keys.auto_create: expected true or false, found 1"),
        ('keys.auto_create = "yes"', 'F:1: keys.auto_create: expected true or false, found "yes"'),
        (
            'log.level = "loud"',
            'F:1: log.level: expected "debug" or "info" or "warning" or "error", found "loud"',
        ),
        (
            'keys.algorithm = "aes-ctr"',
            'F:1: keys.algorithm: expected "auto" or "aes-gcm" or "aes-cbc" or "rsa-oaep", found "aes-ctr"',
        ),
        ("keys.label = 5", "F:1: keys.label: expected a string in quotes, found 5"),
        ("keys.label = 1979-05-27", "F:1: keys.label: expected a string in quotes, found a date or time"),
        ('keys.label = ["a"]', "F:1: keys.label: expected a string in quotes, found an array"),
        ('[keys.label]\nx = "a"', "F:1: keys.label: expected a string in quotes, found a table"),
        (
            'keys.label = ""',
            'F:1: keys.label: a label must have 1 to 255 bytes and no control characters, found ""',
        ),
        (
            f'keys.label = "{"x" * 300}"',
            f'F:1: keys.label: a label must have 1 to 255 bytes and no control characters, found "{"x" * 60}..."',
        ),
        *(
            (f'kms.mode = "{mode}"', f'F:1: kms.mode: expected "0600" or "0660", found "{mode}"')
            for mode in ("600", "0666", "0000", "0400", "0200", "0060", "0640", "0620", "0700", "00600", "")
        ),
        ("kms.mode = 0o600", 'F:1: kms.mode: expected "0600" or "0660", found 384'),
        *(
            (
                f'observe.listen = "{where}"',
                "F:1: observe.listen: a port of metrics must be on 127.0.0.1, [::1] or localhost, or "
                f'observe.allow_remote must be true, which lets whoever reaches it read them, found "{where}"',
            )
            for where in ("0.0.0.0:9443", "[::]:9443", "10.0.0.1:9443", "localhost.test:1", "127.1:9443")
        ),
        (
            'observe.listen = "127.0.0.1"',
            "F:1: observe.listen: an address to listen on must be host:port, and an IPv6 address in brackets, "
            'found "127.0.0.1"',
        ),
        ('observe.listen = "unix:x"', 'F:1: observe.listen: the path of a socket must be absolute, found "unix:x"'),
        ('kms.socket = "x.sock"', 'F:1: kms.socket: the path of a socket must be absolute, found "x.sock"'),
        (
            'kms.socket = "@x"',
            "F:1: kms.socket: a socket must be a path in a directory, for an abstract one has no permissions, "
            'found "@x"',
        ),
        ('kms.socket = ""', 'F:1: kms.socket: expected a path in quotes, found ""'),
        ('state.dir = "a\\u0000"', 'F:1: state.dir: expected a path in quotes, found "a\\u0000"'),
        ('[keys]\n\nlable = "x"', "F:3: keys.lable: unknown key; did you mean keys.label?"),
        ("[keys]\nauto-create = true", "F:2: keys.auto-create: unknown key; did you mean keys.auto_create?"),
        ('[log]\npin = "x"', "F:2: log.pin: unknown key; did you mean token.pin?"),
        ("[log]\nzzz = 1", "F:2: log.zzz: unknown key; [log] has format, level"),
        (
            "[keys.sub]\nx = 1",
            "F:1: keys.sub: unknown key; [keys] has label, hmac_label, algorithm, write_format, auto_create, adopt, "
            "trust_public_objects, refresh",
        ),
        (
            "[keys]\nidle_before_destroy = 60.0",
            "F:2: keys.idle_before_destroy: unknown key; it is gone, for a key that is idle here may be needed "
            "elsewhere: take it out; destroying wants a retired key, a scan of etcd (--report), or the key's label "
            "(--confirm)",
        ),
        (
            "[keys]\nlabel = 'x'\nhmac_label = 'x'",
            "F:3: keys.hmac_label: expected another label than keys.label: the HMAC key of a pair is not its AES key, "
            'found "x"',
        ),
        ("# first\n[tokens]\nlabel = 'x'", "F:2: tokens: expected tables, [[tokens]], found a table"),
        ('socket = "/x"', "F:1: socket: unknown key; did you mean kms.socket or admin.socket or jwt.socket?"),
        (
            "qqq = 1",
            "F:1: qqq: unknown key; the sections are [kms], [admin], [server], [proxy], [token], [tokens], [tenants], "
            "[admins], [keys], [legacy], [health], [log], [audit], [observe], [store], [est], [ca], [jwt], "
            "[state]",
        ),
        ('keys = "x"', "F:1: keys: expected a section, [keys], found a string"),
        ("[[keys]]\nlabel = 'x'", "F:1: keys: expected a section, [keys], found an array"),
        ("[keys]\nlabel = x", "F:2:9: not TOML: Invalid value"),
        ("[keys]\nlabel = 'a'\nlabel = 'b'\n", "F:3:12: not TOML: Cannot overwrite a value"),
        ("[keys]\nlabel = ", "F:2: not TOML: Invalid value, at the end of the file"),
        ("[keys]\nlabel = '''a", "F:2: not TOML: Expected \"'''\", at the end of the file"),
        (b"[keys]\nlabel = '\xff'", "F:2: the file must be UTF-8, and this line is not"),
        (
            "keys.refresh = " + "1" * 5000,
            "F: not TOML that kmsd reads: a number is too long, or brackets are nested too deep",
        ),
        (
            "a = " + "[" * 5000 + "]" * 5000,
            "F: not TOML that kmsd reads: a number is too long, or brackets are nested too deep",
        ),
        ("#" * (1 << 20) + "\n", "F: a configuration file must have 1 MiB at most"),
    ],
)
def test_a_bad_file_is_told_by_line_key_and_what_was_expected(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert error_of(tmp_path, text) == message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = '[log]\nlevel = "loud"\n\n[keys]\nlable = 1\nrefresh = "soon"\n'
    environ = {
        "KMSD_TOKEN__QUEUE": "many",
        "KMSD_KEYS__LABLE": "x",
        "KMSD_KEYS__IDLE_BEFORE_DESTROY": "0",
        "P11_SLOT": "one",
    }
    assert error_of(tmp_path, text, environ).splitlines() == [
        'F:2: log.level: expected "debug" or "info" or "warning" or "error", found "loud"',
        "F:5: keys.lable: unknown key; did you mean keys.label?",
        'F:6: keys.refresh: expected a number from 0.1 to 3600, found "soon"',
        "KMSD_KEYS__IDLE_BEFORE_DESTROY: no such setting; it is gone, for a key that is idle here may be needed "
        "elsewhere: take it out; destroying wants a retired key, a scan of etcd (--report), or the key's label "
        "(--confirm)",
        "KMSD_KEYS__LABLE: no such setting; did you mean KMSD_KEYS__LABEL?",
        'KMSD_TOKEN__QUEUE: expected a whole number from 1 to 65536, found "many"',
        'P11_SLOT: expected a whole number from 0 up, found "one"',
    ]


def test_a_mistake_in_the_file_shows_though_a_variable_hides_it(tmp_path: Path) -> None:
    message = error_of(tmp_path, 'keys.refresh = "soon"', {"KMSD_KEYS__REFRESH": "5"})
    assert message == 'F:1: keys.refresh: expected a number from 0.1 to 3600, found "soon"'


def test_an_k8s_kms_plugins_variable_that_is_overridden_may_hold_anything() -> None:
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
    assert first.startswith("kms.socket: the path of a Unix socket must have 107 bytes at most, found ")
    assert first.endswith("(the default)")
