"""Private parts of transformers 5, PEFT, accelerate, torch 2.13 and vLLM 0.32 that are used here, each with the reason."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft.tuners._buffer_dict import BufferDict
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


def buffer_dict() -> BufferDict:
    """An empty module that holds buffers by name, as `nn.ParameterDict` holds parameters.

    Torch has none, and PEFT's own methods keep the buffers of their adapters in this one.
    """
    from peft.tuners._buffer_dict import BufferDict

    return BufferDict()


def add_peft_type(name: str) -> None:
    """Add a member to `PeftType`: PEFT knows its methods by this enumeration, and has no way to extend it.

    An Enum with members cannot be subclassed; this does what its metaclass does for a member in the class body.
    """
    from peft.utils import PeftType

    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)  # before it is in the map, since members cannot be assigned again
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate keeps the module's weight elsewhere until it is called, which only its hook on the module tells."""
    return bool(getattr(getattr(module, "_hf_hook", None), "offload", False))


def is_eager(config: PretrainedConfig) -> bool:
    """Whether a model with this configuration computes attention eagerly; only a private field says so."""
    return bool(config._attn_implementation == "eager")


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices. Torch asks oneDNN in this way, and has no public one."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def compute_with(threads: int) -> None:
    """Let the thread that calls this compute with so many, itself among them.

    vLLM replaces `torch.set_num_threads` by a function that does nothing in a process that has its CPU worker.
    """
    import torch

    torch.get_num_threads()  # torch gives a thread the process's number at its first question, and would do so afterwards
    torch._C.set_num_threads(threads)


def image_tokens(processor: Any, size: tuple[int, int]) -> int | None:
    """Tokens of an image of `size` (width, height) as a processor counts them without an image; None: it cannot.

    vLLM asks for it in this way. Not every processor is right about it, in particular where its settings were changed.
    """
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    try:
        found = count(image_sizes=[(size[1], size[0])]).num_image_tokens if count else None
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return None
    return int(found[0]) if found else None


def saved_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What `save_pretrained` writes, on the meta device: it says so nowhere before it has written the files."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = remove_tied_weights_from_state_dict(dict(model.state_dict()), model)
    return dict(revert_weight_conversion(model, {name: tensor.to("meta") for name, tensor in state.items()}))


def unstored(model: PreTrainedModel, stored: Collection[str]) -> set[str]:
    """Names of tensors that a whole checkpoint with the names `stored` may lack.

    One of two tied weights may be stored, whichever of the two `save_pretrained` writes, and some models list what they never
    store.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    ignored = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    listed = {name for name in model.state_dict() if any(pattern.search(name) for pattern in ignored)}
    return listed | {source for target, source in tied.items() if target in stored}


@contextlib.contextmanager
def transposed_when_saved(model: PreTrainedModel, names: Collection[str]) -> Iterator[None]:
    """Have `save_pretrained` transpose tensors back that `from_pretrained` has transposed.

    An operation that looks at the shapes first (`Transpose(check_dims=True)`, for the experts of Qwen3-VL-MoE) leaves them as
    they are on the way back, since they have the shape of the model already.

    Args:
        model: As it was loaded.
        names: Of the tensors in the checkpoint.
    """
    looking = [
        operation
        for converter in getattr(model, "_weight_conversions", None) or []
        if any(re.search(pattern, name) for pattern in converter.source_patterns for name in names)
        for operation in getattr(converter, "operations", [])
        if getattr(operation, "check_dims", False)
    ]
    for operation in looking:
        operation.check_dims = False
    try:
        yield
    finally:
        for operation in looking:
            operation.check_dims = True


def engine_dead_error() -> type[Exception]:
    """What vLLM raises once its core is dead; the public class above it is that of other failures of a server too."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError


@contextlib.contextmanager
def nonzero_of_meta() -> Iterator[None]:
    """Let tensors without values be indexed by conditions, all of which hold: SmolVLM leaves out images of padding alone.

    Torch names this setting in its own message, and has it in an experimental module.
    """
    from torch.fx.experimental import _config

    with _config.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]  # added when it is imported
        yield
