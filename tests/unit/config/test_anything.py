"""Whatever a file or a variable holds, it loads or is refused in words."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.config import sources
from kmsd.config.sources import ConfigError, load
from kmsd.config.values import LEAVES, SECTIONS


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


@given(st.sampled_from([*sources.ENVIRON, *sources.K8S_KMS_PLUGIN_ENVIRON]), st.binary(max_size=20))
def test_whatever_a_variable_holds_it_loads_or_is_refused_in_words(variable: str, content: bytes) -> None:
    text = os.fsdecode(content.replace(b"\0", b""))
    message = refusal(lambda: load({}, environ={variable: text}))
    assert message is None or message.startswith(f"{variable}: ")
