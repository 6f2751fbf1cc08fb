"""`kmsd dev`: a token of its own, made once, and nothing touched outside its directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import grpc
import pytest
import yaml

from kmsd.api.kms.v2 import api_pb2 as v2
from tests import forkserver
from tests.daemons import KMSCTL, KMSD, foreign_lines, wait_for
from tests.raw import unary
from tests.tokens import clean_environment

pytestmark = pytest.mark.processes


@pytest.fixture
def home(short_tmp: Path) -> Path:
    path = short_tmp / "h"
    path.mkdir()
    return path


def environment(home: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in clean_environment().items() if not name.startswith("XDG_")},
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
    }


class Dev:
    """A running `kmsd dev` in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "data" / "kmsd" / "dev"
        self.socket = self.folder / "kms" / "kms.sock"
        self.admin = self.folder / "admin" / "admin.sock"
        self.environment = environment(home)
        self.process = subprocess.Popen(
            [KMSD, "dev", "--log-format=json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: self.process.poll() is not None or self.kmsctl("health").returncode == 0)

    def kmsctl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return forkserver.run(
            [KMSCTL, *arguments],
            env={**self.environment, "KMSCTL_TARGET": str(self.admin), "KMSCTL_SOCKET": str(self.socket)},
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        assert not foreign_lines(err.encode())
        return self.process.returncode, out, err


def test_it_serves_both_apis_and_says_what_to_type_next(home: Path) -> None:
    dev = Dev(home)
    for api in ("v2", "v1beta1"):
        stored = dev.kmsctl("encrypt", f"--api={api}", "-", given="a secret")
        assert dev.kmsctl("decrypt", f"--api={api}", "-", given=stored.stdout).stdout == "a secret"
    code, out, _ = dev.stop()
    assert code == 0
    assert f"unix://{dev.socket}" in out
    assert "kmsctl" in out
    assert "kmstui" in out


def test_a_second_run_keeps_the_token_and_the_key(home: Path) -> None:
    dev = Dev(home)
    first = dev.kmsctl("keys", "list", "-o", "name").stdout, dev.kmsctl("status", "-o", "json").stdout
    stored = dev.kmsctl("encrypt", "-", given="kept").stdout
    dev.stop()
    dev = Dev(home)
    assert dev.kmsctl("keys", "list", "-o", "name").stdout == first[0]
    write_key = json.loads(dev.kmsctl("status", "-o", "json").stdout)["write_key"]
    assert write_key["key_id"] == json.loads(first[1])["write_key"]["key_id"]
    assert dev.kmsctl("decrypt", "-", given=stored).stdout == "kept"
    dev.stop()


def test_everything_lies_in_its_directory_and_is_private(home: Path) -> None:
    dev = Dev(home)
    assert [path.relative_to(home) for path in sorted(home.iterdir())] == [Path("data")]
    assert {path.name for path in (home / "data").iterdir()} == {"kmsd"}
    assert dev.folder.stat().st_mode & 0o777 == 0o700
    for secret in ("pin", "so-pin"):
        assert (dev.folder / secret).stat().st_mode & 0o777 == 0o600
    pin = (dev.folder / "pin").read_text().strip()
    assert pin not in " ".join(_command_lines())
    _, out, err = dev.stop()
    assert pin not in out + err


def _command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
    return lines


def test_its_encryption_configurations_name_its_socket(home: Path) -> None:
    dev = Dev(home)
    for name, version in (("encryption-config.yaml", "v2"), ("encryption-config-v1beta1.yaml", "v1")):
        document = yaml.safe_load((dev.folder / name).read_text())
        kms = document["resources"][0]["providers"][0]["kms"]
        assert (kms["apiVersion"], kms["endpoint"]) == (version, f"unix://{dev.socket}")
    dev.stop()


def test_a_second_one_beside_the_first_refuses(home: Path) -> None:
    first = Dev(home)
    second = subprocess.run(
        [KMSD, "dev"], env=environment(home), capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert "another kmsd serves on" in second.stderr
    with grpc.insecure_channel(f"unix:{first.socket}") as channel:
        answer = v2.StatusResponse.FromString(unary(channel, "/v2.KeyManagementService/Status")(b"", timeout=5))
    assert answer.healthz == "ok"
    first.stop()


def test_an_interrupted_first_run_is_finished_by_the_next(home: Path) -> None:
    folder = home / "data" / "kmsd" / "dev"
    (folder / "tokens").mkdir(parents=True)
    # As after an interruption between the two steps: the token has a label and an SO PIN, and no user PIN yet.
    descriptor = os.open(folder / "so-pin", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("begun-so-pin\n")
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    begun = subprocess.run(
        [
            os.fspath(Path(KMSD).with_name("python")),
            "-c",
            "from kmsd.hsm.host import module as m\n"
            "it = m.load(m.module_path('softhsm', ''))\n"
            "it.cryptoki.init_token(it.slots()[0].slot_id, 'begun-so-pin', 'kmsd-dev')\n",
        ],
        env={**environment(home), "SOFTHSM2_CONF": str(conf)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert begun.returncode == 0, begun.stderr
    dev = Dev(home)
    assert dev.kmsctl("health").stdout == "ok\n"
    dev.stop()
