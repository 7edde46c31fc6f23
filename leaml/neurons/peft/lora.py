"""Exact export of a neuron adapter as a LoRA, for servers that swap LoRA adapters while they run.

Rows of a weight are a LoRA of rank k: A (k, in) = the deltas, B (out, k) = one-hot columns that put delta i into row rows[i],
scaling alpha / r = 1. Columns are one with A = one-hot rows that take input columns[i], B (out, k) = the deltas; a module with
both has both, one below the other. Nothing is approximated: products with 0 and 1 are exact in every floating-point type.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch.nn.functional import one_hot

from leaml.errors import ConfigError, ModelError
from leaml.neurons.peft.config import NeuronConfig
from leaml.neurons.peft.layer import NeuronLinear
from leaml.neurons.peft.model import adapter_layers

MAX_RANK = 512
"""The largest rank vLLM serves (`max_lora_rank`)."""


def export_lora(model: PeftModel, folder: str | Path, adapter: str = "default", max_rank: int | None = MAX_RANK) -> LoraConfig:
    """Write a neuron adapter as a LoRA that PEFT (`PeftModel.from_pretrained`) and vLLM load.

    A LoRA has no bias entries of its own. Trained ones become `lora_bias`, which PEFT reads (and merges only if all modules
    have a bias) and vLLM refuses; train with `train_bias=False`, or merge, for vLLM.

    Args:
        model: The PEFT model with the adapter.
        folder: Local folder, made if missing.
        adapter: Name of the adapter.
        max_rank: Most rows and columns a module may have together; None: any number, for PEFT alone.

    Returns:
        The written configuration; its `r` is the `max_lora_rank` (rounded up) to give vLLM.

    Raises:
        ConfigError: no such adapter.
        ModelError: the adapter has no rows or columns, more than `max_rank` in a module, or whole saved modules beside them.
    """
    source = model.peft_config.get(adapter)
    if not isinstance(source, NeuronConfig):
        msg = f"the model has no neuron adapter {adapter!r}; its adapters are {sorted(model.peft_config)}"
        raise ConfigError(msg)

    layers = adapter_layers(model, adapter)
    ranks = {name: sum(len(i) for i in layer.indices(adapter).values()) for name, layer in layers.items()}
    _check(adapter, ranks, max_rank, source.modules_to_save)
    lora_bias = any(layer.neuron_bias[adapter].any() for layer in layers.values() if adapter in layer.neuron_bias)

    state = {}
    for name, layer in layers.items():
        a, b = _factors(layer, adapter)
        state[f"base_model.model.{name}.lora_A.weight"] = a.cpu()
        state[f"base_model.model.{name}.lora_B.weight"] = b.cpu()
        if lora_bias:
            bias = a.new_zeros(layer.out_features)
            if adapter in layer.neuron_bias:
                bias[layer.neuron_rows[adapter]] = layer.neuron_bias[adapter].detach()
            state[f"base_model.model.{name}.lora_B.bias"] = bias.cpu()

    config = _config(ranks, lora_bias, source.base_model_name_or_path)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(state, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    return config


def _factors(layer: NeuronLinear, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) of one module."""
    a: list[torch.Tensor] = []
    b: list[torch.Tensor] = []
    if adapter in layer.neuron_delta:
        a.append(delta := layer.neuron_delta[adapter].detach())
        b.append(one_hot(layer.neuron_rows[adapter], layer.out_features).t().to(delta))
    if adapter in layer.neuron_column_delta:
        b.append(delta := layer.neuron_column_delta[adapter].detach())
        a.append(one_hot(layer.neuron_columns[adapter], layer.in_features).to(delta))
    return torch.cat(a).contiguous(), torch.cat(b, 1).contiguous()


def _check(adapter: str, ranks: dict[str, int], max_rank: int | None, modules_to_save: list[str] | None) -> None:
    if not ranks:
        msg = f"adapter {adapter!r} has no rows or columns, so there is no LoRA to write; serve the base model"
        raise ModelError(msg)
    largest = max(ranks, key=lambda name: ranks[name])
    if max_rank is not None and ranks[largest] > max_rank:
        msg = (
            f"adapter {adapter!r} trains {ranks[largest]} rows and columns of {largest!r}, which is a LoRA of that rank, over"
            f" the limit of {max_rank}; merge it (merge_and_unload), select fewer, or pass max_rank=None if only PEFT loads it"
        )
        raise ModelError(msg)
    if modules_to_save:
        msg = f"adapter {adapter!r} also trains whole modules ({modules_to_save}), which a LoRA cannot hold; merge it"
        raise ModelError(msg)


def _config(ranks: dict[str, int], lora_bias: bool, base: str | None) -> LoraConfig:
    exact = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}  # else a name also matches where it is a suffix
    return LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=exact,
        alpha_pattern=dict(exact),
        target_modules="|".join(re.escape(name) for name in ranks),  # a regular expression matches the whole name
        lora_bias=lora_bias,
        base_model_name_or_path=base,
        inference_mode=True,
    )
