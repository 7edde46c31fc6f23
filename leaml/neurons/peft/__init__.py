"""Neuron adapters: a PEFT method that trains chosen rows and columns of chosen Linear layers and nothing else.

    config = NeuronConfig(rows={"model.layers.0.mlp.up_proj": [3, 17, 42]})
    model = get_peft_model(base, config)          # peft.get_peft_model; trains, saves and merges as with every other method

Importing this package registers the method, so import it before `PeftModel.from_pretrained` meets a saved adapter.
"""

from peft.utils import PeftType, register_peft_method

from leaml import _compat
from leaml.neurons.peft.config import PEFT_TYPE, NeuronConfig
from leaml.neurons.peft.layer import NeuronLinear
from leaml.neurons.peft.lora import export_lora
from leaml.neurons.peft.model import NeuronModel

__all__ = ["NeuronConfig", "NeuronLinear", "NeuronModel", "export_lora"]


def _register() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    _compat.add_peft_type(PEFT_TYPE)
    if PeftType(PEFT_TYPE) not in PEFT_TYPE_TO_CONFIG_MAPPING:  # a module that is imported anew finds it there
        register_peft_method(name=PEFT_TYPE.lower(), config_cls=NeuronConfig, model_cls=NeuronModel, prefix=NeuronModel.prefix)


_register()
