"""URIs of keys on tokens are read, or refused with a sentence that holds no PIN."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmsd.config.pkcs11_uri import TokenKeyUri, parse
from kmsd.config.sources import ConfigError, load
from tests.unit.config.written import write

MODULE = "module-path=/m.so"


def test_each_part_is_read() -> None:
    text = (
        "pkcs11:token=my%20node;manufacturer=M;model=T;serial=0a;slot-id=7;object=k%C3%A9y;id=%01k%ff;type=private"
        "?module-path=/usr/lib/m.so&pin-source=file:/run/pin"
    )
    assert parse(text) == TokenKeyUri(
        text, "/usr/lib/m.so", "auto", "my node", "M", "T", "0a", 7, "kéy", b"\x01k\xff", Path("/run/pin")
    )  # fmt: skip


def test_a_module_is_named_as_a_provider_and_a_pin_may_be_missing() -> None:
    found = parse("pkcs11:serial=1;id=%01?module-name=tpm2")
    assert (found.module, found.provider, found.pin_file, found.slot) == ("", "tpm2", None, None)
    assert found.where == "pkcs11:serial=1;id=%01"


@pytest.mark.parametrize("source", ["file:/run/pin", "file:///run/pin", "/run/pin", "file:/run/%70in"])
def test_the_pin_is_in_a_file(source: str) -> None:
    assert parse(f"pkcs11:token=a;object=b?{MODULE}&pin-source={source}").pin_file == Path("/run/pin")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/file", "must be a URI that begins with pkcs11:"),
        ("pkcs11:", "must name the token"),
        (f"pkcs11:object=b?{MODULE}", "must name the token"),
        (f"pkcs11:token=a?{MODULE}", "must name the key"),
        ("pkcs11:token=a;object=b", "must name the module"),
        (f"pkcs11:token=a;object=b?{MODULE}&module-name=tpm2", "must name the module"),
        ("pkcs11:token=a;object=b?module-path=m.so", "module-path must be absolute"),
        ("pkcs11:token=a;object=b?module-name=x", "module-name must be one of softhsm, tpm2"),
        (f"pkcs11:token=a;object=b?{MODULE}&pin-source=|/bin/pin", "pin-source must be file:"),
        (f"pkcs11:token=a;object=b?{MODULE}&pin-source=pin", "pin-source must be file:"),
        (f"pkcs11:token=a;object=b;type=cert?{MODULE}", "type must be private"),
        (f"pkcs11:token=a;object=b;library-version=3?{MODULE}", "'library-version' is no attribute that kmsd knows"),
        (f"pkcs11:token=a;object=b?{MODULE}&x-y=1", "'x-y' is no attribute that kmsd knows after the question mark"),
        (f"pkcs11:token=a;token=b;object=b?{MODULE}", "token is twice"),
        (f"pkcs11:token=;object=b?{MODULE}", "token has no value"),
        (f"pkcs11:token;object=b?{MODULE}", "token has no value"),
        (f"pkcs11:token=a b;object=b?{MODULE}", "a character that a URI has as %20"),
        (f"pkcs11:token=%zz;object=b?{MODULE}", "a character that a URI has as %20"),
        (f"pkcs11:token=%ff;object=b?{MODULE}", "is no UTF-8"),
        (f"pkcs11:token=a%0ab;object=b?{MODULE}", "must have printable characters"),
        (f"pkcs11:slot-id=x;object=b?{MODULE}", "slot-id must be a whole number"),
        (f"pkcs11:slot-id={'9' * 30};object=b?{MODULE}", "slot-id must be a whole number"),
        (f"pkcs11:token=a;id={'%01' * 300}?{MODULE}", "id must have 255 bytes at most"),
        (f"pkcs11:token=a;object=b?{MODULE}&pin-value=4711", "a PIN in the URI (pin-value) is not taken"),
        (f"pkcs11:token=a;object=b;PIN-VALUE=4711?{MODULE}", "a PIN in the URI (pin-value) is not taken"),
        (f"pkcs11:token=a;object=b?{MODULE}&pin%2Dvalue=4711", "a PIN in the URI (pin-value) is not taken"),
    ],
)
def test_nonsense_is_refused_from_flags_and_files_without_the_pin(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse(text)
    if not text.startswith("pkcs11:"):
        return
    file = write(tmp_path / "kmsd.toml", f'[proxy]\ntls_key = "{text}"\n'.replace("%0a", "%0A"))
    flags: list[dict[str, tuple[str, object]]] = [{"proxy.tls_key": ("--tls-key", text)}, {}, {}]
    for given, config, environ in zip(flags, (None, file, None), ({}, {}, {"KMSD_PROXY__TLS_KEY": text}), strict=True):
        with pytest.raises(ConfigError) as wrong:
            load(given, config_file=config, environ=environ)
        assert told in wrong.value.message
        assert "4711" not in wrong.value.message + wrong.value.hint


@pytest.mark.parametrize("setting", ["server.tls_key", "est.tls_key"])
def test_only_a_proxy_has_its_key_on_a_token(setting: str) -> None:
    text = f"pkcs11:token=a;object=b?{MODULE}&pin-value=4711"
    with pytest.raises(ConfigError, match="a key on a token is for kmsd proxy alone") as wrong:
        load({setting: ("--tls-key", text)}, environ={})
    assert "4711" not in wrong.value.message
