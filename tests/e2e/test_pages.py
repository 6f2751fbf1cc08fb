"""What README and the pages say to type is typed as it stands there, on one machine with a kmsd, a token and an etcd.

Paths of the machine are moved below a folder. The kmsd is the one that README's own block starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import KMSCTL, foreign_lines, wait_for
from tests.e2e.etcd import Etcd
from tests.etcd import values
from tests.pages import PAGES, ROOT, Block, blocks
from tests.remote.machine import Machine
from tests.tokens import MODULE, PIN, SO_PIN, make_token

BLOCKS = [each for page in PAGES for each in blocks(page) if each.run == "tests/e2e/test_pages.py"]
START = next(each for each in BLOCKS if each.text.startswith("kmsd serve"))
MOVED = ("/etc/kmsd", "/var/lib/kmsd", "/etc/systemd/system", "/usr/share/bash-completion", "/usr/local/share/zsh")
STAND_INS = {
    "systemctl": "exit 0",
    "edit": f"echo {PIN} > $1",
    "softhsm2-util": f"exec /usr/bin/softhsm2-util --so-pin {SO_PIN} --pin {PIN} $@",
}
"""What a test cannot be: a machine with systemd, and an operator who types a PIN."""


class Site:
    """The machine that the pages are typed on."""

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        self.root, self.home, self.etcd = folder, folder / "home", etcd
        self.token = make_token(folder / "hsm", "prod")
        self.machine = Machine(folder, {path: str(folder / path.lstrip("/")) for path in MOVED})
        self.machine.moved["/usr/lib/softhsm/libsofthsm2.so"] = MODULE
        for path in (*MOVED[:3], "/usr/share/bash-completion/completions", "/usr/local/share/zsh/site-functions"):
            (folder / path.lstrip("/")).mkdir(parents=True)
        for path in ("bin", "home/.config/fish/completions"):
            (folder / path).mkdir(parents=True)
        shutil.copy(self.token.pin_file, folder / "etc/kmsd/pin")
        shutil.copytree(ROOT / "k8s", self.home / "k8s")
        for file in (each for each in (self.home / "k8s").rglob("*.*") if each.is_file()):
            file.write_text(self.machine.here(file.read_text()))
        for name, text in STAND_INS.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        admin, kms, state = folder / "a/admin.sock", folder / "k/kms.sock", folder / "state"
        self.environment = {
            **self.token.environment,
            "HOME": str(self.home),
            "PATH": f"{folder / 'bin'}:{Path(KMSCTL).parent}:{os.environ['PATH']}",
            "EDITOR": "edit",
            "KMSD_KMS__SOCKET": str(kms),
            "KMSD_ADMIN__SOCKET": str(admin),
            "KMSD_STATE__DIR": str(state),
            "KMSD_LOG__FORMAT": "json",
            "KMSCTL_SOCKET": str(kms),
            "KMSCTL_TARGET": f"unix://{admin}",
            "KMSCTL_CONFIG": "/dev/null",
            "ETCDCTL_ENDPOINTS": etcd.url,
            "ETCDCTL_API": "3",
        }

    def type(self, text: str) -> subprocess.CompletedProcess[str]:
        """Type what a block has, with its paths, keys and etcd replaced by those of this machine."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.machine.here(self._keys(text))],
            cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def _keys(self, text: str) -> str:
        """Return the text with the old key of the page replaced by one that is old here."""
        if not re.search(r"@\d{8}T", text):
            return text.replace(".venv/bin/", "")
        keys = json.loads(self.type("kmsctl keys list -o json").stdout)["keys"]
        old = next(each for each in keys if "@" in each["label"] and each["state"] == "readable")
        return re.sub(r"k8s-kek@\d{8}T\d{6}Z", old["label"], text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, shared_etcd: Etcd) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("k"), shared_etcd)
    log = site.root / "log"
    done = site.type(START.text.replace(" &\n", f" > {log} 2>&1 &\necho $! > kmsd.pid\n"))
    assert done.returncode == 0, done.stdout + log.read_text()
    # What some pages look at: a value of the write key in etcd, and the same in kine's table.
    key_id = json.loads(site.type("kmsctl status -o json").stdout)["write_key"]["key_id"]
    sealed = subprocess.run(
        [KMSCTL, "encrypt", "-"], input=b"seed", env=site.environment, capture_output=True, check=True
    ).stdout
    value = values.v2(key_id, sealed)
    shared_etcd.clear()
    shared_etcd.put("/registry/secrets/default/example", value)
    with sqlite3.connect(site.home / "state.db") as kine:
        kine.execute("create table kine (name text, value blob)")
        kine.execute("insert into kine values (?, ?)", ("/registry/secrets/default/example", value))
    kine.close()
    (site.home / "audit.jsonl").symlink_to(site.root / "state" / "audit.jsonl")
    yield site
    pid = int((site.home / "kmsd.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert not foreign_lines(log.read_bytes())


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a block with a `$` before it, and the lines that it prints there."""
    command, printed = "", list[str]()
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line[2:], []
        elif command.endswith(("\\", "|")):
            command += "\n" + line
        else:
            printed.append(line)
    yield command, printed


@pytest.mark.parametrize("block", [each for each in BLOCKS if each is not START], ids=str)
def test_what_a_page_says_to_type_does_what_it_says(site: Site, block: Block) -> None:
    if block.language == "sh":
        done = site.type(block.text)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    for command, printed in commands(block):
        done = site.type(command)
        if printed and printed[0].startswith("kmsctl: error: "):
            told = done.stderr.splitlines()[0]
            assert done.returncode in (1, 6)
            assert words(told) == words(printed[0])
            continue
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if printed and re.fullmatch(r"[A-Z][A-Z0-9 /]+", printed[0]):
            assert done.stdout.splitlines()[0].split() == printed[0].split()
        elif len(printed) == 1:
            assert done.stdout.splitlines() == printed


def words(line: str) -> list[str]:
    """Return the words of an error but for labels with a time in them, up to the colon before its reason."""
    return re.sub(r"'[^']*@[^']*'", "X", ": ".join(line.split(": ")[:3])).split()


def test_the_hash_of_an_audit_record_is_had_as_the_page_says(site: Site) -> None:
    (block,) = [each for each in blocks(ROOT / "docs" / "observability.md") if "sha256sum" in each.text]
    told = site.type(block.text).stdout.split()[0]
    first = (site.home / "audit.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["hash"] == told
    assert hashlib.sha256(re.sub(r',"hash":"[0-9a-f]*"}$', "}", first).encode()).hexdigest() == told


def test_a_page_that_says_something_else_is_noticed(site: Site) -> None:
    wrong = Block(ROOT / "README.md", 1, "console", "$ kmsctl keys list\nLABEL   COLOUR\n")
    with pytest.raises(AssertionError):
        test_what_a_page_says_to_type_does_what_it_says(site, wrong)
