"""Who loads what, seen from outside: in a fresh process, by its sys.modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemons import Kmsd
from tests.tokens import make_token

pytestmark = pytest.mark.processes

HEAVY = {"grpc", "google.protobuf", "textual", "pkcs11", "uvloop", "structlog", "yaml", "kmstui"}
FORMATS = {"kmsd.formats", *(f"kmsd.formats.{name}" for name in ("ciphertext", "jwe", "k8s_kms_plugin", "keyid"))}
"""Pure modules that tell a ciphertext's key."""


def _loaded(program: str) -> set[str]:
    """The modules that are loaded when `program`, Python source, has run."""
    report = f"import sys\n{program}\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help"],
        ["keys", "--help"],
        ["keygen", "--help"],
        ["etcd", "scan", "--help"],
        ["migrate", "plan", "--help"],
        ["--version"],
        ["help", "exit-codes"],
        ["keygen"],
    ],
    ids=" ".join,
)
def test_kmsctl_help_loads_neither_grpc_nor_textual(argv: list[str]) -> None:
    loaded = _loaded(f"from kmsctl.app import main\nmain({argv!r})")
    assert "kmsctl.app" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("argv", [["--help"], ["__complete", "zsh", "kmsctl", "ke"]], ids=" ".join)
def test_listing_the_commands_of_kmsctl_loads_none_of_them(argv: list[str]) -> None:
    loaded = _loaded(f"from kmsctl.app import main\nmain({argv!r})")
    assert {each for each in loaded if each.startswith("kmsctl.commands")} == {
        "kmsctl.commands",
        "kmsctl.commands.completion",
    }
    assert not {each for each in loaded if each.startswith(("kmsd.client.model", "kmsd.client.clientconfig"))}


def test_a_command_loads_itself_alone_and_nothing_to_convert_plain_values_with() -> None:
    line = ["status", "--target", "/nowhere.sock", "-o", "json"]
    loaded = _loaded(f"from kmsctl.app import main\nmain({line!r})")
    assert {each for each in loaded if each.startswith("kmsctl.commands.")} == {
        "kmsctl.commands.completion",
        "kmsctl.commands.status",
    }
    assert "grpc" in loaded
    assert not loaded & {"pydantic", "rich", "yaml", "textual"}
    # What a target by TLS needs is for these alone.
    assert not loaded & {"cryptography", "kmsd.tlsfiles", "kmsd.client.handshake"}


def test_importing_the_client_loads_no_grpc_and_of_its_data_what_is_used() -> None:
    used = _loaded("from kmsd.client import Key, ServingState, connect")
    assert {"kmsd.client.model.keys", "kmsd.client.model.status"} <= used
    assert "kmsd.client.model.tokens" not in used
    loaded = _loaded("import kmsd.client\nfor name in kmsd.client.__all__:\n    getattr(kmsd.client, name)")
    assert {"kmsd.client.model.tokens", "kmsd.client.model.scan"} <= loaded
    assert not loaded & (HEAVY | {"typer", "pydantic"})


def test_the_client_knows_nothing_of_the_daemon() -> None:
    loaded = _loaded("import kmsd.client.admin, kmsd.client.kms")
    assert "grpc" in loaded
    ours = {name for name in loaded if name.split(".")[0] == "kmsd"}
    assert {name for name in ours if not name.startswith(("kmsd.client", "kmsd.api"))} == {"kmsd", "kmsd.metadata"}
    assert not loaded & (HEAVY - {"grpc", "google.protobuf"})


def test_kmsctl_knows_nothing_of_kmsd_but_its_client_and_where_etcd_is() -> None:
    commands = "def look(group):\n    [look(each) for each in getattr(group, 'commands', {}).values()]"
    loaded = _loaded(f"from kmsctl.app import program\n{commands}\nlook(program())")
    ours = {name for name in loaded if name.split(".")[0] == "kmsd"}
    assert {name for name in ours if not name.startswith("kmsd.client")} == {
        "kmsd",
        "kmsd.paths",
        *FORMATS,
        "kmsd.near",
        "kmsd.etcd",
        "kmsd.etcd.endpoints",
    }
    assert "ssl" not in loaded


def test_what_reads_etcd_knows_nothing_of_the_daemon() -> None:
    loaded = _loaded("import kmsd.etcd.client, kmsd.etcd.scan, kmsd.client.report")
    assert "grpc" in loaded
    ours = {name for name in loaded if name.split(".")[0] in ("kmsd", "kmsctl", "kmstui")}
    assert {name for name in ours if not name.startswith(("kmsd.client", "kmsd.etcd", "kmsd.api"))} == {
        "kmsd",
        *FORMATS,
    }
    assert not loaded & (HEAVY - {"grpc", "google.protobuf"})


@pytest.mark.parametrize("module", ["kmsd.config.settings", "kmsd.errors", "kmsd.paths", "kmsd.client.model"])
def test_the_base_modules_load_neither_grpc_nor_pkcs11(module: str) -> None:
    assert not _loaded(f"import {module}") & HEAVY


@pytest.mark.parametrize("module", ["formats.jwe", "formats.keyid", "service.api", "observe.histogram"])
def test_what_is_pure_loads_nothing_of_ours(module: str) -> None:
    ours = {name for name in _loaded(f"import kmsd.{module}") if name.split(".")[0] == "kmsd"}
    assert ours == {"kmsd", f"kmsd.{module.split('.')[0]}", f"kmsd.{module}"}


def test_the_service_knows_no_protobuf() -> None:
    loaded = _loaded("import kmsd.service.local, kmsd.keys.keyring")
    assert "kmsd.service.local" in loaded
    assert not loaded & {"grpc", "google.protobuf", "kmsd.api"}


def test_the_kms_apis_load_nothing_of_a_token() -> None:
    loaded = _loaded("import kmsd.apis.kms_v2, kmsd.apis.kms_v1beta1")
    assert "kmsd.service.api" in loaded
    below = ("kmsd.hsm", "kmsd.crypto", "kmsd.keys", "kmsd.service.local", "pkcs11", "grpc")
    assert not {name for name in loaded if name.startswith(below)}


def test_the_tui_knows_nothing_of_kmsd_but_its_client_and_nothing_of_kmsctl() -> None:
    loaded = _loaded("import kmstui.app")
    ours = {name for name in loaded if name.split(".")[0] in ("kmsd", "kmsctl")}
    assert {name for name in ours if not name.startswith("kmsd.client")} == {
        "kmsd",
        "kmsd.formats",
        "kmsd.formats.keyid",
        "kmsd.paths",
    }
    assert not loaded & {"pkcs11", "structlog", "grpc"}


def test_what_rsa_keys_need_is_not_loaded_before_there_is_one() -> None:
    """cryptography takes 8 MB of memory, and a kmsd with AES keys has no use for it."""
    loaded = _loaded("import kmsd.crypto.oaep, kmsd.crypto.cbc_hmac, kmsd.crypto.legacy_cbc")
    assert "kmsd.crypto.oaep" in loaded
    assert "cryptography" not in loaded


def test_messages_load_nothing_of_protobuf_in_python_until_it_is_used() -> None:
    pure = "google.protobuf.text_format"
    assert pure not in _loaded("import kmsd.api.admin.v1.admin_pb2")
    use = "from google.protobuf.internal import python_message; assert python_message.GeneratedProtocolMessageType"
    assert pure in _loaded(f"import kmsd.api.admin.v1.admin_pb2; {use}")


def test_a_kmsd_that_serves_loads_nothing_for_what_few_ask(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    program = (
        "import os, pathlib, sys; from kmsd.cli import main; end = os._exit\n"
        f"os._exit = lambda code: (pathlib.Path({str(loaded)!r}).write_text(' '.join(sys.modules)), end(code))\n"
        "main()"
    )
    command = (sys.executable, "-c", program, "serve")
    with Kmsd(tmp_path, make_token(tmp_path / "token"), ("--auto-create",), command=command) as kmsd:
        kmsd.wait_ok()
        assert kmsd.process is not None
        for pid in (kmsd.process.pid, *kmsd.hosts()):
            assert "\nTHP_enabled:\t1" not in Path(f"/proc/{pid}/status").read_text()
    modules = set(loaded.read_text().split())
    assert {"kmsd.daemon.process", "kmsd.hsm.host.session", "uvloop"} <= modules
    assert not modules & {
        "pkcs11",
        "asn1crypto",
        "rich",
        "google.protobuf.text_format",
        "kmsd.hsm.vendors.ptool_runner",
    }


def test_a_host_process_loads_nothing_of_serving_and_kmsd_no_host() -> None:
    host = _loaded("import kmsd.hsm.host.life")
    assert "kmsd.crypto.gcm" in host
    assert not host & {"asyncio", "ssl", "logging", "tempfile", "pydantic", "kmsd.state"}
    assert not host & (HEAVY | {"cryptography", "kmsd.hsm.connection", "kmsd.hsm.hosting", "kmsd.service", "kmsd.keys"})
    daemon = _loaded("import kmsd.daemon.assembly")
    assert "kmsd.hsm.hosting" in daemon
    assert not daemon & {"kmsd.hsm.host.life", "kmsd.hsm.host.workers"}


def test_a_kmsd_without_enrolment_loads_neither_a_database_nor_a_web_server() -> None:
    loaded = _loaded("import kmsd.daemon.assembly, kmsd.daemon.proxy, kmsd.apis.admin_table, kmsd.cli")
    assert "kmsd.daemon.assembly" in loaded
    assert not loaded & {"sqlalchemy", "alembic", "psycopg", "aiohttp", "kmsd.store", "kmsd.est", "kmsd.daemon.renewal"}
    assert not loaded & {"prometheus_client", "kmsd.metrics.exposition", "kmsd.metrics.listener"}


def test_a_proxy_whose_key_is_in_a_file_loads_nothing_of_a_token() -> None:
    loaded = _loaded("import kmsd.cli, kmsd.daemon.process, kmsd.daemon.proxy")
    assert "kmsd.service.upstream" in loaded
    of_tokens = ("kmsd.hsm", "kmsd.crypto", "kmsd.keys", "kmsd.service.signer", "kmsd.daemon.proxy_token", "pkcs11")
    assert not {name for name in loaded if name.startswith(of_tokens)}


def test_kmsctl_enrols_without_grpc_and_without_a_database(tmp_path: Path) -> None:
    line = ["enrol", "--server", "https://127.0.0.1:1", "--out", str(tmp_path / "tls")]
    loaded = _loaded(f"from kmsctl.app import main\nmain({line!r})")
    assert "kmsd.est.client" in loaded
    assert not loaded & {"grpc", "sqlalchemy", "aiohttp", "kmsd.est.server", "kmsd.store"}


def test_a_kmsd_without_a_ca_loads_nothing_of_one() -> None:
    loaded = _loaded("import kmsd.daemon.assembly, kmsd.daemon.process, kmsd.hsm.host.life")
    mine = {
        name for name in loaded if name.startswith(("kmsd.ca", "kmsd.store", "kmsd.crypto.signing", "kmsd.daemon.ca"))
    }
    assert not mine
    assert not loaded & {"cryptography", "sqlalchemy", "kmsd.apis.admin_ca"}


def test_a_kmsd_that_signs_no_service_account_tokens_loads_nothing_for_that() -> None:
    loaded = _loaded("import kmsd.daemon.assembly, kmsd.daemon.process, kmsd.daemon.proxy, kmsd.hsm.host.life")
    mine = {name for name in loaded if name.startswith(("kmsd.jwt", "kmsd.api.externaljwt", "kmsd.daemon.jwt"))}
    assert not mine
    assert not loaded & {"kmsd.apis.admin_jwt", "kmsd.apis.jwt_v1"}


def test_a_proxy_that_has_tokens_signed_loads_no_token() -> None:
    loaded = _loaded("import kmsd.daemon.proxy, kmsd.jwt.remote, kmsd.apis.jwt_v1")
    assert not {name for name in loaded if name.startswith(("kmsd.hsm", "kmsd.keys", "kmsd.crypto", "pkcs11"))}
