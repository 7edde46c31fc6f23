"""Where the files of a model that an engine loads are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from leaml.config import ModelConfig

if TYPE_CHECKING:
    from leaml.vlm.processor import Processor


def source_of(model: ModelConfig) -> tuple[str, Processor]:
    """What vLLM is to load, and its processor: of a hub's model the folder of the cache that has all of it.

    Told the name, vLLM and transformers ask the hub for each file, and wait for one that is out of reach.

    Args:
        model: A folder of this machine or a hub id.

    Raises:
        OSError: It has no processor that transformers can read.
        ValueError: The same.
    """
    from transformers import AutoProcessor

    from leaml.vlm import checkpoint

    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    cached = None if Path(model.name).is_dir() else checkpoint.whole_in_cache(model, trained=False)
    if cached is not None:
        with contextlib.suppress(OSError, ValueError):  # only weights are there, and the hub has the rest
            return cached, AutoProcessor.from_pretrained(cached, **options)
    return model.name, AutoProcessor.from_pretrained(model.name, **options)
