"""A stored value is found in whatever etcdctl and the usual programs for bytes print of it: the real programs."""

from __future__ import annotations

import subprocess

import pytest

from kmsd.client import printed
from tests.etcd import values
from tests.etcd.server import Server

KEY = "/registry/secrets/default/secret1"
SEALED = bytes(range(256)) + bytes(100) + b'"\\\n\xe2\x82\xac end'
"""Every byte, zeros that a dump leaves out, and what Go quotes in its own way."""
FORMS = (
    "get KEY --print-value-only",
    "get KEY",
    "get KEY --hex",
    "get KEY --print-value-only --hex",
    "get KEY -w json",
    "get KEY -w fields",
    "get KEY -w protobuf",
    "get KEY | hexdump -C",
    "get KEY --print-value-only | hexdump -C",
    "get KEY --print-value-only | xxd",
    "get KEY | xxd",
    "get KEY --print-value-only | xxd -p",
    "get KEY --print-value-only | od -A x -t x1",
    "get KEY --print-value-only | od -t x1",
    "get KEY --print-value-only | od -v -A n -t x1",
    "get KEY --print-value-only | base64",
    "get KEY | base64 -w 0",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_value_is_found_in_every_form(etcd: Server, form: str, version: str) -> None:
    value = values.v2("k", sealed=SEALED) if version == "v2" else values.v1(values.native(), sealed=SEALED)
    etcd.put({KEY: value})
    found = printed.find(_printed(etcd, form))
    assert found.recognised
    assert found.others == 0
    # In v1 nothing tells the value from the line end that etcdctl puts behind it.
    assert found.data.removeprefix(value) in ((b"", b"\n") if version == "v1" else (b"",))


@pytest.mark.parametrize("form", [f"get KEY --prefix{how}" for how in ("", " -w json", " -w fields", " -w protobuf")])
def test_of_several_values_the_first_is_taken_whole(etcd: Server, form: str) -> None:
    etcd.put({KEY: values.v2("one", sealed=SEALED), f"{KEY}/2": values.v2("two"), f"{KEY}/3": values.v1(b"x")})
    found = printed.find(_printed(etcd, form))
    assert (found.data, found.others) == (values.v2("one", sealed=SEALED), 2)


def _printed(etcd: Server, form: str) -> bytes:
    command = f"ETCDCTL_API=3 etcdctl --endpoints={etcd.url} {form.replace('KEY', KEY)}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    return done.stdout
