"""The file for `ray up`: valid for Ray itself, one image and Ray, closed to the outside, spot for workers only."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
from manifests import CLUSTER, read
from ray.autoscaler._private.util import prepare_config, validate_config

import leaml


@pytest.fixture
def written() -> dict[str, Any]:
    (found,) = read(CLUSTER / "ray-up" / "aws.yaml")
    return found


def schema() -> Any:
    return json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def test_ray_takes_it(written: dict[str, Any]) -> None:
    jsonschema.validate(written, schema())
    prepared = prepare_config(copy.deepcopy(written))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"] == {"CPU": 8, "GPU": 1}
    assert types["gpu"]["min_workers"] == 0


@pytest.mark.parametrize("wrong", [{"max_worker": 3}, {"idle_timeout_minutes": "ten"}])
def test_a_wrong_field_is_found(written: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | wrong, schema())


def test_spot_is_for_workers(written: dict[str, Any]) -> None:
    spot = {name for name, kind in written["available_node_types"].items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"gpu"}
    assert written["head_node_type"] not in spot


def test_it_is_closed_and_asks_for_a_token(written: dict[str, Any]) -> None:
    ports = [(rule["FromPort"], rule["ToPort"]) for rule in written["provider"]["security_group"]["IpPermissions"]]
    assert ports == [(22, 22)]
    ranges = [r["CidrIp"] for rule in written["provider"]["security_group"]["IpPermissions"] for r in rule["IpRanges"]]
    assert all(r.endswith("/32") for r in ranges)
    assert "-e RAY_AUTH_MODE=token" in written["docker"]["run_options"]
    assert "/home/leaml/.ray/auth_token" in written["file_mounts"]
    head = " ".join(written["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head
    for kind in written["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(d["Ebs"]["Encrypted"] for d in kind["node_config"]["BlockDeviceMappings"])


def test_its_image_is_the_gpu_image_with_ssh(written: dict[str, Any]) -> None:
    base = f"leaml:{leaml.__version__}-ray{ray.__version__}-gpu"
    assert written["docker"]["image"] == f"{base}-ssh"
    dockerfile = CLUSTER / "ray-up" / "Dockerfile"
    lines = dockerfile.read_text().splitlines()
    assert f"FROM {base}" in lines
    assert lines[-1] == "USER 1000:1000"
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(dockerfile)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
