"""Alerts and boards: valid queries on metrics that exist, with labels they have; every alert fires and is explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import ray
import yaml
from manifests import CLUSTER, ROOT, one, read, render

from pipelines import metrics
from serve import observe

RULES = [
    rule
    for group in one(read(CLUSTER / "prometheus" / "rules.yaml"), "PrometheusRule", "leaml")["spec"]["groups"]
    for rule in group["rules"]
]
BOARDS = {file.stem: json.loads(file.read_text()) for file in sorted((CLUSTER / "grafana").glob("*.json"))}
TARGET = {"job", "instance", "pod", "namespace", "container", "ray_io_cluster", "ray_io_group", "ray_io_node_type"}
"""Labels that Prometheus adds to every series (cluster/prometheus/podmonitor.yaml)."""


def ours() -> dict[str, set[str]]:
    """Labels of every series that this project exports through Ray, by its name in Prometheus."""
    tags = set(metrics.TAGS)
    found = {f"ray_{name}_total": tags | set(more) for name, (_, more) in metrics.COUNTERS.items()}
    found |= {f"ray_{name}": tags for name in metrics.GAUGES}
    found |= {f"ray_{name}_total": set(labels) for name, (_, labels) in observe.COUNTERS.items()}
    found |= {f"ray_{name}": set(labels) for name, (_, labels) in observe.GAUGES.items()}
    for name, (_, labels) in observe.HISTOGRAMS.items():
        found |= {f"ray_{name}_{part}": {*labels, "le"} for part in ("bucket", "sum", "count")}
    return found


def rays() -> set[str]:
    """Names that Ray's own boards and exporters use."""
    package = Path(ray.__file__).parent
    boards = "".join(file.read_text() for file in (package / "dashboard" / "modules" / "metrics" / "dashboards").glob("*.py"))
    found = set(re.findall(r"\b((?:ray|autoscaler)_[a-z0-9_]+)\{", boards))
    node = (package / "dashboard" / "modules" / "reporter" / "reporter_agent.py").read_text()
    return found | {f"ray_{name}" for name in re.findall(r'"((?:node|component)_[a-z_]+)": Gauge', node)}


def board_queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query of a board with its panel, variables filled in."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], re.sub(r"\$\{?\w+\}?", "1", target["expr"])


QUERIES = [(rule["alert"], rule["expr"]) for rule in RULES]
QUERIES += [(f"{name}: {title}", query) for name, board in BOARDS.items() for title, query in board_queries(board)]


def selectors(query: str) -> list[Any]:
    """The series that a query reads. Raises ValueError where it is no PromQL."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        return True

    promql.walk(promql.parse(query), pre_visit=visit)
    return found


def faults(query: str) -> list[str]:
    """Names and labels in a query that no series has."""
    known, wrong = ours(), []
    for selector in selectors(query):
        labels = known.get(selector.name)
        if labels is None and selector.name != "up" and (selector.name.startswith("ray_leaml_") or selector.name not in rays()):
            wrong.append(str(selector.name))
        asked = set(re.findall(r"(\w+)(?:=~|!=|!~|=)", str(selector.matchers)))
        wrong += [f"{selector.name}{{{label}}}" for label in asked - labels - TARGET] if labels else []
    if names := [s.name for s in selectors(query) if s.name in known]:
        grouped = {g.strip() for found in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for g in found.split(",")}
        wrong += sorted(grouped - set.union(*(known[name] for name in names)) - TARGET)
    return wrong


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_a_query_reads_series_that_exist(where: str, query: str) -> None:
    assert selectors(query)
    assert faults(query) == [], where


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(ray_leaml_step_image_total[5m])", "ray_leaml_step_image_total"),
        ("sum by (runs) (ray_leaml_step_done)", "runs"),
        ('ray_leaml_requests_total{code="500"}', "ray_leaml_requests_total{code}"),
        ("ray_node_disk_left", "ray_node_disk_left"),
    ],
)
def test_a_series_that_does_not_exist_is_found(query: str, fault: str) -> None:
    assert faults(query) == [fault]


def test_a_query_that_is_none_is_found() -> None:
    with pytest.raises(ValueError, match=r".+"):
        selectors("sum by (run (ray_leaml_step_done)")


def test_every_number_of_ours_is_shown_somewhere() -> None:
    read_names = {s.name for _, query in QUERIES for s in selectors(query)}
    assert {name for name in ours() if not name.endswith(("_sum", "_count"))} - read_names == set()


def test_the_alerts_are_those_that_were_asked_for_and_are_explained() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    expected = {
        "LeamlWorkersDying",
        "LeamlServeErrors",
        "LeamlServeQueueFull",
        "LeamlRunStalled",
        "LeamlSpillDisk",
        "LeamlGpuMemory",
    }
    assert expected <= set(names)
    explained = re.findall(r"`(Leaml\w+)`", (ROOT / "docs" / "operations.md").read_text())
    assert set(explained) == set(names)


def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus; the queries themselves are parsed by the tests above")
    spec = one(read(CLUSTER / "prometheus" / "rules.yaml"), "PrometheusRule", "leaml")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "alerts.yaml").write_text((Path(__file__).parent / "alerts.yaml").read_text())
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "alerts.yaml"]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_whole(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == name
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["title"]
            assert panel["targets"]
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = {word for p in panels for t in p.get("targets", []) for word in re.findall(r"\$\{?(\w+)\}?", t["expr"])}
    assert used | {"datasource"} == variables
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            (metric, label) = re.findall(r"label_values\((\w+), (\w+)\)", variable["definition"])[0]
            assert label in (ours().get(metric, set()) | TARGET)
            assert metric in ours() or metric in rays()


def test_the_boards_reach_grafana() -> None:
    boards = one(render("gpu"), "ConfigMap", "leaml-boards")
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name.removesuffix(".json") for name in boards["data"]} == set(BOARDS)


def test_pods_have_the_port_that_is_scraped() -> None:
    monitor = one(render("gpu"), "PodMonitor", "leaml")["spec"]
    cluster = one(render("gpu"), "RayCluster", "leaml")["spec"]
    ports = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"] if "port" in endpoint}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        labels = group["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert ports <= {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
