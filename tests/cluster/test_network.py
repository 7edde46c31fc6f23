"""The network policies of the rendered overlays, read as Kubernetes reads them: who may reach which port of whom."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import pytest
from manifests import OVERLAYS, Manifest, render

PART = {"app.kubernetes.io/part-of": "leaml"}
NAMESPACE = {"kubernetes.io/metadata.name": "leaml"}


@dataclass(frozen=True)
class End:
    """One side of a connection: a pod with labels in a namespace with labels, or an address outside."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, str] = field(default_factory=lambda: NAMESPACE)
    address: str | None = None


def ray_pod(component: str, node: str) -> End:
    return End(PART | {"app.kubernetes.io/component": component, "ray.io/node-type": node})


ADAPT_HEAD, ADAPT_WORKER = ray_pod("adapt", "head"), ray_pod("adapt", "worker")
SERVE_HEAD, SERVE_WORKER = ray_pod("serve", "head"), ray_pod("serve", "worker")
SUBMITTER = End(PART | {"app.kubernetes.io/component": "adapt"})
OPERATOR = End({"app.kubernetes.io/name": "kuberay-operator"}, {"kubernetes.io/metadata.name": "kuberay-operator"})
PROMETHEUS = End({"app.kubernetes.io/name": "prometheus"}, {"kubernetes.io/metadata.name": "monitoring"})
DNS = End({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})
STRANGER = End({"app": "other"})
CLIENT = End({"leaml.io/client": "true"})
GATEWAY = End({"leaml.io/client": "true"}, {"leaml.io/client": "true", "kubernetes.io/metadata.name": "gateways"})
STORAGE = End({"app": "s3"}, {"leaml.io/storage": "true", "kubernetes.io/metadata.name": "storage"})
METADATA, INTERNET, PRIVATE = End(address="169.254.169.254"), End(address="8.8.8.8"), End(address="10.1.2.3")


def allowed(policies: list[Manifest], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether a new connection passes: egress of the source's pod and ingress of the target's must both let it."""
    return _passes(policies, "Egress", source, target, port, protocol) and _passes(
        policies, "Ingress", target, source, port, protocol
    )


def _passes(policies: list[Manifest], way: str, subject: End, peer: End, port: int, protocol: str) -> bool:
    if subject.address is not None or subject.namespace != NAMESPACE:
        return True  # not this namespace's
    chosen = [
        p["spec"] for p in policies if way in p["spec"]["policyTypes"] and _matches(p["spec"]["podSelector"], subject.labels)
    ]
    side = "to" if way == "Egress" else "from"
    rules = [rule for spec in chosen for rule in spec.get(way.lower(), [])]
    return not chosen or any(_port(rule, port, protocol) and _peer(rule.get(side), peer) for rule in rules)


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    return "ports" not in rule or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in rule["ports"])


def _peer(peers: list[dict[str, Any]] | None, end: End) -> bool:
    if peers is None:
        return True
    for peer in peers:
        if block := peer.get("ipBlock"):
            address = ipaddress.ip_address(end.address or "0.0.0.0")
            inside = end.address is not None and address in ipaddress.ip_network(block["cidr"])
            if inside and not any(address in ipaddress.ip_network(n) for n in block.get("except", [])):
                return True
        elif end.address is None:
            here = (
                _matches(peer["namespaceSelector"], end.namespace)
                if "namespaceSelector" in peer
                else end.namespace == NAMESPACE
            )
            if here and _matches(peer.get("podSelector", {}), end.labels):
                return True
    return False


@pytest.fixture(params=OVERLAYS)
def policies(request: pytest.FixtureRequest) -> list[Manifest]:
    return [m for m in render(request.param) if m["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("source", [STRANGER, CLIENT, GATEWAY, PROMETHEUS, INTERNET, PRIVATE, STORAGE], ids=repr)
@pytest.mark.parametrize("port", [6379, 8265, 10001, 52365])
def test_rays_own_ports_are_the_clusters_alone(policies: list[Manifest], source: End, port: int) -> None:
    for target in (ADAPT_HEAD, ADAPT_WORKER, SERVE_HEAD, SERVE_WORKER):
        assert not allowed(policies, source, target, port)
    assert allowed(policies, ADAPT_WORKER, ADAPT_HEAD, port)
    assert allowed(policies, SERVE_WORKER, SERVE_HEAD, port)
    assert not allowed(policies, SERVE_WORKER, ADAPT_HEAD, port)
    assert not allowed(policies, ADAPT_WORKER, SERVE_HEAD, port)


def test_the_operator_reaches_the_heads(policies: list[Manifest]) -> None:
    for head in (ADAPT_HEAD, SERVE_HEAD):
        assert allowed(policies, OPERATOR, head, 8265)
        assert not allowed(policies, OPERATOR, head, 10001)
    assert allowed(policies, SUBMITTER, ADAPT_HEAD, 8265)
    assert not allowed(policies, OPERATOR, ADAPT_WORKER, 8265)


def test_requests_come_from_labelled_pods_to_workers(policies: list[Manifest]) -> None:
    assert allowed(policies, CLIENT, SERVE_WORKER, 8000)
    assert allowed(policies, GATEWAY, SERVE_WORKER, 8000)
    for source in (STRANGER, INTERNET, ADAPT_WORKER, PROMETHEUS, End({"leaml.io/client": "true"}, {"name": "elsewhere"})):
        assert not allowed(policies, source, SERVE_WORKER, 8000)
    assert not allowed(policies, CLIENT, SERVE_HEAD, 8000)
    assert not allowed(policies, CLIENT, ADAPT_WORKER, 8000)


def test_serving_goes_nowhere_but_to_names_and_storage(policies: list[Manifest]) -> None:
    for pod in (SERVE_HEAD, SERVE_WORKER):
        assert allowed(policies, pod, DNS, 53, "UDP")
        assert allowed(policies, pod, STORAGE, 8333)
        for target in (INTERNET, METADATA, STRANGER, PROMETHEUS, ADAPT_HEAD):
            for port in (80, 443, 8080, 8265):
                assert not allowed(policies, pod, target, port)
    assert not allowed(policies, SERVE_WORKER, PRIVATE, 443)


def test_runs_reach_storage_and_hubs_but_no_private_address(policies: list[Manifest]) -> None:
    assert allowed(policies, ADAPT_WORKER, STORAGE, 8333)
    assert allowed(policies, ADAPT_WORKER, INTERNET, 443)
    assert not allowed(policies, ADAPT_WORKER, INTERNET, 80)
    for target in (METADATA, PRIVATE, End(address="192.168.0.1"), End(address="127.0.0.1")):
        for port in (80, 443, 8080):
            assert not allowed(policies, ADAPT_WORKER, target, port)


def test_only_heads_reach_the_api_server() -> None:
    policies = [m for m in render("cpu-dev") if m["kind"] == "NetworkPolicy"]
    server = End(address="172.18.0.2")
    assert allowed(policies, ADAPT_HEAD, server, 6443)
    assert allowed(policies, SERVE_HEAD, server, 6443)
    assert not allowed(policies, ADAPT_WORKER, server, 6443)
    assert not allowed(policies, SERVE_WORKER, server, 6443)


def test_prometheus_reads_metrics_and_nothing_else(policies: list[Manifest]) -> None:
    for pod in (ADAPT_HEAD, ADAPT_WORKER, SERVE_HEAD, SERVE_WORKER):
        assert allowed(policies, PROMETHEUS, pod, 8080)
        assert not allowed(policies, PROMETHEUS, pod, 8000)
        assert not allowed(policies, STRANGER, pod, 8080)


def test_an_unknown_pod_of_the_namespace_is_cut_off(policies: list[Manifest]) -> None:
    assert not allowed(policies, STRANGER, INTERNET, 443)
    assert not allowed(policies, INTERNET, STRANGER, 80)


def test_opening_a_port_would_be_noticed(policies: list[Manifest]) -> None:
    hole = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8265}]}]}}
    assert allowed([*policies, hole], INTERNET, ADAPT_HEAD, 8265)
