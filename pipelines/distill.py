"""Distill: the teacher's captions move only the selected neurons of the generator, held in place by the QA loss."""

from __future__ import annotations

from leaml.generation import prompts
from leaml.generation.caption_tasks import clozes, word_checks
from leaml.training.batches import Example
from pipelines.caption import read_captions
from pipelines.context import Context
from pipelines.models import trained
from pipelines.progress import say
from pipelines.run import Step
from pipelines.train import TaskFile, TrainJob, run_training, write_examples
from pipelines.warmup import qa_tasks


def check_examples(captions: dict[str, str], seed: int) -> list[Example]:
    """Yes/no questions about words of captions (image id -> caption)."""
    return [
        Example(c.image_id, prompts.CHECK.format(word=c.word), "yes" if c.present else "no")
        for c in word_checks(captions, seed)
    ]


def cloze_examples(captions: dict[str, str], seed: int) -> list[Example]:
    """Sentences of captions (image id -> caption) with a blank, answered with what the caption says there."""
    return [Example(g.image_id, prompts.CLOZE.format(sentence=g.sentence), g.words) for g in clozes(captions, seed)]


CAPTION_QUESTIONS = {"checks": check_examples, "clozes": cloze_examples}
"""Tasks made of captions beside the captions themselves; their loss has the weight `distill.check_weight`. Captions
that are all alike give none, single words no clozes."""


def distill(context: Context) -> Step:
    """Caption loss + qa_weight x QA loss; captions, questions made of them, pairs and answers share each batch."""
    run, judge = context.run, context.judge
    captions, warmed = (context.made[name] for name in ("caption", "warmup"))
    config = run.config.distill
    selected = context.made["select"] if config.method == "neurons" else None
    settings = {"distill": config.identity(), "seed": run.config.seed}
    step = context.step("distill", settings, [captions, warmed, *([selected] if selected else [])])

    def work() -> dict[str, object]:
        request = run.config.caption.prompt or prompts.CAPTION
        texts = read_captions(captions)
        examples = [Example(i, request, c) for i, c in texts.items()]
        tasks = [TaskFile("captions", write_examples(step.path("captions.parquet"), examples))]

        for name, share in config.question_shares().items():
            asked = CAPTION_QUESTIONS[name](texts, run.config.seed)
            file = write_examples(step.path(f"{name}.parquet"), asked)
            if asked:
                tasks.append(TaskFile(name, file, share, config.check_weight))
            else:
                say(f"{step.label}: no {name} can be made of these {len(texts)} captions; trained without")

        if config.qa_weight:
            tasks += qa_tasks(warmed, config.qa_weight, config.qa_share)

        job = TrainJob(
            step.folder,
            trained(warmed, run.config.model),
            tasks,
            context.sources.image_folders,
            config,
            selection=selected.folder if selected else None,
            seed=run.config.seed,
            max_pixels=run.config.data.max_pixels,
            validation=judge.file if judge else None,
            validations=judge.times if judge else 1,
        )
        return run_training(step.label, job, run.config.resources, judge.callbacks if judge else ())

    return run.execute(step, work)
