"""What the neuron adapter tests share: small networks, a selection of their rows, and training with or without a mask."""

from __future__ import annotations

import random

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from leaml.neurons.peft import NeuronConfig

STEPS = 12


class Net(nn.Module):
    """Linears with and without bias, in a list and alone, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8, bias=False)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = nn.functional.silu(layer(x))
        return self.head(self.norm(x))


SELECTED = {"layers.0": [1, 4, 7], "layers.1": [0, 5], "head": [2]}
EVERYTHING = {"layers.0": range(8), "layers.1": range(8), "head": range(4)}


def net(dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def adapted(base: nn.Module, rows: dict = SELECTED, **options: object) -> PeftModel:
    return get_peft_model(base, NeuronConfig(rows=rows, **options))


def llama(**options: object) -> LlamaForCausalLM:
    """A random two-layer LLaMA; the q, k, v and o projections have biases unless told otherwise."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 60}
    config = {**sizes, "num_hidden_layers": 2, "attention_bias": True, "attn_implementation": "eager", **options}
    return LlamaForCausalLM(LlamaConfig(**config)).eval()


def llama_rows(model: nn.Module, count: int = 5) -> dict[str, list[int]]:
    """`count` rows of every Linear of the layers."""
    rng = random.Random(1)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    return {name: rng.sample(range(module.out_features), count) for name, module in linears.items()}


TOKENS = torch.randint(0, 60, (4, 9), generator=torch.Generator().manual_seed(3))


def llama_blocks(model: nn.Module, count: int = 5) -> dict[str, dict[str, list[int]]]:
    """`rows` and `columns` of `count` hidden neurons of every feed-forward block, and rows of the attention."""
    rows = llama_rows(model, count)
    columns = {name: rows[name.replace("down", "up")] for name in list(rows) if name.endswith("down_proj")}
    rows = {name: rows[name.replace("gate", "up")] for name in rows if name not in columns}
    return {"rows": rows, "columns": columns}


def randomise(model: nn.Module, scale: float = 0.3, adapter: str = "default") -> None:
    """Deltas as after a long training."""
    generator = torch.Generator().manual_seed(len(adapter))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "neuron_" in name and name.endswith(f".{adapter}"):
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def data(step: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(5, 3, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(0, 4, (15,), generator=generator)


def train(
    model: nn.Module, parameters: list[nn.Parameter], decay: float = 0.0, masks: dict[str, torch.Tensor] | None = None
) -> tuple[list[float], torch.optim.AdamW]:
    """Losses and optimizer of AdamW with clipping that bites; `masks` zeroes gradients by parameter name before clipping."""
    optimizer, losses = torch.optim.AdamW(parameters, lr=0.02, weight_decay=decay), []
    for step in range(STEPS):
        inputs, targets = data(step, next(model.parameters()).dtype)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets)
        loss.backward()
        losses.append(loss.item())
        for name, parameter in model.named_parameters() if masks is not None else ():
            parameter.grad *= masks[name]
        assert nn.utils.clip_grad_norm_(parameters, 0.05) > 0.05
        optimizer.step()
    return losses, optimizer


def masks(model: Net, rows: dict, columns: dict | None = None) -> dict[str, torch.Tensor]:
    """By parameter name: 1 where an entry is a selected row's or column's, 0 elsewhere."""
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, chosen in rows.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in found:
                found[f"{name}.{kind}"][list(chosen)] = 1
    for name, chosen in (columns or {}).items():
        found[f"{name}.weight"][:, list(chosen)] = 1
    return found


def saved_bytes(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes of activations that the graph of a forward keeps: each storage once, parameters and buffers not counted."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in known:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        output = model(*inputs)
    assert output.requires_grad or not kept
    return sum(kept.values())


def gradients(model: nn.Module, *losses: torch.Tensor) -> list[torch.Tensor]:
    """Of what is trained, after the backward passes of some losses."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return [p.grad.clone() for p in trainable(model)]
