"""The plain data of which an actor builds the engine that it is to have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from leaml.engine.interface import Engine, EngineParameters
from leaml.io import files


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


def local_model(name: str) -> str:
    """`name` itself, or for an s3:// folder a local copy, made once per machine and content."""
    if "://" not in name or not files.is_remote(name):
        return name
    content = hashlib.sha256(f"{name}\n{files.fingerprint(name)}".encode()).hexdigest()
    return files.made_once(f"leaml-model-{content[:16]}", lambda where: files.download_tree(name, where))
