"""The tuner: puts neuron adapters on a model's Linear layers, and refuses models and files they do not fit."""

from __future__ import annotations

from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

from leaml import _compat
from leaml.errors import ModelError
from leaml.neurons.peft.config import NeuronConfig
from leaml.neurons.peft.layer import NeuronLinear

_HALF = (torch.float16, torch.bfloat16)


class NeuronModel(BaseTuner):
    """A model whose chosen rows and columns are trainable; made by `peft.get_peft_model(model, NeuronConfig(...))`.

    Raises:
        ConfigError, DataError: see `NeuronConfig`.
        ModelError: a module is missing, is no plain `nn.Linear` of floating-point weights, shares its weight with another, or
            has fewer rows or columns; or a selection folder that belongs to another model.
    """

    prefix = "neuron_"
    tuner_layer_cls = NeuronLinear

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Everything that can be wrong is found here, before the model is changed."""
        assert isinstance(peft_config, NeuronConfig)
        if not isinstance(peft_config.rows, dict):
            from leaml.neurons.peft.choose import resolve  # rows that are given need torch and PEFT alone

            resolve(peft_config, model)
        # PEFT asks every configuration for it and wants a match: the modules are the keys of `rows`, this value allows none
        if not peft_config.modules:
            peft_config.target_modules = DUMMY_TARGET_MODULES
        modules = dict(model.named_modules())
        tied = _tied(model)
        for name in peft_config.modules:
            _check(name, modules.get(name), tied, peft_config)

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        assert isinstance(peft_config, NeuronConfig)
        return key in (peft_config.rows or ()) or key in (peft_config.columns or ())

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, NeuronConfig)
        layer = target if isinstance(target, NeuronLinear) else NeuronLinear(target)  # type: ignore[arg-type]
        rows, columns = (peft_config.indices(current_key, kind) for kind in ("rows", "columns"))
        layer.add(adapter_name, rows, columns, peft_config.train_bias, peft_config.inference_mode)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        wanted = getattr(self.peft_config[adapter_name], "delta_dtype", None)
        for layer in self.modules():
            if isinstance(layer, NeuronLinear):
                for parameters in layer.parameter_dicts():
                    if adapter_name in parameters:
                        parameter = parameters[adapter_name]
                        automatic = torch.float32 if autocast_adapter_dtype and parameter.dtype in _HALF else parameter.dtype
                        parameter.data = parameter.data.to(getattr(torch, wanted) if wanted else automatic)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """As PEFT does, which lets missing and left-over weights pass with a warning or in silence; here they are errors."""
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        expected = {k: v for k, v in model.state_dict().items() if _is_adapter_key(k) and k.endswith(f".{adapter_name}")}
        given = {k: v for k, v in found.items() if _is_adapter_key(k)}
        wrong = sorted(expected.keys() ^ given.keys())
        wrong += [k for k in expected.keys() & given.keys() if expected[k].shape != given[k].shape]
        if wrong:
            sizes = [tuple(e[wrong[0]].shape) if wrong[0] in e else "nothing" for e in (expected, given)]
            msg = (
                f"the weights of adapter {adapter_name!r} do not belong to its configuration: {wrong[0]!r} should hold"
                f" {sizes[0]}, the file holds {sizes[1]} ({len(wrong)} such entries); both files must be of one save_pretrained"
            )
            raise ModelError(msg)
        return found


def _is_adapter_key(key: str) -> bool:
    return any(part in NeuronLinear.adapter_layer_names for part in key.split("."))


def _tied(model: nn.Module) -> dict[int, list[str]]:
    """id of every parameter -> all its names, where it has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: found for key, found in names.items() if len(found) > 1}


def _check(name: str, module: nn.Module | None, tied: dict[int, list[str]], config: NeuronConfig) -> None:
    """Raises ModelError if what `config` chooses of `module` cannot be trained."""
    if module is None:
        msg = (
            f"the model has no module {name!r}; rows and columns are given by the names of the model before get_peft_model"
            " (named_modules), and the adapter or selection must have been made for this model"
        )
        raise ModelError(msg)

    base: Any = module.base_layer if isinstance(module, NeuronLinear) else module
    reason = _refusal(base)
    if reason is None:
        shared = [n for p in base.parameters(recurse=False) for n in tied.get(id(p), ())]
        if shared:
            reason = (
                f"shares its weight with others ({', '.join(shared)}), which would change with it; untie them (load with"
                " tie_word_embeddings=False and copy the embeddings to the head) or leave it out of the rows"
            )
        else:
            reason = _missing(config, name, {"rows": base.out_features, "columns": base.in_features})

    if reason is not None:
        msg = f"neurons of {name!r} cannot be trained: it {reason}"
        raise ModelError(msg)


def _missing(config: NeuronConfig, name: str, sizes: dict[str, int]) -> str | None:
    """Which of the chosen rows or columns a module of `sizes` does not have, or None."""
    for kind, size in sizes.items():
        indices = config.indices(name, kind).tolist()
        if indices and indices[-1] >= size:
            return f"has {size} {kind} and no {kind[:-1]} {indices[-1]}; the {kind} were chosen for another model"
    return None


def _refusal(module: nn.Module) -> str | None:
    """Why a module cannot be trained, or None. Only a plain Linear can: its weight is changed in place."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    weight = getattr(module, "weight", None)

    if isinstance(module, BaseTunerLayer):
        return f"carries another PEFT adapter ({kind}); merge that one first (merge_and_unload)"
    if isinstance(weight, DTensor):
        return "is sharded already; call get_peft_model first, then fully_shard"
    if is_parametrized(module):
        return "is parametrized (torch.nn.utils.parametrize); remove the parametrization first"
    if _compat.is_offloaded(module):
        return "is offloaded, its weight is not in memory; load the model without offloading"

    packed = hasattr(module, "qweight") or hasattr(module, "W_q")
    if packed or (isinstance(weight, torch.Tensor) and not _is_plain(weight)):
        return (
            f"is quantised ({kind}), and a part of a quantised weight cannot be changed; load the model without quantisation,"
            " for example in bfloat16, or train LoRA"
        )

    if isinstance(module, Conv1D):
        return f"is a {kind}, whose weight is stored (in, out), rows and columns swapped; only nn.Linear can be trained"
    if type(module).forward is not nn.Linear.forward or isinstance(module, NonDynamicallyQuantizableLinear):
        return f"is a {kind}, not a plain nn.Linear that its model calls"
    return None


def _is_plain(weight: torch.Tensor) -> bool:
    return type(weight) is nn.Parameter and weight.is_floating_point() and weight.dtype.itemsize > 1


def adapter_layers(model: nn.Module, adapter: str) -> dict[str, NeuronLinear]:
    """Name in the base model -> layer, of every layer that has the adapter."""
    return {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, NeuronLinear) and layer.indices(adapter)
    }
