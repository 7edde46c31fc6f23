"""The replica: Ray's LLMServer that answers HTTP itself, so that a request passes Serve's proxy and one more process only.

Only the routes of serve/app.py are there; vLLM's own application, with its routes for administration, is not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.llm.deployment import LLMServer

from leaml.config import ModelConfig, resolve_model
from leaml.engine.source import source_of
from leaml.errors import LeamlError
from leaml.io.node_cache import local_model
from leaml.run.model_source import ModelSource
from leaml.vlm import image_size
from leaml.vlm.chat import served_template
from leaml.vlm.shrink import Shrink, shrink_of
from serve import _compat, adapters, observe
from serve.app import AppContext, create_app
from serve.engine import EngineModels
from serve.errors import ApiError
from serve.media import Decoder, Encoded, Picture
from serve.peers import Peer
from serve.rayexport import RayExporter
from serve.service import Answer, ChatBody, ChatReply, ImageQuestion, Model
from serve.settings import LimitSettings, ServeSettings
from serve.state import ServerState, UserConfig

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.llm import LLMConfig


_LOADING = 120.0
"""Seconds for one adapter to load and answer once."""


class ModelServer(LLMServer):
    """One model in one vLLM engine, for other replicas.

    Args:
        llm_config: Ray's configuration of the engine.
        model: What is served.
        base: The model to load, and to merge `adapter` into where that is given.
        limits: Limits of images.
        adapter: Source of an adapter that cannot be a LoRA, "" for none.
    """

    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, model: Model, base: ModelConfig, limits: LimitSettings, adapter: str = ""
    ) -> None:
        observe.log_json()
        _compat.replica_grpc_on_node_address()
        self.model, self.base = model, base

        base = base.model_copy(update={"name": local_model(resolve_model(base.name))})
        served = base
        if adapter:
            merged = await asyncio.to_thread(adapters.merged_folder, adapter, base)
            served = base.model_copy(update={"name": merged})

        source, processor = await asyncio.to_thread(source_of, served)
        assert not isinstance(llm_config.model_loading_config, dict)
        llm_config.model_loading_config.model_source = source
        _compat.forget_engine(llm_config)
        self.local_base = base

        if template := served_template(processor):  # vLLM's own chat would answer in a thought, on another day
            llm_config.engine_kwargs.setdefault("chat_template", template)
        given = llm_config.engine_kwargs.get("mm_processor_kwargs")
        for key, value in image_size.engine_options(image_size.limit(processor, base, self.base.name)).items():
            llm_config.engine_kwargs.setdefault(key, value)

        await super().__init__(llm_config, engine_cls=_compat.InProcessEngine)
        shrink = shrink_of(processor, given)
        self.engine_models = EngineModels(self, processor, shrink)
        self.decoder = Decoder(limits)
        await self.engine_models.try_out(model.id)

    async def ready(self) -> int:
        """The model's longest prompt with reply, in tokens; a reply says that this replica is there."""
        return self.engine_models.max_model_len

    async def answer_for(
        self, model: Model, encoded: Encoded, questions: list[ImageQuestion], alternatives: int, request_id: str
    ) -> list[Answer] | ApiError:
        """As Service.answer, for another replica; an error is returned, since Ray would wrap it.

        Args:
            model: The one that this replica serves.
            encoded: The image, decoded here.
            questions: About the image.
            alternatives: As of Service.answer.
            request_id: As of Service.answer.
        """
        try:
            async with self.decoder.opened([encoded], self.engine_models.shrink) as (picture,):
                return await self.engine_models.answer(model, picture, questions, alternatives, request_id)
        except ApiError as error:
            return error

    async def chat_for(
        self, model: Model, body: ChatBody, encoded: list[Encoded], request_id: str
    ) -> AsyncIterator[ChatReply | str | ApiError]:
        """As Service.chat, for another replica; an error is yielded, since Ray would wrap it.

        Args:
            model: The one that this replica serves.
            body: The checked request.
            encoded: Its images, decoded here, by index.
            request_id: Unique.

        Yields:
            The reply alone, or the events.
        """
        try:
            async with self.decoder.opened(encoded, self.engine_models.shrink) as pictures:
                result = await self.engine_models.chat(model, body, pictures, request_id)
                if isinstance(result, dict):
                    yield result
                    return
                async for event in result:
                    yield event
        except ApiError as error:
            yield error


@serve.ingress()
class VqaServer(ModelServer):
    """The main model behind HTTP, with the adapters in its engine and handles to the domains that have engines of their own.

    Args:
        llm_config: Ray's configuration of the engine.
        settings: Everything.
        model: The main model.
        base: The model to load.
        peers: Handles of the domains with engines of their own, by the ids of their models.
        merged: Those models, what each loads and the adapter that is merged into it.
        found: Where the main model was found.
    """

    _digests: Sequence[str] | None = None
    """Of the API keys. Serve starts the replica's HTTP server before `reconfigure` names them, and where the replica replaces
    one that has died, HAProxy sends it requests at once; so until then (None) nobody is answered."""

    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        settings: dict[str, object],
        model: Model,
        base: ModelConfig,
        peers: dict[str, DeploymentHandle],
        merged: list[tuple[Model, ModelConfig, str]],
        found: ModelSource,
    ) -> None:
        self.found, self._merged = found, merged
        self.settings = ServeSettings.model_validate(settings)
        await super().__init__(llm_config, model, base, self.settings.limits)
        self.service = ReplicaService(self, peers, [model for model, _, _ in merged])
        self._deployed, self._environment, self._adapters = settings, dict[str, str](), list[dict[str, str]]()
        self._context: AppContext | None = None
        self._changing = asyncio.Lock()
        if self.settings.scaling.domain_min_replicas:  # else it would start engines that nobody has asked for
            self.service.ask_peers()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the engine is up."""
        replica = serve.get_replica_context().replica_id.unique_id
        metrics = observe.EndpointMetrics(replica, RayExporter())
        app = create_app(self.service, self.settings, self._digests, metrics, sends_request_id=False)  # Serve does
        self._context = app.state.context
        return app

    async def reconfigure(self, user_config: UserConfig) -> None:
        """Take over keys, cards and adapters without a restart. An adapter that fails is listed with the reason."""
        async with self._changing:
            self._deployed, self._environment = dict(user_config["settings"]), dict(user_config["environment"])
            self._digests = list(user_config["digests"])
            if self._context is not None:
                self._context.digests = self._digests
            self.service.cards, self._adapters = dict(user_config["cards"]), list(user_config["adapters"])
            await self.service.change_adapters(user_config["adapters"])

    async def current(self) -> ServerState:
        """What was deployed last, for `leaml serve --add` and `--remove`; what is served, and by which process."""
        return {
            "settings": self._deployed,
            "digests": list(self._digests or ()),
            "environment": self._environment,
            "found": self.found,
            "main": self.model,
            "merged": self._merged,
            "adapters": self._adapters,
            "cards": self.service.cards,
            "models": self.service.models(),
            "pid": os.getpid(),
            "unfinished": self.engine_models.unfinished(),
        }


class ReplicaService:
    """`Service` of a VqaServer."""

    def __init__(self, server: VqaServer, peers: dict[str, DeploymentHandle], merged: list[Model]) -> None:
        self._server, self._engine, self._merged = server, server.engine_models, merged
        self._peers = {name: Peer(handle) for name, handle in peers.items()}
        self._main = replace(server.model, max_model_len=self._engine.max_model_len)
        self._adapters: dict[str, Model] = {}
        self.cards: dict[str, dict[str, object]] = {}

    def models(self) -> list[Model]:
        """The main model first."""
        merged = [replace(model, max_model_len=self._peers[model.id].max_model_len) for model in self._merged]
        return [self._main, *self._adapters.values(), *merged]

    def ask_peers(self) -> None:
        """Find out what the domains with engines of their own can take, as soon as each is up."""
        for peer in self._peers.values():
            peer.ask()

    def shrink(self, model: Model) -> Shrink | None:
        """As Service.shrink; a replica of a merged model decodes images itself, with a budget and a processor of its own."""
        return self._engine.shrink if model.kind != "merged" else None

    def card(self, model: Model) -> dict[str, object]:
        """As Service.card."""
        return self.cards.get(model.id, {})

    async def change_adapters(self, wanted: list[dict[str, str]]) -> None:
        """Load what is new or has another source or content, forget what is not wanted, leave the rest as it is.

        What is wanted is listed before anything is waited for, so that no request finds it missing.
        """
        before = self._adapters
        kept = {
            entry["id"]: model
            for entry in wanted
            if (model := before.get(entry["id"]))
            and (model.source, model.content, model.state) == (entry["source"], entry["content"], "ready")
        }
        self._adapters = {entry["id"]: kept.get(entry["id"]) or self._listed(entry) for entry in wanted}
        for name in before.keys() - kept.keys():
            await self._engine.remove_adapter(name)
        for entry in wanted:
            if entry["id"] not in kept:
                self._adapters[entry["id"]] = await self._loaded(self._adapters[entry["id"]], entry["reason"])

    def _listed(self, entry: dict[str, str]) -> Model:
        tokens, length = self._main.answer_tokens, self._main.max_model_len
        model = Model(entry["id"], entry["source"], kind="adapter", state="loading", content=entry["content"])
        return replace(model, answer_tokens=tokens, max_model_len=length)

    async def _loaded(self, model: Model, reason: str) -> Model:
        name = model.id
        try:
            if reason:
                raise ValueError(reason)
            async with asyncio.timeout(_LOADING):
                folder = await asyncio.to_thread(adapters.lora_folder, model.source, self._server.local_base)
                await self._engine.add_adapter(name, folder)
                await self._engine.try_out(name)
        except (LeamlError, ValueError, ApiError, TimeoutError, OSError) as error:
            await self._engine.remove_adapter(name)
            why = " ".join(str(error).split())[:300] or type(error).__name__
            observe.log.error("adapter refused", extra={"fields": {"model": name, "reason": why}})
            return replace(model, state="failed", reason=why)
        observe.log.info("adapter loaded", extra={"fields": {"model": name}})
        return replace(model, state="ready")

    async def chat(
        self, model: Model, body: ChatBody, pictures: list[Picture], request_id: str
    ) -> ChatReply | AsyncGenerator[str, None]:
        """As Service.chat."""
        if model.kind != "merged":
            return await self._engine.chat(model, body, pictures, request_id)
        encoded = [picture.encoded for picture in pictures]
        stream = self._peers[model.id].stream("chat_for", model, body, encoded, request_id)
        first = await anext(stream)
        return first if isinstance(first, dict) else _with_first(first, stream)

    async def answer(
        self, model: Model, picture: Picture, questions: list[ImageQuestion], alternatives: int, request_id: str
    ) -> list[Answer]:
        """As Service.answer."""
        if model.kind != "merged":
            return await self._engine.answer(model, picture, questions, alternatives, request_id)
        peer, encoded = self._peers[model.id], picture.encoded
        return await peer.call("answer_for", model, encoded, questions, alternatives, request_id)

    async def health(self) -> None:
        """As Service.health."""
        await self._server.check_health()


async def _with_first(first: str, rest: AsyncIterator[ChatReply | str]) -> AsyncGenerator[str, None]:
    yield first
    async for event in rest:
        if isinstance(event, str):  # a reply is the first and only one
            yield event
