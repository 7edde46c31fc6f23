"""`leaml serve` and `--add` refuse what cannot work before anything is started or connected to."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError

from leaml.config import resolve_model
from leaml.errors import ConfigError, InputError, ResourceError, StepError
from serve import launch
from serve.deploy import DeploymentPlan, plan
from serve.settings import Domain, load_settings


@pytest.mark.parametrize(
    "address", [None, "", "auto", "local", "127.0.0.1", "http://127.0.0.1:8265", "ray://127.0.0.1:10001", "127.0.0.1:x", ":1"]
)
@pytest.mark.parametrize("change", [lambda a: launch.add_domain("x", "leaml-tiny", a), lambda a: launch.remove_domain("x", a)])
def test_the_server_to_change_is_named_by_its_ray(change: Callable[[str | None], object], address: str | None) -> None:
    with pytest.raises(InputError, match="--address HOST:PORT"):
        change(address)


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(InputError, match="no `leaml serve` answers"):
            launch.add_domain("x", "leaml-tiny", f"127.0.0.1:{free.getsockname()[1]}")
        assert time.monotonic() - began < 6


def test_the_http_port_of_a_server_is_not_taken_for_its_ray() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(InputError, match=r"no `leaml serve` answers at .*; give the Ray address .*, not its HTTP port"):
            launch.remove_domain("x", f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a/b", "x" * 65])
def test_a_domain_has_a_name_that_clients_can_write(name: str) -> None:
    with pytest.raises(ConfigError, match="--add NAME=SOURCE: name"):
        launch.add_domain(name, "leaml-tiny", "127.0.0.1:1")


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use"):
            launch.start(load_settings({"model": "leaml-tiny", "http": {"port": port}}))


def test_other_domains_stay_as_they_were_deployed_where_their_files_cannot_be_read(tmp_path: Path) -> None:
    """Another shell may run in another folder, or as a process that does not see the others' files."""
    domains = [{"name": "medical", "source": "leaml-tiny-teacher"}]
    deployed = plan(load_settings({"model": "leaml-tiny", "domains": domains}), ["digest"])
    (model, config, adapter) = deployed.merged[0]
    gone = deployed.settings.model_copy(update={"domains": [Domain(name="medical", source=str(tmp_path / "unmounted"))]})
    deployed = type(deployed)(**(vars(deployed) | {"settings": gone}))

    changed = deployed.with_domain(Domain(name="sports", source="leaml-tiny-teacher"))
    assert [entry[0].id for entry in changed.merged] == ["leaml-tiny:medical", "leaml-tiny:sports"]
    assert changed.merged[0] == (model, config, adapter)
    assert changed.digests == ["digest"]
    assert deployed.merged == [(model, config, adapter)]  # what it goes back to is untouched

    back = changed.without("sports")
    assert back.merged == deployed.merged
    assert back.adapters == [] and set(back.cards) == set(deployed.cards)
    assert back.version == deployed.version  # no replica is replaced
    assert changed.without("medical").merged[0][0].id == "leaml-tiny:sports"


@pytest.mark.parametrize("source", ["nowhere/at/all", "./nowhere", "of-text"])
def test_a_domain_that_is_no_model_is_refused_before_anything_starts(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("of-text").mkdir()
    Path("of-text/config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    monkeypatch.setattr(launch, "start_ray", lambda *_, **__: pytest.fail("Ray was started"))
    settings = load_settings({"model": "leaml-tiny", "domains": [{"name": "x", "source": source}], "http": {"port": 45871}})
    with pytest.raises(InputError, match=f"the domain 'leaml-tiny:x' cannot be served: .*{source.strip('./')}"):
        launch.start(settings)


def test_a_domain_whose_files_were_written_anew_is_another_version(tmp_path: Path) -> None:
    domain = tmp_path / "domain"
    shutil.copytree(resolve_model("leaml-tiny-teacher"), domain)
    settings = load_settings({"model": "leaml-tiny", "domains": [{"name": "x", "source": str(domain)}]})
    before = plan(settings)
    assert plan(settings).version == before.version
    weights = bytearray((domain / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (domain / "model.safetensors").write_bytes(weights)
    after = before.without("x").with_domain(settings.domains[0])
    assert after.version != before.version  # else its replicas would stay

    (domain / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (domain / "adapter_model.safetensors").write_bytes(b"1")
    [entry] = plan(settings).adapters
    (domain / "adapter_model.safetensors").write_bytes(b"2")
    [other] = plan(settings).adapters
    assert entry["content"] != other["content"]


def test_a_server_that_starts_again_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeStatus

    def busy() -> dict[str, object]:
        raise TimeoutError

    status = ServeStatus()
    app = ApplicationStatusOverview(status=ApplicationStatus.DEPLOYING, message="", last_deployed_time_s=0, deployments={})
    monkeypatch.setattr(launch, "start_ray", lambda *_, **__: None)
    monkeypatch.setattr(launch, "alone", contextlib.nullcontext)
    monkeypatch.setattr(launch, "_current", busy)
    monkeypatch.setattr(serve, "status", lambda: status)
    with socket.create_server(("127.0.0.1", 0)) as ray:
        address = f"127.0.0.1:{ray.getsockname()[1]}"
        with pytest.raises(InputError, match="no server is deployed there"):
            launch.remove_domain("x", address)
        status.applications[launch.APPLICATION] = app
        with pytest.raises(StepError, match=r"Ray Serve calls it DEPLOYING.*try again when its /health answers"):
            launch.remove_domain("x", address)


@pytest.mark.parametrize(
    ("error", "why"),
    [(TimeoutError("HTTP proxies not available after 60s."), "HTTP proxies not available after 60s"),
     (ActorDiedError(), "its proxy was late")],
)  # fmt: skip
def test_a_machine_that_is_too_busy_for_serve_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    from ray import serve
    from ray.serve.schema import ServeStatus

    def start(**_: object) -> None:
        raise error

    monkeypatch.setattr(serve, "status", lambda: ServeStatus())
    monkeypatch.setattr(serve, "start", start)
    made = plan(load_settings({"model": "leaml-tiny"}))
    said = rf"did not start in time \({why}\); the load average is \d+ on .* run the same command"
    with pytest.raises(StepError, match=said):
        launch._deploy_first(made, "127.0.0.1", None, verbose=False)


def with_domains(count: int, **scaling: int) -> DeploymentPlan:
    domains = [{"name": f"d{n}", "source": "leaml-tiny-teacher"} for n in range(count)]
    return plan(load_settings({"model": "leaml-tiny", "domains": domains, "scaling": scaling}), ["digest"])


def test_engines_of_domains_start_with_the_server_and_those_that_have_no_room_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    launch.refuse_unschedulable_engines(with_domains(2), grows=False)
    launch.refuse_unschedulable_engines(with_domains(9, domain_min_replicas=0), grows=False)
    said = r"with 3 engines of domains .*needs 5 CPU, the cluster has 4; .*scaling.domain_min_replicas=0 domains start when"
    with pytest.raises(ResourceError, match=said):
        launch.refuse_unschedulable_engines(with_domains(3), grows=False)
    with pytest.raises(ResourceError, match=r"^the main model needs 5 CPU, the cluster has 4; lower scaling.min_replicas or"):
        launch.refuse_unschedulable_engines(with_domains(0, min_replicas=4, max_replicas=4), grows=False)


def test_a_domain_whose_engine_does_not_start_is_refused_and_the_server_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    old, deployed = with_domains(1), list[DeploymentPlan]()

    def deploy(made: DeploymentPlan) -> None:
        deployed.append(made)
        if made is not old:
            msg = "the model could not be served: no memory"
            raise StepError(msg)

    monkeypatch.setattr(launch, "_changing", contextlib.nullcontext)
    monkeypatch.setattr(launch, "_deployed", lambda _: old)
    monkeypatch.setattr(launch, "refuse_unschedulable_engines", lambda *_, **__: None)
    monkeypatch.setattr(launch, "deploy", deploy)
    with pytest.raises(InputError, match="'sports' was refused: the model could not be served: no memory"):
        launch.add_domain("sports", "leaml-tiny-teacher", "127.0.0.1:1")
    assert [[model.id for model, _, _ in made.merged] for made in deployed] == [
        ["leaml-tiny:d0", "leaml-tiny:sports"],
        ["leaml-tiny:d0"],
    ]


def test_the_console_says_when_an_engine_is_replaced_and_when_it_answers_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray import serve
    from ray.serve.schema import (
        ApplicationStatus,
        ApplicationStatusOverview,
        DeploymentStatus,
        DeploymentStatusOverview,
        DeploymentStatusTrigger,
        ServeStatus,
    )

    status = ServeStatus()
    monkeypatch.setattr(serve, "status", lambda: status)

    def states(main: str, domain: str) -> None:
        found = {
            name: DeploymentStatusOverview(DeploymentStatus(state), DeploymentStatusTrigger.UNSPECIFIED, {}, "")
            for name, state in (("VqaServer", main), ("Domain-sports", domain))
        }
        status.applications[launch.APPLICATION] = ApplicationStatusOverview(
            status=ApplicationStatus.RUNNING, message="", last_deployed_time_s=0, deployments=found
        )

    watch = launch.EngineWatch("tiny")
    watch.look()  # nothing is deployed yet
    for main, domain in (
        ("HEALTHY", "HEALTHY"),
        ("UPDATING", "UPDATING"),
        ("UNHEALTHY", "HEALTHY"),
        ("UNHEALTHY", "UNHEALTHY"),
        ("HEALTHY", "UPDATING"),
        ("HEALTHY", "HEALTHY"),
    ):
        states(main, domain)
        watch.look()
        watch.look()
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "the engine of tiny has stopped and is being replaced; meanwhile its clients are told to try again",
        "the engine of tiny:sports has stopped and is being replaced; meanwhile its clients are told to try again",
        "tiny answers again",
        "tiny:sports answers again",
    ]


@pytest.mark.parametrize(("domains", "warned"), [(0, False), (1, False), (2, True)])
def test_more_engines_than_cores_are_said_to_share_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], domains: int, warned: bool
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    launch.warn_of_few_cores(with_domains(domains))
    launch.warn_of_few_cores(with_domains(9, domain_min_replicas=0))
    assert ("warning: 3 engines (engine.cpus=1) share the 2 cores" in capsys.readouterr().out) is warned
