"""Whether the tensors of a checkpoint are those that its configuration asks for.

transformers gives a tensor that is missing random values, and goes on. Here its own loader is asked, with all that it renames,
joins, ties and leaves out for an architecture, but with tensors that have no values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from leaml.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from leaml.config import ModelConfig
    from leaml.vlm.checkpoint import Tensor

_TYPES = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
_SHOWN = 3


def check(config: ModelConfig, described: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compare names and shapes in the headers of a checkpoint with the architecture; half a second.

    Args:
        config: The model.
        described: Its configuration.
        tensors: Of its files.

    Raises:
        ModelError: Some are missing, or have another shape.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        kind = type(AutoModelForImageTextToText.from_config(described, trust_remote_code=config.trust_remote_code))
    state = {
        tensor: torch.empty(shape, dtype=_TYPES.get(stored, torch.float32), device="meta")
        for tensor, (stored, shape) in tensors.items()
    }
    options: dict[str, Any] = {"device_map": "meta", "ignore_mismatched_sizes": True, "output_loading_info": True}
    with _without_report():
        _, info = kind.from_pretrained(None, config=described, state_dict=state, **options)
    found = []
    if missing := sorted(info["missing_keys"]):
        found.append(f"{_counted(missing)} missing ({_first(missing)})")
    if others := sorted(info["mismatched_keys"]):
        shapes = [f"{tensor} is {tuple(stored)}, should be {tuple(wanted)}" for tensor, stored, wanted in others]
        found.append(f"{_counted(others)} of another shape ({_first(shapes)})")
    if found:
        msg = (
            f"the weights of the model {config.name!r} do not fit its config.json: {' and '.join(found)}; the two are"
            " from different models or versions, or the checkpoint was written only in part: copy all of its files again"
        )
        raise ModelError(msg)


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """What transformers warns of is told here, and nothing is trained for it."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _counted(tensors: list[Any]) -> str:
    return "1 tensor is" if len(tensors) == 1 else f"{len(tensors)} tensors are"


def _first(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
