"""What the Debian package and the image are made of; `make packages-test` makes them and uses them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kmsd import __version__
from tests.packages.image import stages

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "packaging" / "debian"
STATE = set(re.findall(r'"([a-z-]+\.json)"', (ROOT / "kmsd" / "state.py").read_text()))
KEPT = ("tokens/5c1f/token.object", "tpm2/tpm2_pkcs11.sqlite3", "audit.jsonl", "ca.pem", "est.key", "store.sqlite")


@pytest.mark.parametrize("script", ["build.sh", "postinst", "prerm", "postrm"])
def test_a_script_of_the_package_is_one_that_sh_reads(script: str) -> None:
    assert subprocess.run(["sh", "-n", DEBIAN / script], capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.parametrize("action", ["remove", "upgrade", "purge"])
def test_what_a_key_hangs_on_outlives_the_package(tmp_path: Path, action: str) -> None:
    """By the script itself, with its paths below a folder."""
    state, etc = tmp_path / "var/lib/kmsd", tmp_path / "etc/kmsd"
    kept = [*(state / name for name in KEPT), etc / "pin", etc / "tls/tls.key"]
    own = [state / name for name in sorted(STATE)]
    for each in (*kept, *own):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.touch()
    text = re.sub(r"(?<![\w/])/(var|etc|run)/", rf"{tmp_path}/\1/", (DEBIAN / "postrm").read_text())
    done = subprocess.run(["sh", "-ec", text, "postrm", action], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [each for each in kept if not each.exists()] == []
    assert [each for each in own if each.exists()] == ([] if action == "purge" else own)
    assert (f"{state} stays" in done.stdout) == (action == "purge")


def test_a_purge_names_the_files_that_kmsd_keeps_its_state_in() -> None:
    assert len(STATE) > 4
    assert set(re.findall(r"[a-z-]+\.json", (DEBIAN / "postrm").read_text())) == STATE


def test_the_lock_of_the_package_has_what_runs_and_not_what_builds(tmp_path: Path) -> None:
    sbom = tmp_path / "sbom.json"
    sbom.write_text('{"components": [{"name": "grpcio"}, {"name": "uvloop"}, {"name": "not-locked"}]}')
    argv: list[str | Path] = [".venv/bin/python", DEBIAN / "locked.py", "requirements/run.lock", sbom]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^[a-z].*==", said, re.MULTILINE) == ["grpcio==", "uvloop=="]
    for line in said.splitlines():
        assert line.startswith(("grpcio==", "uvloop==", "    --hash=sha256:")), line


def test_the_image_is_of_one_base_that_is_an_argument_and_runs_as_somebody_without_a_compiler() -> None:
    build, last = stages()
    assert (dict(build)["FROM"], dict(last)["FROM"]) == ("${BASE} AS build", "${BASE}")
    told = dict(last)
    user, _, group = told["USER"].partition(":")
    assert (user, group) == ("10001", "10001")
    assert told["HEALTHCHECK"] == "NONE"
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", told["LABEL"]))
    assert {"title", "description", "licenses", "version", "revision", "created"} <= labels
    assert ("ARG", f"VERSION={__version__}") in last
    run = " ".join(rest for word, rest in last if word == "RUN")
    (installed,) = re.findall(r"--no-install-recommends ([\w -]+) &&", run)
    assert installed.split() == ["python3", "softhsm2"]
    assert "amd64|arm64" in " ".join(rest for _, rest in build)


def test_every_unit_and_example_of_the_package_is_there() -> None:
    text = (DEBIAN / "build.sh").read_text()
    for path in re.findall(r"^put \d+ (?!\")([\w/.-]+) ", text, re.MULTILINE):
        assert (ROOT / path).is_file(), path
    (units,) = re.findall(r"for unit in ([\w -]+); do", text)
    assert {path.stem for path in (ROOT / "k8s/systemd").glob("*.service")} == set(units.split())
