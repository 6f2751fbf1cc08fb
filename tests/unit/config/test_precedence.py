"""Each value comes from the highest level that gives it: flag, environment, file, default."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd.config import sources
from kmsd.config.settings import Settings
from kmsd.config.sources import ConfigError, Origin, load
from kmsd.config.values import LEAVES, SECTIONS
from tests.unit.config.written import PIN, value, write


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


@pytest.mark.parametrize("variable", sources.ENVIRON)
def test_every_setting_has_a_variable_of_its_own(variable: str) -> None:
    key = sources.ENVIRON[variable]
    texts: dict[str, tuple[str, object]] = {
        "kms.socket": ("/s/kms.sock", Path("/s/kms.sock")),
        "kms.mode": ("0660", "0660"),
        "kms.transport": ("h2corn", "h2corn"),
        "kms.on_hsm_loss": ("fail-closed", "fail-closed"),
        "admin.socket": ("/s/admin.sock", Path("/s/admin.sock")),
        "token.provider": ("softhsm", "softhsm"),
        "token.pin_file": ("/p", Path("/p")),
        "jwt.socket": ("/s/jwt.sock", Path("/s/jwt.sock")),
        "jwt.mode": ("0660", "0660"),
        "jwt.issuers": ("https://a.test, b", ("https://a.test", "b")),
        "jwt.max_token_expiration": ("3600", 3600.0),
        "keys.algorithm": ("aes-gcm", "aes-gcm"),
        "keys.write_format": ("k8s-kms-plugin", "k8s-kms-plugin"),
        "keys.auto_create": ("true", True),
        "keys.trust_public_objects": (" kek-1, 0x01,", ("kek-1", "0x01")),
        "keys.adopt": ("never", "never"),
        "server.enabled": ("true", True),
        "server.tls_ca": ("/ca", Path("/ca")),
        "server.tls_certificate": ("/c", Path("/c")),
        "server.tls_key": ("/k", Path("/k")),
        "server.tls_revoked": ("/r", Path("/r")),
        "proxy.upstreams": ("a.test:1, [::1]:2", ("a.test:1", "[::1]:2")),
        "proxy.prefer": ("spread", "spread"),
        "proxy.est_server": ("https://k.test:9443/a", "https://k.test:9443/a"),
        "proxy.tls_ca": ("/ca", Path("/ca")),
        "proxy.tls_certificate": ("/crt", Path("/crt")),
        "proxy.tls_key": ("/k", Path("/k")),
        "store.url": ("postgresql+psycopg://u@h/db", "postgresql+psycopg://u@h/db"),
        "store.password_file": ("/p", Path("/p")),
        "observe.listen": ("[::1]:9443", "[::1]:9443"),
        "observe.allow_remote": ("true", True),
        "est.listen": ("[::1]:9443", "[::1]:9443"),
        "ca.enabled": ("true", True),
        "ca.lifetime": ("86400", 86400.0),
        "ca.key_types": ("ec-p256", ("ec-p256",)),
        "ca.names": ("DNS:{node}.{tenant}", ("DNS:{node}.{tenant}",)),
        "ca.crl_lifetime": ("3600", 3600.0),
        "ca.crl_url": ("http://ca.test/crl", "http://ca.test/crl"),
        "est.names": ("k.test, ::1", ("k.test", "::1")),
        "est.approval": ("manual", "manual"),
        "est.tls_certificate": ("/crt", Path("/crt")),
        "est.tls_key": ("/k", Path("/k")),
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
def test_the_k8s_kms_plugins_variables_work_below_ours_and_empty_ones_count_as_unset(
    variable: str, text: str, key: str, expected: object
) -> None:
    loaded = load({}, environ={variable: text})
    assert (value(loaded.settings, key), loaded.origins[key]) == (expected, Origin("environment", variable))
    empty = load({}, environ={variable: ""})
    assert (value(empty.settings, key), empty.origins[key].kind) == (value(Settings(), key), "default")
    ours = "KMSD_" + key.replace(".", "__").upper()
    both = load({}, environ={variable: text, ours: "/7" if LEAVES[key].kind is Path else "7"})
    assert both.origins[key] == Origin("environment", ours)


def test_the_k8s_kms_plugins_variables_beat_the_file(tmp_path: Path) -> None:
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
        f"--p11-pin-file takes the place of token.pin from {file}:2",
        f"--p11-label takes the place of token.slot from {file}:3",
    )


def test_slot_and_label_of_one_level_stand_together() -> None:
    token = load({}, environ={"P11_TOKEN": "label", "P11_SLOT": "4"}).settings.token
    assert (token.label, token.slot) == ("label", 4)
