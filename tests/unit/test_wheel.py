"""What is installed: one wheel with the three packages and their programs, and nothing else."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kmsctl.kubernetes import manifests

pytestmark = pytest.mark.processes


def test_one_wheel_holds_the_three_packages_and_programs(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        assert {name.split("/")[0] for name in names} == {"kmsd", "kmsctl", "kmstui", info}
        assert f"{info}/licenses/LICENSE" in names
        assert "kmsd/api/kms/v2/api_pb2.py" in names
        assert "kmstui/app.tcss" in names
        shipped = {name.removeprefix("kmsctl/k8s/") for name in names if name.startswith("kmsctl/k8s/")}
        assert shipped >= {manifests.STANDALONE, manifests.PROXY, *manifests.ENCRYPTION_CONFIG.values()}
        assert shipped >= {f"{manifests.KEY_MANAGER}/{part}.yaml" for part in manifests.KEY_MANAGER_PARTS}
        for name in shipped:
            assert archive.read(f"kmsctl/k8s/{name}") == (root / "k8s" / name).read_bytes()
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
        assert set(scripts["console_scripts"]) == {"kmsd", "k8s-kms-plugin", "kmsctl", "kmstui"}
        assert "Requires-Python: >=3.11" in archive.read(f"{info}/METADATA").decode()


def test_the_same_sources_make_the_same_wheel(tmp_path: Path) -> None:
    made: list[list[bytes]] = []
    for name in ("one", "two"):
        argv = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / name)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TZ": f"UTC{len(name) + len(made)}"}
        root = Path(__file__).parents[2]
        subprocess.run(argv, cwd=root, env=environment, capture_output=True, timeout=100, check=True)
        made.append([path.read_bytes() for path in (tmp_path / name).iterdir()])
    assert len(made[0]) == 1
    assert made[0] == made[1]
