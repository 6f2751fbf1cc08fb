"""The image: its Containerfile is looked at by hadolint, and what its last stage runs is run in a Debian of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.packages.root import Debian
from tests.pages import ROOT

FILE = ROOT / "k8s" / "Containerfile"


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage, a word and what follows it; those before the first stage are in none."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, " ".join(rest.split())))
    return found


def check_image(folder: Path, step: Callable[[str], None]) -> None:
    """Raise AssertionError at the first thing that is not as it should be. step: told what has been shown."""
    subprocess.run(["sh", "scripts/hadolint.sh"], cwd=ROOT, check=True)
    step("hadolint finds no fault in the Containerfile")
    debian = Debian(folder / "image")
    debian.unpack()
    build, last = stages()
    work = ""
    for word, rest in build:
        if word == "RUN":
            debian.run("sh", "-euc", f"cd {work or '/'}; {rest}")
        elif word == "WORKDIR":
            work = rest
            (debian.folder / work.lstrip("/")).mkdir(parents=True)
        elif word == "COPY":
            *names, _ = rest.split()
            for name in names:
                copy(ROOT / name, debian.folder / work.lstrip("/") / name)
    step("the commands of the first stage build /opt/kmsd")
    image = Debian(folder / "last")
    image.unpack()
    shutil.copytree(debian.folder / "opt/kmsd", image.folder / "opt/kmsd", symlinks=True)
    for word, rest in last:
        if word == "RUN":
            image.run("sh", "-euc", rest)
    environment = {"PATH": dict(each.split("=", 1) for w, each in last if w == "ENV")["PATH"], "HOME": "/"}
    (user,) = [rest.partition(":")[0] for word, rest in last if word == "USER"]
    assert user.isdecimal()
    assert user != "0"
    said = image.run("kmsd", "--version", user=user, environment=environment)
    image.run("/k8s-kms-plugin", "--version", user=user, environment=environment)
    image.run("kmsctl", "--help", user=user, environment=environment)
    image.run("kmstui", "--help", user=user, environment=environment)
    step(f"the commands of the last stage make what runs as {user}: {said.strip()}")
    for compiler in ("gcc", "cc", "c++", "ld", "make", "pip", "pip3"):
        assert "absent" in image.run("sh", "-c", f"command -v {compiler} || echo absent", environment=environment)
    assert not list((image.folder / "var/lib/apt/lists").iterdir())
    step("there is no compiler and no pip in it")


def copy(source: Path, to: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, to)
