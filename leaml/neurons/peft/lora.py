"""Exact export of a neuron adapter as a LoRA, for servers that swap LoRA adapters while they run.

Rows of a weight are a LoRA of rank k: A (k, in) = the deltas, B (out, k) = one-hot columns that put delta i into row rows[i],
scaling alpha / r = 1. Nothing is approximated: the products with 0 and 1 are exact in every floating-point type.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from leaml.errors import ConfigError, ModelError
from leaml.neurons.peft.config import NeuronConfig
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
        max_rank: Most rows a module may have; None: any number, for PEFT alone.

    Returns:
        The written configuration; its `r` is the `max_lora_rank` (rounded up) to give vLLM.

    Raises:
        ConfigError: no such adapter.
        ModelError: the adapter has no rows, more than `max_rank` in a module, or whole saved modules beside them.
    """
    source = model.peft_config.get(adapter)
    if not isinstance(source, NeuronConfig):
        msg = f"the model has no neuron adapter {adapter!r}; its adapters are {sorted(model.peft_config)}"
        raise ConfigError(msg)
    layers = adapter_layers(model, adapter)
    ranks = {name: len(layer.neuron_rows[adapter]) for name, layer in layers.items()}
    _check(adapter, ranks, max_rank, source.modules_to_save)
    lora_bias = any(layer.neuron_bias[adapter].any() for layer in layers.values() if adapter in layer.neuron_bias)
    state = {}
    for name, layer in layers.items():
        rows, delta = layer.neuron_rows[adapter], layer.neuron_delta[adapter].detach()
        places = torch.arange(len(rows), device=rows.device)
        b = delta.new_zeros(layer.out_features, len(rows))
        b[rows, places] = 1
        state[f"base_model.model.{name}.lora_A.weight"] = delta.contiguous().cpu()
        state[f"base_model.model.{name}.lora_B.weight"] = b.cpu()
        if lora_bias:
            bias = delta.new_zeros(layer.out_features)
            if adapter in layer.neuron_bias:
                bias[rows] = layer.neuron_bias[adapter].detach()
            state[f"base_model.model.{name}.lora_B.bias"] = bias.cpu()
    config = _config(ranks, lora_bias, source.base_model_name_or_path)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(state, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    return config


def _check(adapter: str, ranks: dict[str, int], max_rank: int | None, modules_to_save: list[str] | None) -> None:
    if not ranks:
        msg = f"adapter {adapter!r} has no rows, so there is no LoRA to write; serve the base model"
        raise ModelError(msg)
    largest = max(ranks, key=lambda name: ranks[name])
    if max_rank is not None and ranks[largest] > max_rank:
        msg = (
            f"adapter {adapter!r} trains {ranks[largest]} rows of {largest!r}, which is a LoRA of that rank, over the limit of"
            f" {max_rank}; merge it (merge_and_unload), select fewer rows, or pass max_rank=None if only PEFT will load it"
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
