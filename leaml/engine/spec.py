"""The plain data of which an actor builds the engine that it is to have."""

from __future__ import annotations

from dataclasses import dataclass, replace

from leaml.engine.interface import Engine, EngineParameters
from leaml.io.node_cache import local_model


@dataclass(frozen=True)
class EngineSpec(EngineParameters):
    """How to build an engine."""

    def build(self) -> Engine:
        """The engine; its packages are imported here, which takes seconds."""
        if self.url:
            from leaml.engine.openai_engine import OpenAIEngine

            return OpenAIEngine(self)
        from leaml.engine.vllm_engine import VllmEngine

        return VllmEngine(replace(self, model=local_model(self.model)))
