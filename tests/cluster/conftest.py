"""Fixtures of the tests of cluster/."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import manifests
import pytest
import yaml


@pytest.fixture(scope="session")
def custom() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    """Validators of custom kinds: KubeRay's where its definitions lie beside the repository, the Prometheus operator's from
    the part of it that is used here."""
    own = yaml.safe_load((Path(__file__).parent / "operator_schemas.yaml").read_text())
    operator = {(kind, "monitoring.coreos.com/v1"): jsonschema.Draft202012Validator(schema) for kind, schema in own.items()}
    return manifests.custom_schemas(manifests.ROOT.parent / "shared" / "kuberay-crds") | operator
