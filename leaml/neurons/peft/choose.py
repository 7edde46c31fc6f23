"""Which neurons an adapter trains, where the user names modules and a share and not the rows themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn

from leaml import score_methods
from leaml.errors import ConfigError, ModelError
from leaml.neurons import scores, selection
from leaml.neurons.gradients import ExampleBatch
from leaml.neurons.peft.config import GRADIENT, NeuronConfig, Targets, as_texts
from leaml.training.objectives import reply_logits


def targets(model: nn.Module, wanted: Targets) -> dict[str, nn.Linear]:
    """The Linear modules meant, by name; never the head that makes logits.

    Raises:
        ConfigError: No Linear is meant.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    every = _as_without_adapters({n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head})
    if wanted is None:
        try:
            return _as_without_adapters(scores.all_linears(model))
        except ModelError:  # no vision-language model
            return every
    if wanted == "all-linear":
        return every
    if isinstance(wanted, str):
        found = {n: m for n, m in every.items() if re.fullmatch(wanted, n)}
    else:
        found = {n: m for n, m in every.items() if any(n == end or n.endswith(f".{end}") for end in wanted)}
    if not found:
        example = next(iter(every), "none")
        msg = f"target_modules {wanted!r} means none of the model's {len(every)} Linear modules (for example {example!r})"
        raise ConfigError(msg)
    return found


def _as_without_adapters(linears: dict[str, nn.Linear]) -> dict[str, nn.Linear]:
    """The Linear modules under the names that they had before a first adapter was put around them."""
    return {name.removesuffix(".base_layer"): linear for name, linear in linears.items()}


def _chosen_without_data(config: NeuronConfig, model: nn.Module) -> selection.Selection:
    if score_methods.method(config.score_method).of == "gradients":
        ways = "config = leaml.score_neurons(model, batches, config) before get_peft_model"
        msg = f"selection {config.selection!r} needs data: {ways}"
        raise ConfigError(msg)
    linears = targets(model, config.target_modules)
    found = scores.score(linears, config.score_method, seed=config.seed)
    return selection.select(found, float(config.ratio or 0.0), "module", False)


def resolve(config: NeuronConfig, model: nn.Module) -> None:
    """Replace a selection, or the folder of one, by its rows and columns, once the model is known.

    Raises:
        ConfigError: No rows given, and nothing to choose them by.
        DataError: No selection in the folder.
        ModelError: The selection was made for another model.
    """
    if config.rows is None and config.selection is not None:
        config.rows, config.columns = as_texts(_chosen_without_data(config, model), "rows"), {}
    if config.rows is None:
        msg = (
            "NeuronConfig needs rows (a dict of module name -> row indices, or the folder of a select step), or a selection "
            "and a ratio"
        )
        raise ConfigError(msg)
    if isinstance(config.rows, str):
        found = selection.load(config.rows, _as_without_adapters(scores.all_linears(model)))
        config.rows, config.columns = as_texts(found.rows, "rows"), as_texts(found.columns, "columns")


def score_neurons(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    config: NeuronConfig | None = None,
    *,
    ratio: float = 0.3,
    target_modules: Targets = None,
    method: str = GRADIENT,
    scope: str = "module",
    **options: Any,
) -> NeuronConfig:
    """Score a model's neurons on data, and give the configuration that trains the best of them.

        config = leaml.score_neurons(model, loader, ratio=0.1)
        model = peft.get_peft_model(model, config)

    Or, with a configuration that says how many of what, as PEFT's data-driven methods have it:

        config = leaml.score_neurons(model, loader, leaml.NeuronConfig(selection="gradient", ratio=0.1))

    Args:
        model: Before `get_peft_model`; its gradients are left as they are.
        batches: What the model is called with, `labels` among it: (examples, tokens) int64, -100 where no loss is wanted. A
            model that mixes the images of a batch needs batches of one example.
        config: With a `selection`; it is not changed, and what it says is not given again.
        ratio: Without a configuration, the share of the neurons to train.
        target_modules: Of which modules.
        method: gradient (squared), absolute, gradient_weight or lowest; leaml.score_methods says what each is.
        scope: Where the share is taken: module, layer or global.
        options: Of `NeuronConfig`.

    Raises:
        ConfigError: No batch, no Linear is meant, an unknown method, or a configuration that has its rows already or no
            selection.
        StepError: A loss or a gradient is not finite.
    """
    if config is None:
        config = NeuronConfig(selection=method, ratio=ratio, target_modules=target_modules, **options)
    elif config.rows is not None or config.selection is None:
        msg = 'the configuration has its rows already, or no selection; give NeuronConfig(selection="gradient", ratio=...)'
        raise ConfigError(msg)
    linears = targets(model, config.target_modules)
    with _frozen(model):
        found = scores.score(
            linears, config.score_method, scores.Data(list(batches), _collate(model, linears), 1), seed=config.seed
        )

    chosen = copy(config)
    rows = selection.select(found, float(config.ratio or 0.0), scope, scope == "global")
    chosen.rows, chosen.columns = as_texts(rows, "rows"), {}
    return chosen


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """A model in evaluation that gives no gradients to its weights; afterwards it is as it was."""
    training, wanted = model.training, {n: p.requires_grad for n, p in model.named_parameters()}
    model.requires_grad_(False).eval()
    try:
        yield
    finally:
        model.train(training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


def _collate(model: nn.Module, linears: Mapping[str, nn.Linear]) -> Callable[[Sequence[Mapping[str, Any]]], ExampleBatch]:
    """Makes examples of one batch that a model is called with."""
    device = next(iter(linears.values())).weight.device

    def collate(part: Sequence[Mapping[str, Any]]) -> ExampleBatch:
        (batch,) = part
        inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items() if k != "labels"}
        labels = batch["labels"].to(device)
        separate = len(labels).__eq__

        return ExampleBatch(
            len(labels),
            lambda: reply_logits(model, inputs, labels).mean_by_row(len(labels)),
            lambda name, shape: len(shape) == 3 and separate(shape[0]),
        )

    return collate
