"""The wheel: what is in it, and that its commands run outside of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

import leaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("leaml", "pipelines", "serve")


def run(*command: str | Path, folder: Path) -> str:
    """Standard output of a process that ends well, in another folder and without this checkout on its path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as building leaves files in the source."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__", "docs")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, folder / "source", folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The program of an environment that has the wheel, and of this one the other packages."""
    environment = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=wheel.parent)
    (site,) = environment.glob("lib/python3.*/site-packages")
    (site / "others.pth").write_text(
        "".join(f"{folder}\n" for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    )
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, folder=wheel.parent)
    return environment / "bin" / "leaml"


def test_it_holds_the_packages_with_all_their_files_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        (declared,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/entry_points.txt")]
    wanted = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert found == wanted
    for line in ("leaml = pipelines.cli:main", "serve = serve.command:serve", "leaml_die_with_parent = leaml.engine.lifetime:"):
        assert line in declared


def test_its_commands_run_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "--version", folder=tmp_path) == f"leaml {leaml.__version__}\n"
    shown = yaml.safe_load(run(installed, "config", "demo", "select.ratio=0.1", folder=tmp_path))
    assert (shown["storage"], shown["select"]["ratio"]) == (f"{tmp_path}/runs", 0.1)
    where = run(installed.with_name("python"), "-c", "import leaml, pipelines, serve; print(leaml.__file__)", folder=tmp_path)
    assert where.startswith(str(installed.parents[1]))
    plan = run(installed, "plan", "demo", folder=tmp_path)
    for step in ("caption", "warmup", "distill", "generate", "finetune", "evaluate"):
        assert step in plan
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"
