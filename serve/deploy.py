"""From settings to a Ray Serve application: one deployment with HTTP, and one for each domain that is no adapter in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from leaml.config import ModelConfig
from leaml.engine.arguments import arguments, refuse_unknown, with_options
from leaml.engine.vllm_engine import ON_CPU
from leaml.errors import LeamlError
from leaml.report.modelcard import card
from leaml.run.model_source import ModelSource, find
from leaml.vlm import load
from pipelines.local_ray import SERVING_KEYS
from serve import adapters, auth
from serve.service import Model
from serve.settings import Domain, ServeSettings, load_settings
from serve.state import UserConfig

if TYPE_CHECKING:
    from ray.serve import Application, Deployment
    from ray.serve.llm import LLMConfig

    from serve.replica import ModelServer

INGRESS = "VqaServer"

DOMAIN = "Domain-"
"""In front of the name of a domain, in that of the deployment with its engine."""


class EngineDeployment(NamedTuple):
    """Ray's configuration of a model's engine, and the options of its deployment."""

    llm_config: LLMConfig
    options: dict[str, Any]


@dataclass(frozen=True)
class DeploymentPlan:
    """What is deployed.

    Attributes:
        settings: As given.
        main: The main model, and where it was found.
        adapters: Of each LoRA `id`, `source`, `content` (changes with its files) and `reason` (why it cannot be served, or "").
        merged: Domains with engines of their own: their model, what to load and the adapter to merge into it ("": none).
        cards: Card of each model, by id.
        digests: Of the API keys.
        environment: Of the replicas' processes.
    """

    settings: ServeSettings
    found: ModelSource
    main: Model
    adapters: list[dict[str, str]] = field(default_factory=list)
    merged: list[tuple[Model, ModelConfig, str]] = field(default_factory=list)
    cards: dict[str, dict[str, object]] = field(default_factory=dict)
    digests: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def without(self, name: str) -> DeploymentPlan:
        """The same without a domain; the others as they are planned, not looked for again."""
        model = f"{self.main.id}:{name}"
        domains = [domain for domain in self.settings.domains if domain.name != name]
        return replace(
            self,
            settings=self.settings.model_copy(update={"domains": domains}),
            adapters=[entry for entry in self.adapters if entry["id"] != model],
            merged=[entry for entry in self.merged if entry[0].id != model],
            cards={key: card for key, card in self.cards.items() if key != model},
        )

    def with_domain(self, domain: Domain) -> DeploymentPlan:
        """The same with one more domain. One that cannot be read is planned as failed, with the reason."""
        settings = self.settings.model_copy(update={"domains": [*self.settings.domains, domain]})
        made = replace(self, settings=settings, adapters=[*self.adapters], merged=[*self.merged], cards=dict(self.cards))
        _add(made, domain, f"{self.main.id}:{domain.name}")
        return made

    @property
    def base(self) -> ModelConfig:
        """What the main engine loads."""
        return _model_config(self.found, self.settings)

    @property
    def user_config(self) -> UserConfig:
        """What a running replica takes over without a restart."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "digests": list(self.digests),
            "environment": self.environment,
            "cards": self.cards,
            "adapters": self.adapters,
        }

    @property
    def version(self) -> str:
        """Changes when replicas must be replaced."""
        settings = self.settings.model_dump(mode="json", exclude={"domains", "scaling", "auth"})
        merged = [(model.id, model.content, config.model_dump(), source) for model, config, source in self.merged]
        key = [settings, self.settings.adapters, self.found.model.model_dump(), self.main.temperature, merged]
        return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]


def plan(settings: ServeSettings, digests: Sequence[str] = ()) -> DeploymentPlan:
    """Find the models and decide how each domain is served.

    A domain that cannot be read is planned as one that failed, with the reason; so it never takes the others down.

    Raises:
        InputError: the main model cannot be found, or vLLM has no option of a name in `engine.options`.
    """
    refuse_unknown(settings.engine.options, "engine")
    found = find(settings.model, settings.engine.dtype)
    environment = replica_environment(settings.engine.cpus, settings.engine.gpus)
    name = settings.name or "".join(c if c.isalnum() or c in "._-" else "-" for c in found.name)[:64]
    main = _model(name, settings.model, found, settings, "main")
    made = DeploymentPlan(settings, found, main, cards={name: card(found)}, digests=digests, environment=environment)
    for domain in settings.domains:
        _add(made, domain, f"{name}:{domain.name}")
    return made


def _add(made: DeploymentPlan, domain: Domain, name: str) -> None:
    settings = made.settings
    try:
        way = adapters.way_of(domain.source, settings.engine.max_adapter_rank, settings.adapters > 0)
        if way == "model":
            found = find(domain.source, settings.engine.dtype)
            config = _model_config(found, settings)
            load.check(config)
            model = replace(_model(name, domain.source, found, settings, "merged"), content=adapters.content_of(config.name))
            made.cards[name] = card(found)
            made.merged.append((model, config, ""))
            return
        content = adapters.content_of(domain.source)
    except LeamlError as error:
        made.adapters.append({"id": name, "source": domain.source, "content": "", "reason": str(error)})
        return

    made.cards[name] = {"kind": "adapter", "name": domain.name, "base_model": made.main.id, "note": "An adapter of the base."}
    if way == "lora":
        made.adapters.append({"id": name, "source": domain.source, "content": content, "reason": ""})
    else:
        model = Model(name, domain.source, kind="merged", answer_tokens=made.main.answer_tokens, content=content)
        made.merged.append((model, made.base, domain.source))


def _model(name: str, source: str, found: ModelSource, settings: ServeSettings, kind: Literal["main", "merged"]) -> Model:
    run = f"{found.name}/{found.step}" if found.run else ""
    tokens = settings.limits.answer_tokens or found.answer_tokens
    return Model(name, source, run, kind, temperature=found.temperature, answer_tokens=tokens)


def _model_config(found: ModelSource, settings: ServeSettings) -> ModelConfig:
    engine = settings.engine
    changes: dict[str, object] = {"max_image_pixels": engine.max_image_pixels, "image_tiles": engine.image_tiles}
    if engine.trust_remote_code:
        changes["trust_remote_code"] = True
    if engine.revision and not found.run:
        changes["revision"] = engine.revision
    return found.model.model_copy(update=changes)


def build(args: dict[str, object]) -> Application:
    """The application for `serve deploy`; keys are read where it is built, on the cluster. Raises ConfigError without any."""
    settings = load_settings(args, "application args")
    digests = auth.read_keys(settings.auth.keys_file, os.environ.get(SERVING_KEYS))  # other nodes have them anyway
    auth.refuse_keyless_cluster(digests)
    return application(plan(settings, digests))


def application(made: DeploymentPlan) -> Application:
    """The Serve application of a plan."""
    from serve.replica import ModelServer, VqaServer

    scaling = made.settings.scaling
    peers = {}
    for model, config, adapter in made.merged:
        engine = _engine(made, ModelServer, model, config, (scaling.domain_min_replicas, scaling.domain_max_replicas))
        bound = _deployment(ModelServer, engine, f"{DOMAIN}{model.id.rpartition(':')[2]}", made.version)
        peers[model.id] = bound.bind(engine.llm_config, model, config, made.settings.limits, adapter)
    engine = _engine(made, VqaServer, made.main, made.base, (scaling.min_replicas, scaling.max_replicas), adapters_too=True)
    main = _deployment(VqaServer, engine, INGRESS, made.version).options(user_config=made.user_config)
    settings = made.settings.model_dump(mode="json")
    return main.bind(engine.llm_config, settings, made.main, made.base, peers, made.merged, made.found)


def _deployment(cls: type[ModelServer], engine: EngineDeployment, name: str, version: str) -> Deployment:
    """A deployment that Serve updates in place while `version` is the same; `serve deploy` sets a version of its own."""
    from ray import serve

    from serve import _compat

    made = serve.deployment(name=name, **{k: v for k, v in engine.options.items() if k != "name"})
    return _compat.versioned(made(cls), version)


def _engine(
    made: DeploymentPlan,
    cls: type[ModelServer],
    model: Model,
    config: ModelConfig,
    replicas: tuple[int, int],
    adapters_too: bool = False,
) -> EngineDeployment:
    """How the engine of a model is deployed."""
    from ray.serve.llm import LLMConfig

    settings = made.settings
    limits, scaling, engine = settings.limits, settings.scaling, settings.engine
    ongoing, queued = limits.concurrency + limits.queue + 16, limits.queue
    if adapters_too:
        # the deployment with HTTP: Serve counts a request from its headers on, and before a key is looked at, so its limits
        # would be used up by slow bodies and by bursts of strangers; those of serve/admission.py are met instead
        ongoing = queued = limits.connections + 16
    bundle = {"CPU": engine.cpus} | ({"GPU": engine.gpus} if engine.gpus else {})
    llm_config = LLMConfig(
        model_loading_config={"model_id": model.id, "model_source": config.name},
        engine_kwargs=engine_arguments(settings, config, adapters_too),
        placement_group_config={"bundles": [bundle]} if engine.gpus <= 1 else {"bundle_per_worker": {"CPU": 1, "GPU": 1}},
        runtime_env={"env_vars": made.environment},
        log_engine_metrics=False,
        experimental_configs={"stream_batching_interval_ms": 0},
        deployment_config={
            "max_ongoing_requests": ongoing,
            "max_queued_requests": queued,
            "backpressure_config": {"status_code": 429, "retry_after_s": limits.retry_after_seconds},
            "autoscaling_config": {
                "min_replicas": replicas[0],
                "max_replicas": replicas[1],
                "target_ongoing_requests": scaling.target_requests,
                "upscale_delay_s": scaling.upscale_seconds,
                "downscale_delay_s": scaling.downscale_seconds,
                "look_back_period_s": max(2.0, min(30.0, scaling.upscale_seconds)),
                "metrics_interval_s": 2.0,
            },
            "health_check_period_s": scaling.health_seconds,
            "health_check_timeout_s": scaling.health_timeout_seconds,
            "graceful_shutdown_wait_loop_s": 1.0,
            "graceful_shutdown_timeout_s": settings.drain_seconds,
            "ray_actor_options": {"num_cpus": 0},
            "logging_config": {"enable_access_log": False},  # serve/observe.py writes one
        },
    )
    return EngineDeployment(llm_config, cls.get_deployment_options(llm_config))


def engine_arguments(settings: ServeSettings, config: ModelConfig, adapters_too: bool) -> dict[str, object]:
    """vLLM's arguments, as leaml.engine.vllm_engine has them, so that answers are the same.

    Args:
        settings: Of the server; `engine.options` comes last and overrides all others.
        config: The model that is loaded.
        adapters_too: Whether it is the main model's engine, which has the adapters.
    """
    engine = settings.engine
    found = arguments(engine, engine.gpus, max(1, settings.limits.images)) | {
        "dtype": config.dtype,
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "generation_config": "vllm",  # a chat has no penalties or sampling of the model's own, as the evaluation has none
        "max_logprobs": max(20, settings.limits.logprobs, settings.limits.alternatives + 1),
        "override_generation_config": {"max_new_tokens": settings.limits.max_tokens},  # of chats that name no max_tokens
        "enable_log_requests": False,
        "allowed_media_domains": ["none.invalid"],  # a second wall: images are fetched by serve/media.py alone
    }

    if adapters_too and settings.adapters:
        ranks = (1, 8, 16, 32, 64, 128, 256, 320, 512)
        rank = next(r for r in ranks if r >= engine.max_adapter_rank)
        found |= {"enable_lora": True, "max_loras": settings.adapters, "max_lora_rank": rank}
    return with_options(found, engine.options)


def replica_environment(cpus: float, gpus: float) -> dict[str, str]:
    """Environment of a replica's processes. The raw API keys are not for them, should the cluster's nodes have them."""
    return ({} if gpus else ON_CPU) | {
        SERVING_KEYS: "",
        "LEAML_ENGINE_DIES_WITH_PARENT": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_USE_FLASHINFER_SAMPLER": os.environ.get("VLLM_USE_FLASHINFER_SAMPLER", "0"),  # it wants an nvcc
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
