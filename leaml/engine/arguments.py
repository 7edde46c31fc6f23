"""Arguments of vLLM's engine, of steps and servers alike."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from leaml.config import EngineConfig
from leaml.errors import ConfigError

_CPU = {
    # vLLM's CPU sampler cannot rewind a seeded generator after a partial prefill, so prefills are never cut
    "enable_chunked_prefill": False,
    "enforce_eager": True,
    "mm_processor_cache_gb": 0.5,
}


def arguments(engine: EngineConfig, gpus: float, images: int = 1) -> dict[str, Any]:
    """What vLLM is told, but for the model and `engine.options`.

    Args:
        engine: The section of the configuration.
        gpus: Of one engine.
        images: Most images of a prompt. Videos there are none: vLLM would reserve memory for the 999 that it allows otherwise.
    """
    found: dict[str, Any] = {
        "limit_mm_per_prompt": {"image": images, "video": 0},
        "seed": 0,
        "max_num_seqs": engine.sequences,
        "disable_log_stats": True,
    }
    if gpus:
        found["tensor_parallel_size"] = max(1, int(gpus))
        if gpus < 1:
            found["gpu_memory_utilization"] = 0.9 * gpus
    else:
        found |= _CPU

    given = {
        "max_model_len": engine.max_model_len,
        "gpu_memory_utilization": engine.memory_share,
        "quantization": engine.quantization,
        "mm_processor_cache_gb": engine.processor_cache_gb,
    }
    return found | {key: value for key, value in given.items() if value is not None}


def with_options(found: Mapping[str, Any], options: Mapping[str, object]) -> dict[str, Any]:
    """Arguments with those that a user gives, which win; where both are mappings, key by key."""
    made = dict(found)
    for name, value in options.items():
        mine = made.get(name)
        made[name] = {**mine, **value} if isinstance(mine, dict) and isinstance(value, dict) else value
    return made


def refuse_unknown(options: Mapping[str, object], key: str) -> None:
    """Refuse options that vLLM does not have.

    Args:
        options: `engine.options`.
        key: Of the section, for the message.

    Raises:
        ConfigError: With the key and the names that are near. Where vLLM is not installed nothing is refused here.
    """
    known = known_options() if options else frozenset()
    for name in options if known else ():
        if name not in known:
            near = get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see vLLM's EngineArgs for all names"
            msg = f"{key}.options.{name}: vLLM's engine has no such option; {hint}"
            raise ConfigError(msg)


@functools.cache
def known_options() -> frozenset[str]:
    """Names of vLLM's engine arguments, read from its source: an import takes ten seconds. Empty where it is not installed."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    file = Path(found.submodule_search_locations[0], "engine", "arg_utils.py")
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = [line.target for line in node.body if isinstance(line, ast.AnnAssign)]
            return frozenset(each.id for each in fields if isinstance(each, ast.Name))
    return frozenset()
