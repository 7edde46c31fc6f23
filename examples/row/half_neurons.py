"""A row of the table of results: the method with half of the neurons."""

from leaml.config import Config
from leaml.rows import Row


def with_half(config: Config) -> Config:
    return config.model_copy(update={"select": config.select.model_copy(update={"ratio": 0.5})})


half = Row(
    "half_neurons",
    "LEAML, half of the neurons",
    "control",
    optional=True,  # trained where evaluate.controls names it
    change=with_half,
    neurons="others",  # so it is refused where no training moves selected ones
)
