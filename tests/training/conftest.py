"""What the tests of the training loop have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from leaml.vlm.load import VLM
from research.tiny import build


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny() -> VLM:
    """A model of few layers with random weights."""
    tokenizer = build.build_tokenizer()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "TEXT_LAYERS", 2)
        patch.setattr(build, "VISION_LAYERS", 1)
        return VLM(build.build_model(tokenizer).eval(), build.build_processor(tokenizer), "random")
