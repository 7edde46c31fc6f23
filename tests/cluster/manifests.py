"""Reads, renders and validates the manifests under cluster/, for the tests beside this file."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
OVERLAYS = ("cpu-dev", "gpu")
KUBERNETES = "1.37"
"""The schemas that built-in kinds are checked against."""

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return [document for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if document]


def plain() -> list[tuple[Path, Manifest]]:
    """Every manifest as it lies in the tree, with its file; kustomizations and the site's own files are none."""
    files = sorted(CLUSTER.glob("kuberay/base/*.yaml")) + sorted(CLUSTER.glob("kuberay/components/*/*.yaml"))
    files += sorted(CLUSTER.glob("prometheus/*.yaml"))
    return [(file, found) for file in files if file.name != "kustomization.yaml" for found in read(file)]


@functools.cache
def render(overlay: str, cluster: Path = CLUSTER) -> list[Manifest]:
    """What `kubectl apply -k` of an overlay would send, by the kubectl of the development packages."""
    kubectl = Path(sys.executable).parent / "kubectl"
    command = [str(kubectl), "kustomize", str(cluster / "kuberay" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document]


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The manifest of that kind and name."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def custom_schemas(folder: Path) -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    """A strict validator for each kind and version of the CRDs in a folder."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        crd = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in crd["versions"]:
            if version["name"] != "v1":
                continue
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[crd["names"]["kind"], f"{crd['group']}/{version['name']}"] = jsonschema.Draft202012Validator(schema)
    return found


def _strict(schema: Any) -> Any:
    """OpenAPI v3 as the API server reads it, as JSON Schema that also refuses unknown fields."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {key: value for key, value in schema.items() if not key.startswith("x-") and key not in ("description", "format")}
    kept = {
        key: {n: _strict(p) for n, p in value.items()} if key == "properties" else _strict(value) for key, value in kept.items()
    }
    if "properties" in kept and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def problems(manifest: Manifest, custom: dict[tuple[str, str], jsonschema.Draft202012Validator]) -> list[str]:
    """What is wrong with a manifest, by the schema of its kind; skips the test at KubeRay's kinds without their definitions."""
    key = manifest["kind"], manifest["apiVersion"]
    if manifest["apiVersion"].startswith("ray.io/") and key not in custom:
        pytest.skip("needs the folder shared/kuberay-crds beside the repository, KubeRay's custom resource definitions")
    if "." in manifest["apiVersion"].split("/")[0] and not manifest["apiVersion"].split("/")[0].endswith(".k8s.io"):
        return [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in custom[key].iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def pod_templates(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Every pod template inside, with where it is."""
    for where, node in walk(manifest):
        if where.rpartition(".")[2] in ("template", "submitterPodTemplate") and "spec" in node:
            yield where, node


def walk(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every mapping inside a manifest, with its place."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from walk(value, f"{where}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from walk(value, f"{where}.{number}")


def quantity(text: str | int | float) -> float:
    """Kubernetes' quantities: 500m, 2Gi, 4."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    for unit in sorted(units, key=len, reverse=True):
        if str(text).endswith(unit):
            return float(str(text).removesuffix(unit)) * units[unit]
    return float(text)
