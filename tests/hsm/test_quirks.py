"""The table of vendors: which row counts, and that its statements hold on the tokens that are at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kmsd.hsm.vendors import quirks
from tests import opencryptoki, p11kit, tpm
from tests.hsm import asking
from tests.tokens import MODULE, PIN, make_token


@pytest.mark.parametrize(
    ("provider", "path", "manufacturer", "name"),
    [
        ("auto", "/usr/lib/softhsm/libsofthsm2.so", "", "softhsm"),
        ("auto", "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1.9.0", "IBM", "tpm2"),
        ("auto", "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0.0.0", "IBM Corp.", "opencryptoki"),
        ("auto", "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "", "p11-kit"),
        ("auto", "/usr/safenet/lunaclient/lib/libCryptoki2_64.so", "SafeNet", "luna"),
        ("auto", "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so.5", "", "cloudhsm"),
        ("auto", "/opt/vendor/libhsm.so", "", "generic"),
        ("auto", "/opt/vendor/libhsm.so", "SoftHSM project", "softhsm"),
        ("p11", "/usr/lib/softhsm/libsofthsm2.so", "", "softhsm"),
        ("dpod", "/opt/vendor/libhsm.so", "", "luna"),
        ("luna", "/usr/lib/softhsm/libsofthsm2.so", "SoftHSM project", "luna"),
        ("generic", "/usr/lib/softhsm/libsofthsm2.so", "SoftHSM project", "generic"),
    ],
)
def test_the_operators_word_counts_then_the_module_then_the_token(
    provider: str, path: str, manufacturer: str, name: str
) -> None:
    assert quirks.choose(provider, path, manufacturer).name == name


def test_an_unknown_provider_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown provider 'lunar': one of auto, .*generic.*luna.*tpm2"):
        quirks.choose("lunar", "/any.so")


def test_a_relay_takes_over_what_the_token_behind_it_brings() -> None:
    path = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"
    luna = quirks.choose("auto", path, "SafeNet")
    assert (luna.name, luna.gcm_iv, luna.cbc_from_ecb) == ("p11-kit", "appended", True)
    assert quirks.choose("auto", path, "nobody") == quirks.P11KIT
    behind = quirks.choose("p11-kit", path, "Mozilla Foundation")
    assert behind.same_id_replaces
    assert behind.generates_through == ""


def test_every_row_has_evidence_and_says_where_the_module_comes_from() -> None:
    for row in (*quirks.TABLE, quirks.GENERIC):
        assert row.evidence, row.name
        assert all(
            isinstance(getattr(row, field.name), (bool, int, str, tuple, type(None)))
            for field in dataclasses.fields(row)
        )
    for row in quirks.TABLE:
        if row is not quirks.NSS:
            assert row.paths, row.name
            assert row.install, row.name


def test_every_name_that_the_option_takes_has_a_row() -> None:
    assert set(quirks.Provider.__args__) - {"auto"} == {row.name for row in (*quirks.TABLE, quirks.GENERIC)}  # type: ignore[attr-defined]


def test_modules_are_found_where_this_machine_has_them() -> None:
    installed = {"softhsm": MODULE, "tpm2": tpm.MODULE, "p11-kit": p11kit.MODULE, "opencryptoki": opencryptoki.MODULE}
    for provider, path in installed.items():
        found = quirks.find_module(provider)
        assert found is not None, provider
        assert Path(found).resolve() == Path(path).resolve()
    assert quirks.find_module("generic") is None
    assert quirks.find_module("dpod", exists=lambda path: "safenet" in path) == (
        "/usr/safenet/lunaclient/lib/libCryptoki2_64.so"
    )


@pytest.mark.parametrize("kind", ["softhsm", "p11-kit", "opencryptoki"])
def test_changes_by_others_are_seen_when_the_table_says(kind: str, short_tmp: Path) -> None:
    """A key is made, another relabelled and a third destroyed by another process while this one is logged in."""
    soft = make_token(short_tmp / "hsm") if kind == "softhsm" else None
    p11 = p11kit.make_p11kit(short_tmp / "hsm") if kind == "p11-kit" else None
    ock = opencryptoki.make_opencryptoki(short_tmp / "hsm") if kind == "opencryptoki" else None
    token = soft or p11 or ock
    assert token is not None
    module = {"softhsm": MODULE, "p11-kit": p11kit.MODULE, "opencryptoki": opencryptoki.MODULE}[kind]
    pin = opencryptoki.PIN if ock else PIN
    try:
        for label in ("moved", "gone"):
            token.import_aes(label, bytes(range(32)), label.encode())
        steps = [{"do": "list"}, {"do": "wait"}, {"do": "list"}]
        enter = ock.enter if ock else ()
        with asking.holding(module, token.label, pin, token.environment, *steps, enter=enter) as held:
            token.import_aes("made", bytes(range(32)), b"made")
            token.relabel("moved", "moved@then")
            token.destroy("gone")
        before, _, after = held.answers
    finally:
        for running in (p11, ock):
            if running is not None:
                running.stop()
    assert sorted(key["label"] for key in before) == ["gone", "moved"]
    seen = sorted(key["label"] for key in after) == ["made", "moved@then"]
    assert seen == (quirks.choose(kind, module).foreign_changes == "at once")
