"""Distill: the teacher's captions move only the selected neurons of the generator, held in place by the QA loss."""

from __future__ import annotations

from collections.abc import Iterator

from leaml.generation import prompts
from leaml.generation.caption_tasks import clozes, word_checks
from leaml.generation.draws import uniform
from leaml.training.examples import Example, StoredExamples, in_tables, publish, read_examples
from pipelines.context import Context
from pipelines.models import trained
from pipelines.progress import say
from pipelines.run import Step
from pipelines.train import TaskFile, TrainJob, run_training
from pipelines.training_set import draw_captions
from pipelines.warmup import qa_tasks

MOST_CAPTIONS = 100_000
"""Of which questions are made: the driver holds them, and counts their words."""


def check_examples(captions: dict[str, str], seed: int) -> Iterator[Example]:
    """Yes/no questions about words of captions (image id -> caption)."""
    for each in word_checks(captions, seed):
        yield Example(each.image_id, prompts.CHECK.format(word=each.word), "yes" if each.present else "no")


def cloze_examples(captions: dict[str, str], seed: int) -> Iterator[Example]:
    """Sentences of captions (image id -> caption) with a blank, answered with what the caption says there."""
    for each in clozes(captions, seed):
        yield Example(each.image_id, prompts.CLOZE.format(sentence=each.sentence), each.words)


def _asked_about(described: StoredExamples, seed: int) -> dict[str, str]:
    """Captions that questions are made of, by image id: all, or about `MOST_CAPTIONS` of them, drawn by a hash."""
    share = MOST_CAPTIONS / max(1, len(described))
    return {e.image_id: e.reply for e in described if share >= 1 or uniform(f"{seed}:questions:{e.image_id}") < share}


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
        file = step.path("captions.arrow")
        draw_captions(step.label, captions, run.config, config, file)
        tasks = [TaskFile("captions", file)]

        texts = _asked_about(read_examples(file), run.config.seed)
        for name, share in config.question_shares().items():
            file = step.path(f"{name}.arrow")
            if publish(file, in_tables(CAPTION_QUESTIONS[name](texts, run.config.seed))):
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
