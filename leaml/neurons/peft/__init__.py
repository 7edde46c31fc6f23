"""Neuron adapters: a PEFT method that trains chosen rows and columns of chosen Linear layers and nothing else.

    config = NeuronConfig(rows={"model.layers.0.mlp.up_proj": [3, 17, 42]})
    model = get_peft_model(base, config)          # peft.get_peft_model; trains, saves and merges as with every other method

Importing this package registers the method, so import it before `PeftModel.from_pretrained` meets a saved adapter.
"""

from peft.utils import PeftType, register_peft_method

from leaml.neurons.peft.config import PEFT_TYPE, NeuronConfig
from leaml.neurons.peft.layer import NeuronLinear
from leaml.neurons.peft.lora import export_lora
from leaml.neurons.peft.model import NeuronModel

__all__ = ["NeuronConfig", "NeuronLinear", "NeuronModel", "export_lora"]


def _add_peft_type(name: str) -> None:
    """Add a member to `PeftType`: PEFT knows its methods by this enumeration, and has no way to extend it.

    An Enum with members cannot be subclassed; this does what its metaclass does for a member in the class body.
    """
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)  # before it is in the map, since members cannot be assigned again
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member


def _register() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    _add_peft_type(PEFT_TYPE)
    if PeftType(PEFT_TYPE) not in PEFT_TYPE_TO_CONFIG_MAPPING:  # a module that is imported anew finds it there
        register_peft_method(name=PEFT_TYPE.lower(), config_cls=NeuronConfig, model_cls=NeuronModel, prefix=NeuronModel.prefix)


_register()
