"""What a replica is given when it is deployed, and what it says of itself."""

from __future__ import annotations

from typing import TypedDict

from leaml.config import ModelConfig
from leaml.run.model_source import ModelSource
from serve.service import Model


class UserConfig(TypedDict):
    """What a running replica takes over without a restart, see `serve.deploy.DeploymentPlan`; `settings` are plain data."""

    settings: dict[str, object]
    digests: list[str]
    environment: dict[str, str]
    cards: dict[str, dict[str, object]]
    adapters: list[dict[str, str]]


class ServerState(UserConfig):
    """What a replica was deployed with, what it serves, and by which process."""

    found: ModelSource
    main: Model
    merged: list[tuple[Model, ModelConfig, str]]
    models: list[Model]
    pid: int
    unfinished: int
