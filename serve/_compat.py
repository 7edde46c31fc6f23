"""Private parts of Ray 2.60 and vLLM that are used here, each with the reason; imported in replicas, and to deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

if TYPE_CHECKING:
    import grpc
    from ray.llm._internal.common.callbacks.base import CallbackCtx
    from ray.serve import Deployment
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.openai.cli_args import FrontendArgs
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = [
    "ErrorResponse",
    "InProcessEngine",
    "client_of",
    "engine_dead_error",
    "forget_engine",
    "lora_request",
    "registry_of",
    "replica_grpc_on_node_address",
    "versioned",
]
# ErrorResponse: what an LLMServer yields for an error; the public class of this name is a subclass, which it never makes


class InProcessEngine(VLLMEngine):
    """Ray's engine; on a CPU the model runs in vLLM's core process itself, where Ray would put one more process between.

    The class to derive from is private, and so is the method in which the engine's configuration is whole.
    """

    def _prepare_engine_config(self, callback_ctx: CallbackCtx) -> tuple[AsyncEngineArgs, FrontendArgs, VllmConfig]:
        args, frontend, config = super()._prepare_engine_config(callback_ctx)
        parallel = config.parallel_config
        if parallel.distributed_executor_backend == "mp" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        return args, frontend, config


def client_of(server: LLMServer) -> AsyncLLM:
    """vLLM's engine client of a started LLMServer, which has no way to ask for log-probabilities of a given reply."""
    client: AsyncLLM = _engine(server)._engine_client
    return client


def registry_of(server: LLMServer) -> OpenAIServingModels:
    """vLLM's registry of models of a started LLMServer, whose own loading of adapters takes them from a bucket alone."""
    registry: OpenAIServingModels = _engine(server)._oai_models
    return registry


def _engine(server: LLMServer) -> Any:
    return server.engine  # of which Ray declares the public methods alone


def lora_request(name: str, folder: str) -> LoadLoRAAdapterRequest:
    """What vLLM's registry of models is given to load a LoRA; the module of the class is none that vLLM documents."""
    from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

    return LoadLoRAAdapterRequest(lora_name=name, lora_path=folder)


def engine_dead_error() -> type[Exception]:
    """What vLLM raises once its engine has died; its public exceptions leave it out."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError


def forget_engine(llm_config: LLMConfig) -> None:
    """Let an LLMConfig make its engine's configuration anew: it keeps the first, made where it was deployed, of other paths."""
    llm_config._engine_config = None


def versioned(deployment: Deployment, version: str) -> Deployment:
    """A deployment that Serve updates in place while `version` is the same; the public argument of that name is gone."""
    return deployment.options(version=version, _internal=True)


def replica_grpc_on_node_address() -> None:
    """Let the replica in this process take calls of other replicas at its node's address, which is where they look for it.

    By itself its gRPC server listens on every interface, and unpickles what it is sent. Serve starts it after the
    deployment's own `__init__`, which is where this must be called.
    """
    import ray
    from ray._common.network_utils import build_address
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray.serve._private import replica

    def add_port(server: grpc.Server, address: str) -> int:
        port = address.rpartition(":")[2]
        return int(add_port_to_grpc_server(server, build_address(ray.util.get_node_ip_address(), port)))

    replica.add_port_to_grpc_server = add_port
