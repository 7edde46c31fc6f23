"""Whether transformers can load what a config.json describes, as a model that reads images and text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from leaml.config import ModelConfig
from leaml.errors import ModelError
from leaml.vlm import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

AUTO_CLASS = "AutoModelForImageTextToText"
"""The class of transformers that models are loaded with, as `auto_map` names it."""
TORCHVISION = (
    "; its processor needs torchvision, which every installation of LEAML brings: install its packages again (`leaml doctor`"
    " says how), or the torchvision of the same build as torch"
)
BOTH_WAYS = {"gemma3", "paligemma"}
"""Model types whose attention over a prompt, or over the image in it, is not causal."""
_SEES = re.compile("vision|visual|image|vit|pixel|^mm_")


def refuse_text_model(config: ModelConfig, raw: Mapping[str, object]) -> None:
    """Raise ModelError for a config.json that says nothing of images; transformers need not be imported for that."""
    if "auto_map" in raw or "vocab_size" not in raw:
        return  # a model with code of its own, or none that reads text
    if not any(_SEES.search(key) for key in raw):
        raise _reads_text_only(config, str(raw.get("model_type", "unknown type")))


def refuse_own_code(config: ModelConfig, raw: Mapping[str, object], trained: bool) -> None:
    """Refuse a model with code of its own that `load` could not use.

    `load` uses code that is trusted and registered as `AUTO_CLASS`. A model of any other code, that
    transformers does not have itself, is not trained; vLLM has implementations of its own of some
    such models, which may be served.

    Args:
        config: The model, and whether its code is trusted.
        raw: Content of its config.json.
        trained: Whether it is to be trained.

    Raises:
        ModelError: With the setting, or the kind of model, that would do.
    """
    own = raw.get("auto_map")
    if not isinstance(own, dict) or not own:
        return

    native = raw.get("model_type") in _known()
    if AUTO_CLASS in own:
        if native or config.trust_remote_code:
            return
        msg = (
            f"the model {config.name!r} is code that comes with it, and that is not run unless you say so: set"
            " trust_remote_code to true if you trust its author"
        )
        raise ModelError(msg)

    if native and config.trust_remote_code and "AutoConfig" in own:
        msg = (
            f"the model {config.name!r} ({raw['model_type']}) is native to transformers, but trust_remote_code replaces its"
            f" configuration by code that has no {AUTO_CLASS}; set trust_remote_code to false"
        )
        raise ModelError(msg)

    if trained and not native:
        msg = (
            f"the model {config.name!r} is code of its own ({', '.join(sorted(own))}), which cannot be loaded for training:"
            f" architectures native to transformers are trained, and code that is registered as {AUTO_CLASS}; look for a"
            " conversion of the model, whose name often ends in -hf or -HF"
        )
        raise ModelError(msg)


def check_architecture(config: ModelConfig, found: PreTrainedConfig) -> None:
    """Raise ModelError for an architecture that transformers cannot load as an image-text-to-text model."""
    own_code = set(getattr(found, "auto_map", None) or {})
    if found.model_type in _known() or (config.trust_remote_code and any("Model" in name for name in own_code)):
        return
    if getattr(found, "vision_config", None) is None:
        raise _reads_text_only(config, found.model_type)
    msg = (
        f"the model {config.name!r} has the architecture {found.model_type!r}, which transformers cannot load as an"
        f" image-text-to-text model; give one that {AUTO_CLASS} knows"
    )
    raise ModelError(msg)


def attends_both_ways(config: ModelConfig) -> bool:
    """Whether a model's attention over its prompt goes both ways, as config.json says; False where there is none at hand."""
    folder = checkpoint.stored(config)
    if folder is None:
        return False
    try:
        return json.loads((Path(folder) / "config.json").read_text()).get("model_type") in BOTH_WAYS
    except (OSError, ValueError, AttributeError):
        return False  # loading tells


def check_packages(config: ModelConfig, model_type: str) -> None:
    """Raise ModelError for a processor with a video part where torchvision is missing."""
    if find_spec("torchvision"):
        return
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

    try:
        kind = processor_class_from_name(PROCESSOR_MAPPING_NAMES.get(model_type) or "")
        missing = kind is not None and "video_processor" in kind.get_attributes()
    except ImportError as error:
        missing = "torchvision" in str(error)
    if missing:
        msg = f"the model {config.name!r} ({model_type}) cannot be read here: torchvision is missing{TORCHVISION}"
        raise ModelError(msg)


def _known() -> Mapping[str, object]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _reads_text_only(config: ModelConfig, model_type: str) -> ModelError:
    return ModelError(
        f"the model {config.name!r} ({model_type}) has no vision tower, it reads text only; give an"
        " image-text-to-text model such as HuggingFaceTB/SmolVLM-256M-Instruct or leaml-tiny"
    )
