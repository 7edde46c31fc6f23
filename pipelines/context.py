"""What a step of the method is given: the run, its data, the row of the table it is for, and the steps before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from leaml.plugins import function_of
from leaml.run.records import LEAML
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.steps import LABELS, STEPS, StepSpec
from pipelines.train import TrialValidation


@dataclass(frozen=True)
class Context:
    """One pass over the steps of the method.

    Attributes:
        run: The run, with the configuration of this row.
        sources: Images and evaluation.
        labels: The labels that may be used.
        variant: The row of the table.
        round: Of the method's rounds, from 1; 0 for the last, or only, one.
        start: The model that the generator starts as; None: the base.
        judge: Questions that a search judges models by.
        made: Steps that were made before, by name.
    """

    run: Run
    sources: Sources
    labels: Labels
    variant: str = LEAML
    round: int = 0
    start: Step | None = None
    judge: TrialValidation | None = None
    made: dict[str, Step] = field(default_factory=dict)

    def make(self, spec: StepSpec) -> Step:
        """Make a step of the method, or find it finished."""
        made: Step = function_of(spec.run)(self)
        return made

    def step(self, name: str, settings: Mapping[str, object], inputs: list[Step], version: int | None = None) -> Step:
        """The step of this pass with these settings and inputs.

        Args:
            name: Of a declared step.
            settings: What its result depends on beside the inputs, as plain data.
            inputs: The steps it reads, all of them named in its declaration.
            version: Of its code; None: the one declared.

        Raises:
            ValueError: It reads a step that its declaration does not name.
        """
        spec = STEPS[name]
        stand_ins = [self.made[each] for each in spec.inputs if each in self.made]  # of some rows
        if unnamed := {step.name for step in inputs if step not in stand_ins} - {*spec.inputs, LABELS}:
            msg = f"the step {name} reads {', '.join(sorted(unnamed))}; name it among the inputs of its StepSpec"
            raise ValueError(msg)
        variant, number = ("" if spec.shared else self.variant), (0 if spec.once else self.round)
        return self.run.step(name, settings, inputs, version or spec.version, variant, number)

    @property
    def captions(self) -> Step | None:
        """The teacher's captions; None in a run without."""
        return self.made.get("caption")

    @property
    def generator(self) -> Step:
        """The step that holds the question-answer generator as it is now."""
        return self.made.get("distill") or self.made["warmup"]

    @property
    def candidates(self) -> Step:
        """The step that holds the candidates, with the base's answers where they were asked for."""
        return self.made.get("hardness") or self.made["generate"]

    def with_made(self, **made: Step) -> Context:
        """The same pass with further steps made."""
        return replace(self, made=self.made | made)
