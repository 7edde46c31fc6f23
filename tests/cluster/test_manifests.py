"""The Kubernetes manifests, as written and as the overlays render them: valid, pinned, sized, without rights or secrets."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import manifests
import pytest
import ray
import typer
import yaml
from manifests import Manifest, one, pod_templates, quantity, render
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

import leaml
from leaml import config as tree
from leaml.config import ResourcesConfig
from pipelines.runtime import missing
from serve.settings import load_settings

WRITTEN = manifests.plain()
RAY_KINDS = ("RayCluster", "RayJob", "RayService")


@pytest.fixture(params=manifests.OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(request.param)


def ids(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@pytest.mark.parametrize(("file", "manifest"), WRITTEN, ids=[f"{f.name}-{ids(m)}" for f, m in WRITTEN])
def test_a_written_manifest_is_valid(file: Path, manifest: Manifest, custom: dict[Any, Any]) -> None:
    assert manifests.problems(manifest, custom) == [], file


def test_rendered_overlays_are_valid(rendered: list[Manifest], custom: dict[Any, Any]) -> None:
    in_order = sorted(rendered, key=lambda m: m["kind"] in RAY_KINDS)  # what may skip comes last
    assert {ids(m): found for m in in_order if (found := manifests.problems(m, custom))} == {}
    assert {m["kind"] for m in rendered} >= {*RAY_KINDS, "NetworkPolicy", "ServiceAccount", "PriorityClass", "ConfigMap"}
    assert {m["metadata"].get("namespace", "leaml") for m in rendered} == {"leaml"}


@pytest.mark.parametrize(
    ("kind", "place", "wrong"),
    [
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "maxReplica"], 3),
        ("RayCluster", ["spec", "headGroupSpec", "template", "spec", "containers", 0, "volumeMount"], []),
        ("RayCluster", ["spec", "authOptions", "mode"], "tokens"),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "maxReplicas"], "three"),
        ("RayJob", ["spec", "entryPoint"], "leaml"),
        ("RayService", ["spec", "serveConfig"], ""),
        ("RayService", ["spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "priorityClass"], "high"),
        ("NetworkPolicy", ["spec", "policyType"], ["Ingress"]),
        ("PersistentVolumeClaim", ["spec", "accessModes"], "ReadWriteMany"),
        ("PriorityClass", ["preemptionPolicys"], "Never"),
    ],
)
def test_a_misspelt_field_is_found(kind: str, place: list[Any], wrong: Any, custom: dict[Any, Any]) -> None:
    manifest = copy.deepcopy(next(m for m in render("cpu-dev") if m["kind"] == kind))
    assert manifests.problems(manifest, custom) == []
    node: Any = manifest
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = wrong
    (found,) = manifests.problems(manifest, custom)
    assert str(place[-1]) in found


def test_images_and_ray_versions_are_those_of_the_lock_file(rendered: list[Manifest], request: pytest.FixtureRequest) -> None:
    locked = dict(re.findall(r"^(ray)==(\S+)$", (manifests.ROOT / "requirements/cpu.lock").read_text(), re.MULTILINE))["ray"]
    assert locked == ray.__version__
    build = "cpu" if request.node.callspec.params["rendered"] == "cpu-dev" else "gpu"
    images = {node["image"] for m in rendered for _, node in manifests.walk(m) if "image" in node}
    assert images == {f"leaml:{leaml.__version__}-ray{locked}-{build}"}
    versions = [node["rayVersion"] for m in rendered for _, node in manifests.walk(m) if "rayVersion" in node]
    assert len(versions) == 3
    assert set(versions) == {locked}


def test_pods_run_without_rights(rendered: list[Manifest]) -> None:
    """What the namespace's `restricted` standard asks for, and more: no service account token, read-only root."""
    found = [(f"{ids(m)}{where}", t["spec"]) for m in rendered for where, t in pod_templates(m)]
    assert len(found) >= 7
    for where, spec in found:
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert spec["serviceAccountName"] in {"leaml-adapt", "leaml-serve"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), where
        for container in spec["containers"]:
            assert container["securityContext"] == RESTRICTED, where
            assert all("hostPath" not in volume for volume in spec["volumes"]), where
            assert all(mount["name"] != "kube-api" for mount in container["volumeMounts"]), where
    for cluster in ray_clusters(rendered):
        assert cluster["autoscalerOptions"]["securityContext"] == RESTRICTED
        assert "kube-api" in {mount["name"] for mount in cluster["autoscalerOptions"]["volumeMounts"]}
    labels = one(rendered, "Namespace", "leaml")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not [m for m in rendered if m["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")]


RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def ray_clusters(rendered: list[Manifest]) -> list[Manifest]:
    """The specs of the three clusters that an overlay can make."""
    specs = [m["spec"] for m in rendered if m["kind"] == "RayCluster"]
    specs += [m["spec"]["rayClusterSpec"] for m in rendered if m["kind"] == "RayJob"]
    specs += [m["spec"]["rayClusterConfig"] for m in rendered if m["kind"] == "RayService"]
    assert len(specs) == 3
    return specs


def test_secrets_are_referred_to_and_never_written(rendered: list[Manifest]) -> None:
    assert not [m for m in rendered if m["kind"] == "Secret"]
    for cluster in ray_clusters(rendered):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "leaml-ray-token"}
    text = yaml.safe_dump_all(rendered).lower()
    assert not re.search(r"aws_secret_access_key|auth_token:|password|hf_token", text)


def test_memory_is_what_was_asked_for_and_shared_memory_fits(rendered: list[Manifest]) -> None:
    """A pod that asks for less than it may use is killed when the node is full; /dev/shm counts as the container's memory."""
    for cluster in ray_clusters(rendered):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            resources = spec["containers"][0]["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            (shared,) = [v for v in spec["volumes"] if v["name"] == "shared-mem"]
            store, size = int(group["rayStartParams"]["object-store-memory"]), quantity(shared["emptyDir"]["sizeLimit"])
            assert shared["emptyDir"]["medium"] == "Memory"
            assert store < size < 0.5 * quantity(resources["limits"]["memory"])
            disk = sum(quantity(v["emptyDir"]["sizeLimit"]) for v in spec["volumes"] if "sizeLimit" in v.get("emptyDir", {}))
            if "ephemeral-storage" in resources["limits"]:
                assert disk - size <= quantity(resources["limits"]["ephemeral-storage"])
            mounted = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
            assert mounted >= {"/dev/shm", "/tmp/ray", "/tmp", "/scratch"}  # all that a read-only root leaves to write to
            assert {m["name"] for m in spec["containers"][0]["volumeMounts"]} <= {v["name"] for v in spec["volumes"]}


def test_the_autoscaler_reads_the_cluster_as_meant() -> None:
    """Ray's own reading of the RayCluster: no work on the head, GPUs from none, a driver's place that is not on spot nodes."""
    manifest = copy.deepcopy(one(render("gpu"), "RayCluster", "leaml"))
    found = _derive_autoscaling_config_from_ray_cr(manifest)
    types = found["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["cpu"]["resources"] | {"memory": 0} == {"CPU": 8, "driver": 4, "memory": 0}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert "driver" not in types["gpu"]["resources"]
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, 8)
    assert types["gpu-8"]["resources"]["GPU"] == 8 and "driver" not in types["gpu-8"]["resources"]
    assert (types["gpu-8"]["min_workers"], types["gpu-8"]["max_workers"]) == (0, 4)
    assert types["cpu"]["min_workers"] == 1
    assert found["idle_timeout_minutes"] == 5
    assert manifest["spec"]["autoscalerOptions"]["version"] == "v2"
    for group in manifest["spec"]["workerGroupSpecs"][1:]:
        gpu = group["template"]["spec"]
        assert {t["key"] for t in gpu["tolerations"]} >= {"nvidia.com/gpu", "cloud.google.com/gke-spot"}
        assert gpu["priorityClassName"] == "leaml-worker"
    priorities = {m["metadata"]["name"]: m["value"] for m in render("gpu") if m["kind"] == "PriorityClass"}
    assert priorities["leaml-worker"] < priorities["leaml-driver"] < priorities["leaml-serve"]


def test_engines_of_a_large_teacher_have_pods_of_their_own() -> None:
    """Four GPUs an engine: none of a pod of one GPU, two of a pod of eight."""
    types = _derive_autoscaling_config_from_ray_cr(one(render("gpu"), "RayCluster", "leaml"))["available_node_types"]
    nodes = {name: dict(types[name]["resources"]) for name in ("gpu", "gpu-8")}
    teacher = ResourcesConfig(engine_gpus=1, engine_cpus=4, teacher_gpus=4, teacher_engines=2).teacher
    each = {"CPU": teacher.engine_cpus, "GPU": teacher.engine_gpus}
    assert missing("teachers", 2, each, [nodes["gpu"]] * 8) == (
        "teachers needs 2 x 4 CPU and 4 GPU, each on one node; 8 nodes hold 0 of them"
    )
    assert missing("teachers", 2, each, [nodes["gpu-8"]]) is None


GIGABYTES = {"gpu": 10 * 17 + 2 * 100, "gpu-8": 147 + 10 * 17 + 2 * 100, "replica": 3 * 17}
"""What models and checkpoints take on a node: ten copies of 8 B in bfloat16 and two checkpoints, a teacher of 72 B; a base
and two adapters merged into it."""


def test_models_and_checkpoints_lie_on_a_sized_volume() -> None:
    """What is written to the node's own disk beyond a limit evicts the pod, so nothing large is written there."""
    seen = set()
    for cluster in ray_clusters(render("gpu")):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            (container,) = spec["containers"]
            told = {variable["name"]: variable["value"] for variable in container["env"]}
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounts[told["TMPDIR"]] == mounts[told["HOME"]] == "scratch"
            assert mounts[told["LEAML_MODEL_CACHE"].rpartition("/")[0]] == "scratch"
            assert mounts[f"{told['RAY_TMPDIR']}/ray"] == "ray-logs"  # where KubeRay looks for them
            if name := group.get("groupName") if "nvidia.com/gpu" in container["resources"]["limits"] else None:
                (scratch,) = [v for v in spec["volumes"] if v["name"] == "scratch"]
                claim = scratch["ephemeral"]["volumeClaimTemplate"]["spec"]
                assert quantity(claim["resources"]["requests"]["storage"]) >= GIGABYTES[name] * 10**9
                seen.add(name)
    assert seen == set(GIGABYTES)


def test_a_runs_cluster_is_the_standing_one(rendered: list[Manifest]) -> None:
    assert one(rendered, "RayJob", "leaml-adapt")["spec"]["rayClusterSpec"] == one(rendered, "RayCluster", "leaml")["spec"]


def test_the_entrypoint_is_a_leaml_command_on_a_good_configuration(rendered: list[Manifest], tmp_path: Path) -> None:
    from pipelines.cli import app

    job = one(rendered, "RayJob", "leaml-adapt")["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[0] == "leaml"
    command = typer.main.get_command(app)
    name, chosen, rest = command.resolve_command(command.make_context("leaml", words[1:], resilient_parsing=True), words[1:])  # type: ignore[attr-defined]
    assert name == "adapt"
    parsed = chosen.make_context(name, rest).params
    written = one(rendered, "ConfigMap", "leaml-config")["data"]
    mount = Path("/etc/leaml")
    assert parsed["config"].parent == mount
    mounts = job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "config", "mountPath": str(mount), "readOnly": True} in mounts
    (tmp_path / "run.yaml").write_text(written[parsed["config"].name])
    config = tree.load(tmp_path / "run.yaml", parsed["overrides"])
    assert config.resources.address == "auto"
    assert config.storage.startswith(("s3://", "/mnt/leaml/"))
    assert json.loads(job["entrypointResources"]) == {"driver": 1}
    gpus = max(config.resources.engine_gpus, config.resources.train_gpus)
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    most = {g["groupName"]: g["maxReplicas"] for g in groups}
    if gpus:
        assert config.resources.train_workers * config.resources.train_gpus <= most["gpu"]
        assert (config.resources.max_engines or config.resources.engines) * config.resources.engine_gpus <= most["gpu"]
        cpus = quantity(groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        assert max(config.resources.engine_cpus, config.resources.train_cpus) <= cpus
    else:
        assert "gpu" not in most


def test_the_serve_config_is_rays_and_ours(rendered: list[Manifest]) -> None:
    spec = one(rendered, "RayService", "leaml-serve")["spec"]
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = deploy.applications
    module, _, name = application.import_path.partition(":")
    assert (module, name) == ("serve.deploy", "build")
    assert f"def {name}(" in (manifests.ROOT / "serve" / "deploy.py").read_text()
    settings = load_settings(application.args)
    assert settings.auth.keys_file == "/etc/leaml-keys/keys"  # the endpoint of a cluster never answers without keys
    group = spec["rayClusterConfig"]["workerGroupSpecs"][0]
    worker = group["template"]["spec"]
    mounts = {m["mountPath"] for m in worker["containers"][0]["volumeMounts"]}
    assert "/etc/leaml-keys" in mounts
    limits = worker["containers"][0]["resources"]["limits"]
    assert settings.engine.cpus < quantity(limits["cpu"])  # one CPU is the ingress's
    assert settings.engine.gpus <= quantity(limits.get("nvidia.com/gpu", 0))
    assert settings.scaling.max_replicas <= group["maxReplicas"]
    assert settings.drain_seconds < worker["terminationGracePeriodSeconds"] - 15
    assert settings.drain_seconds < spec["rayClusterDeletionDelaySeconds"]
    assert deploy.http_options.port == worker["containers"][0]["ports"][1]["containerPort"] == 8000
    assert spec["serveService"]["spec"]["type"] == "ClusterIP"
    assert deploy.http_options.request_timeout_s > settings.limits.deadline_seconds + settings.limits.body_seconds
    assert deploy.logging_config is not None
    assert not deploy.logging_config.enable_access_log  # it would hold paths of requests


def test_wrong_settings_of_the_endpoint_are_found() -> None:
    written = yaml.safe_load(one(render("gpu"), "RayService", "leaml-serve")["spec"]["serveConfigV2"])
    with pytest.raises(ValueError, match="import_pth"):
        ServeDeploySchema.model_validate({"applications": [{"import_pth": "serve.deploy:build"}]})
    with pytest.raises(leaml.errors.ConfigError, match="max_replica"):
        load_settings(written["applications"][0]["args"] | {"scaling": {"max_replica": 2}})


def test_probes_ask_what_answers_without_a_token(rendered: list[Manifest]) -> None:
    for cluster in ray_clusters(rendered):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            container = group["template"]["spec"]["containers"][0]
            for probe in ("startupProbe", "livenessProbe"):
                assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
            assert container["readinessProbe"]["httpGet"]["path"] in ("/api/healthz", "/-/healthz")
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    assert "/api/healthz" in PUBLIC_EXACT_PATHS


def test_storage_on_a_volume_reaches_every_pod() -> None:
    for cluster in ray_clusters(render("cpu-dev")):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
            assert claims == ["leaml-runs"]
            assert "/mnt/leaml" in {m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}


GATED = ("networkPolicy", "tlsOptions", "historyServerOptions", "gcsFaultToleranceOptions", "deletionStrategy")
"""What KubeRay 1.7 refuses unless it was started with a feature gate that is off by default."""


def test_an_operator_as_it_comes_takes_the_overlays(rendered: list[Manifest]) -> None:
    for cluster in ray_clusters(rendered):
        assert not set(GATED) & set(cluster)
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["spec"]["restartPolicy"] == "Never"  # with autoscaler v2 others are refused
            assert "labels" not in group["rayStartParams"]
    job = one(rendered, "RayJob", "leaml-adapt")["spec"]
    assert not set(GATED) & set(job)
    assert job["shutdownAfterJobFinishes"] or not job["ttlSecondsAfterFinished"]


def test_the_endpoint_can_outlive_its_head(tmp_path: Path, custom: dict[Any, Any]) -> None:
    """The component that is commented out in the gpu overlay."""
    shutil.copytree(manifests.CLUSTER, tmp_path / "cluster")
    overlay = tmp_path / "cluster" / "kuberay" / "overlays" / "gpu" / "kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("# - ../../components/gcs-volume", "- ../../components/gcs-volume"))
    service = one(render("gpu", tmp_path / "cluster"), "RayService", "leaml-serve")
    assert service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    assert manifests.problems(service, custom) == []
