"""Private parts of PEFT 0.21, accelerate 1 and torch 2.13 that this package uses, in one place, each with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft.tuners._buffer_dict import BufferDict
    from torch import nn


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


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices. Torch asks oneDNN in this way, and has no public one."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
