"""A model's weights and generation config on disk, under the names and in the shapes that its checkpoint had."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from leaml import _compat
from leaml.errors import ModelError
from leaml.vlm.checkpoint import Shapes

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

log = logging.getLogger(__name__)

SHARD = "5GB"
"""Most that a file of weights holds."""
_ASKED = {"glm4v_text": {"attention_bias": True}}
"""By type of the language model. Without it vLLM leaves out the biases of GLM-4V's attention, without a word."""
_CHECKPOINTS: WeakKeyDictionary[nn.Module, Shapes] = WeakKeyDictionary()
"""Of each model that was loaded: the tensors of the files that it came from."""


def remember(model: PreTrainedModel, name: str, checkpoint: Shapes) -> None:
    """Keep what a model's checkpoint holds, so that `save_weights` writes the same; found out before anything is trained.

    Args:
        model: As it was loaded.
        name: Of the model, for the message.
        checkpoint: The tensors of its files.

    Raises:
        ModelError: The model would be saved with other names or shapes, which vLLM does not read.
    """
    with _layout_of(model, checkpoint):
        _refuse_other_tensors(name, _written(model), checkpoint, _compat.unstored(model, checkpoint))
    _CHECKPOINTS[model] = checkpoint


def save_weights(model: PreTrainedModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Write weights, configuration and generation config.

    Args:
        model: Of transformers.
        folder: Made if missing.
        dtype: Type of the weights on disk; None: as they are.

    Raises:
        ModelError: The model has changed since it was loaded, so that a tensor has another shape or name.
    """
    checkpoint = _CHECKPOINTS.get(model)
    with _layout_of(model, checkpoint or {}), _writable_generation(model, folder):
        if checkpoint:
            _refuse_other_tensors(type(model).__name__, _written(model), checkpoint, _compat.unstored(model, checkpoint))
        state = None if dtype is None else _cast(model, dtype)
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
    path = folder / "config.json"
    written = _for_vllm(json.loads(path.read_text()))
    if dtype is not None:
        written = _with_dtype(written, str(dtype).split(".")[-1])
    path.write_text(json.dumps(written, indent=2) + "\n")


def _written(model: PreTrainedModel) -> Shapes:
    """The tensors that `save_pretrained` writes."""
    return {name: tuple(tensor.shape) for name, tensor in _compat.saved_tensors(model).items()}


@contextlib.contextmanager
def _layout_of(model: PreTrainedModel, checkpoint: Shapes) -> Iterator[None]:
    """Tensors that were transposed when they were loaded are transposed back, where transformers leaves them as they are."""
    written = _written(model)
    turned = {n for n, shape in checkpoint.items() if shape != written.get(n, shape) and shape == _transposed(written[n])}
    with _compat.transposed_when_saved(model, turned):
        yield


def _transposed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape


def _refuse_other_tensors(name: str, written: Shapes, checkpoint: Shapes, unstored: Collection[str]) -> None:
    other = [n for n, shape in written.items() if shape != checkpoint.get(n, shape)]
    if other:
        msg = (
            f"{len(other)} tensors of the model {name!r} would be saved in another shape than its checkpoint has, which vLLM"
            f" does not read: {other[0]} as {list(written[other[0]])}, in the checkpoint {list(checkpoint[other[0]])}; use a"
            " checkpoint that this version of transformers has written, or another version"
        )
        raise ModelError(msg)
    new = sorted(written.keys() - checkpoint.keys() - set(unstored))
    if new:
        msg = (
            f"{len(new)} tensors of the model {name!r} are not in its checkpoint, {new[0]} first: their values are random, or"
            " this version of transformers saves them under names that vLLM does not read; check that the checkpoint is whole"
        )
        raise ModelError(msg)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    cast: dict[tuple[int, torch.Size], torch.Tensor] = {}  # tied weights stay one tensor, and are written once
    state = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        state[name] = cast.setdefault(key, tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor)
    return state


def _for_vllm(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with what vLLM asks it for, where transformers' model has it whatever the configuration says."""
    text = config.get("text_config")
    if isinstance(text, dict):
        text.update(_ASKED.get(str(text.get("model_type")), {}))
    return config


def _with_dtype(tree: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A configuration with its `dtype` set, in every sub-configuration that has one."""
    return {
        k: dtype if k in ("dtype", "torch_dtype") else _with_dtype(v, dtype) if isinstance(v, dict) else v
        for k, v in tree.items()
    }


@contextlib.contextmanager
def _writable_generation(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """A generation config that transformers writes: it refuses some that it has read, after all the training.

    Such as temperature without `do_sample`. It is written as it was read, so that the model answers as its base does.
    """
    given: GenerationConfig | None = model.generation_config if model.can_generate() else None
    if given is None or _is_writable(given):
        yield
        return
    model.generation_config = type(given)()
    log.info("the generation config, which transformers does not write, is saved as it was read")
    try:
        yield
    finally:
        model.generation_config = given
    given.to_json_file(folder / "generation_config.json")


def _is_writable(generation: GenerationConfig) -> bool:
    try:
        generation.validate(strict=True)
    except ValueError:
        return False
    return True
