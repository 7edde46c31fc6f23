"""`leaml predict`: a finished model answers questions about a folder of images, in batches, by the code that evaluates.

What is finished is kept in a folder beside the output until that is written, so a killed command goes on where it was.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from rich.markup import escape

from leaml import images
from leaml.config import EngineConfig, ResourcesConfig, engines_with
from leaml.data import carried, image_table, questions, store, tables
from leaml.data.questions import Asked
from leaml.data.records import Record, fetch
from leaml.data.step_rows import StepRows
from leaml.engine.arguments import refuse_unknown
from leaml.engine.interface import Completion, Engine, Longest, Request, most_tokens
from leaml.errors import DataError, InputError
from leaml.evaluation import calibration
from leaml.io import files, stored
from leaml.io.writable import refuse_unwritable
from leaml.run.model_source import ModelSource, find
from leaml.text.choice import Choice, Said, choose, replies, settled
from leaml.text.scoring import ask
from leaml.vlm import load
from pipelines.evaluate import Questioned, ask_all
from pipelines.ingest import named
from pipelines.models import engine_spec, model_key
from pipelines.progress import Bar, say
from pipelines.run import Lock
from pipelines.runtime import own_nodes, refuse_unschedulable, start_ray
from pipelines.shard import make_shards
from pipelines.shards import run_shards
from pipelines.table_rows import AskedRow, OutputRow, ReplyRow

_SHOWN = 3
_OTHER_TABLES = (".json", ".jsonl", ".tsv", ".txt", ".xlsx", ".xls", ".md", ".html")
_PART = 20_000
"""Images in a file of the index, and answers put together at a time."""


@dataclass
class QuestionBatch:
    """What is to be done: the questions in order, and per image, which is known by its content, what is asked about it.

    `ids` is the image of each file, `errors` why a file cannot be read.
    """

    asked: list[tuple[str, Asked]]
    ids: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def by_image(self) -> dict[str, list[AskedRow]]:
        """Different questions about each image; two files with the same content are one."""
        found: dict[str, dict[Asked, None]] = {}
        for file, asked in self.asked:
            if file in self.ids:
                found.setdefault(self.ids[file], {})[Asked(None, asked.question, asked.options)] = None
        return {image: [_asked_row(each) for each in rows] for image, rows in found.items()}


def _asked_row(asked: Asked) -> AskedRow:
    return {"question": asked.question, "options": None if asked.options is None else list(asked.options)}


class ReplyWork:
    """Answers to the questions of each image: the greedy reply, or one of the options where there are some.

    A question that the model cannot be asked has an error instead.
    """

    schema = tables.REPLIES

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, engine: Engine, items: list[Questioned[AskedRow]]) -> tuple[list[OutputRow], Counter[str]]:
        found: dict[str, list[ReplyRow]] = {item.image_id: [] for item in items}
        asked = ask_all(engine, items, self.max_tokens)
        counts = Counter(questions=len(asked), tokens=sum(completion.tokens for _, _, completion in asked))
        chosen = _choices(engine, asked)
        for number, (item, row, completion) in enumerate(asked):
            choice = chosen.get(number)
            reply: ReplyRow = {**row, "error": (choice if isinstance(choice, str) else completion.error) or None}
            if isinstance(choice, Choice):
                options = row["options"] or []
                reply |= {"prediction": options[choice.index], "logprob": choice.logprob, "own": choice.own}
            elif not reply["error"]:
                reply |= {"prediction": completion.text, "logprob": _logprob(completion), "own": True}
            found[item.image_id].append(reply)
        return [{"image_id": image, "replies": rows} for image, rows in found.items()], counts


def _choices(engine: Engine, asked: list[tuple[Questioned[AskedRow], AskedRow, Completion]]) -> dict[int, Choice | str]:
    """The option that answers each question with options, or why none does, by the question's index in `asked`.

    Options are scored only where the reply does not settle which it is.
    """
    chosen: dict[int, Choice | str] = {}
    requests: list[Request] = []
    sizes: dict[int, list[int]] = {}
    for number, (item, row, completion) in enumerate(asked):
        if not row["options"] or completion.error:
            continue
        if (choice := settled(_said(completion), row["options"])) is not None:
            chosen[number] = choice
            continue
        groups = replies(row["options"], _said(completion))
        sizes[number] = [len(group) for group in groups]
        requests += [Request(item.image, item.image_id, ask(row), reply=reply) for group in groups for reply in group]

    scored = iter([completion for (completion,) in engine.generate(requests)] if requests else [])
    for number, counts in sizes.items():
        _, row, completion = asked[number]
        given = [list(itertools.islice(scored, count)) for count in counts]
        error = next((each.error for group in given for each in group if each.error), "")
        said = [list(map(_said, group)) for group in given]
        chosen[number] = error or choose(_said(completion), row["options"] or [], said)
    return chosen


def _said(completion: Completion) -> Said:
    return Said(completion.text, _logprob(completion), completion.ids, not completion.cut)


def _logprob(completion: Completion) -> float:
    return completion.mean_logprob * completion.tokens


def predict(
    source: str,
    folder: str,
    questions_file: str,
    output: str = "predictions.parquet",
    overrides: list[str] | None = None,
    verbose: bool = False,
) -> str:
    """Answer every question; returns the path of the table (CSV if its name ends so).

    Its columns are those of `tables.ANSWERED`, and behind them the other columns of the questions.

    Args:
        source: Run folder with a finished model, model folder, shipped name or hub id.
        folder: Folder of images, local or s3://.
        questions_file: See `leaml.data.questions`.
        output: Where the table goes; nothing may be there yet.
        overrides: `resources.key=value` and `engine.key=value`; the others are the run's.
        verbose: Show the logs of Ray and vLLM.

    Raises:
        InputError: The model is not finished, images are missing, a question cannot be read, the output is there or cannot be
            written, or this machine has no room for the engines. All of that is found out before anything starts.
    """
    found = find(source)
    with named("--output"):
        output = files.absolute(output)
    _refuse_output(output)
    engines = engines_with(found.config, overrides)
    resources, engine = _resources(engines.resources), engines.engine
    refuse_unknown(engine.options, "engine")
    with named("--images"):
        folder = files.absolute(folder).rstrip("/")
    with named("--questions"):
        asked = questions.read(questions_file, folder)
    with named("--images"):
        batch = QuestionBatch(_resolve(asked, folder))

    _refuse_machine(resources)
    load.check(found.model)
    say(
        f"predict: {len(batch.asked)} questions about {len({file for file, _ in batch.asked})} images, model {found.model.name}"
    )

    others = _copied(batch)

    with Lock(f"{output}.work/lock.json"):
        work = f"{output}.work/predict-{_key(found, batch, engine)}"
        refs = _index(batch, f"{work}/images", folder)

        start_ray(resources, verbose)
        shards = make_shards("predict", refs, batch.by_image(), resources.images_per_shard)
        spec = engine_spec(found.model, resources, engine, _longest(found, batch))
        try:
            run_shards("predict", shards, spec, ReplyWork(found.answer_tokens), work, resources, found.max_pixels)
        except KeyboardInterrupt as error:
            error.add_note(f"answers of finished shards are kept in {output}.work")
            raise

        table = _answered(batch, work, folder, found.temperature)
        for key, name in others.items():
            table = table.append_column(name, carried.column([each.others.get(key) for _, each in batch.asked]))
        _publish(table, output)

    files.delete_tree(f"{output}.work")
    _summarise(table, found, output)
    return output


def _copied(batch: QuestionBatch) -> dict[str, str]:
    """Keys of the questions that are copied to the output, and their names there; says so."""
    others = carried.names([each.others for _, each in batch.asked], tables.ANSWERED.names)
    if others:
        shown = ", ".join(key if key == name else f"{key} (as {name})" for key, name in others.items())
        say(escape(f"predict: not asked about, but copied to the output: {shown}"))
    return others


def _refuse_output(output: str) -> None:
    if files.exists(output):
        msg = f"{output} already exists; remove it or give another --output"
        raise InputError(msg)
    if output.lower().endswith(_OTHER_TABLES):
        msg = f"--output {output}: the table is written as Parquet or CSV; let the name end in .parquet or .csv"
        raise InputError(msg)
    refuse_unwritable(posixpath.dirname(output), "--output", "the table", "--output FOLDER/NAME.parquet")


def _refuse_machine(resources: ResourcesConfig) -> None:
    """Raise ResourceError if this machine has no room for the engines; a cluster that is joined is asked later."""
    if resources.address is not None:
        return
    each = {"CPU": resources.engine_cpus, "GPU": resources.engine_gpus}
    fix = "give less behind the command, such as resources.engines=1 resources.engine_gpus=0; what is not given is the run's"
    refuse_unschedulable("resources.engines", resources.engines, each, fix, grows=False, nodes=own_nodes())


def _longest(found: ModelSource, batch: QuestionBatch) -> Longest:
    """Of the requests; a reply may be an option behind its letter."""
    asked = [_asked_row(each) for _, each in batch.asked]
    options = most_tokens(f"A. {option}" for row in asked for option in row["options"] or ())
    return Longest(most_tokens(map(ask, asked)), max(found.answer_tokens, options + 1))


def _resources(given: ResourcesConfig) -> ResourcesConfig:
    """Of the engines alone; nothing is trained or captioned here, so nothing of that has to fit."""
    engines = {"teacher_engines": None, "teacher_gpus": None, "parallel_baselines": False}
    return given.model_copy(update={**engines, "train_workers": 1, "train_cpus": 1.0, "train_gpus": 0.0})


def _resolve(asked: list[Asked], folder: str) -> list[tuple[str, Asked]]:
    """The file of each question; every image of the folder where questions name none. Raises DataError for missing ones."""
    there = [file.uri for file in stored.image_files(folder, images.SUFFIXES)]
    if asked[0].image is None:
        if not there:
            msg = f"{folder} holds no image; give the folder of the images ({images.SUFFIX_RULE})"
            raise DataError(msg)
        return [(file, each) for file in there for each in asked]
    known = set(there)
    where = {each.image: _file(folder, each.image) for each in asked if each.image is not None}
    missing = [name for name, file in where.items() if file not in known and not files.exists(file)]
    if missing:
        shown = ", ".join(map(files.shown, missing[:_SHOWN]))
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        msg = (
            f"{len(missing)} of {len(where)} images are not in {folder}: {shown}{more}; "
            "names in the column 'image' are relative to --images"
        )
        raise DataError(msg)
    return [(where[each.image], each) for each in asked if each.image is not None]


def _file(folder: str, name: str) -> str:
    try:
        return files.resolve(folder, name)
    except DataError:
        msg = f"{files.shown(name)} is outside of the folder {folder}; names in the column 'image' are relative to --images"
        raise DataError(msg) from None


def _key(found: ModelSource, batch: QuestionBatch, engine: EngineConfig) -> str:
    """Names the work: another model or other questions are other work."""
    asked = [(file, a.question, a.options) for file, a in batch.asked]
    content = [4, model_key(found.model) | engine.identity(), found.answer_tokens, asked]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _index(batch: QuestionBatch, folder: str, shown: str) -> store.ImageIndex:
    """Reads every image once for its id, and writes an images table that says where each is, without the bytes."""
    names = dict.fromkeys(file for file, _ in batch.asked)
    first: dict[str, str] = {}
    with Bar("predict: index", len(names), "images") as bar:
        for number, record in enumerate(fetch(Record(file, "predict", None, None) for file in names), 1):
            if record.data is None:
                batch.errors[record.uri] = f"not read: {(record.error or 'no data').replace(shown + '/', '')}"
            else:
                batch.ids[record.uri] = tables.image_id(record.data)
                first.setdefault(batch.ids[record.uri], record.uri)
            bar.update(number)
    rows: list[dict[str, object]] = [{"image_id": image, "uri": file, "source": "predict"} for image, file in first.items()]
    image_table.write(folder, rows)
    return store.index(folder)


def _answered(batch: QuestionBatch, work: str, folder: str, temperature: float | None) -> pa.Table:
    """A row a question, in the order of the questions."""
    said: dict[tuple[str, str, tuple[str, ...]], ReplyRow] = {}
    errors = _quarantined(work)
    for part in StepRows(work).batches(None, _PART):
        for made in part.to_pylist():
            for reply in made["replies"]:
                said[made["image_id"], reply["question"], tuple(reply["options"] or ())] = reply

    def row(file: str, each: Asked) -> dict[str, object]:
        image = batch.ids.get(file, "")
        found: dict[str, object] = {"image_id": image, "file": file.removeprefix(folder + "/"), "question": each.question}
        reply = said.get((image, each.question, each.options or ()))
        if reply is None:
            return found | {"error": batch.errors.get(file) or errors.get(image, "no answer")}
        if reply["error"]:
            return found | {"error": reply["error"]}
        fitted = temperature if reply["own"] else None
        sure = calibration.confidence(min(0.0, reply["logprob"] or 0.0), 1.0 if fitted is None else fitted)
        return found | {
            "prediction": reply["prediction"],
            "logprob": reply["logprob"],
            "confidence": sure,
            "calibrated": fitted is not None,
        }

    parts = [batch.asked[start : start + _PART] for start in range(0, len(batch.asked), _PART)]
    return pa.concat_tables(tables.table([row(*each) for each in part], tables.ANSWERED) for part in parts)


def _quarantined(work: str) -> dict[str, str]:
    if not files.exists(f"{work}/quarantine"):
        return {}
    parts: Iterable[pa.Table] = (tables.read(file, tables.QUARANTINE) for file in files.listing(f"{work}/quarantine"))
    return {row["image_id"]: row["reason"] for part in parts for row in part.to_pylist()}


def _publish(table: pa.Table, output: str) -> None:
    if not output.lower().endswith(".csv"):
        tables.write(output, table)
        return
    buffer = io.BytesIO()
    csv.write_csv(table, buffer)
    files.write_bytes(output, buffer.getvalue())


def _summarise(table: pa.Table, found: ModelSource, output: str) -> None:
    failed = table.filter(pc.is_valid(table["error"]))
    answered = table.num_rows - failed.num_rows
    mean = pc.mean(table["confidence"]).as_py()
    kind = "" if found.temperature is not None else ", not calibrated"
    say(f"predict: {answered} answers" + (f", mean confidence {mean:.2f}{kind}" if mean is not None else ""))
    if failed.num_rows:
        first = failed.slice(0, 1).to_pylist()[0]
        why = f"{first['file']}, {first['error']}"
        say(f"predict: {failed.num_rows} questions have no answer, see the column `error`; the first: {why}")
    say(f"predictions: {output}")
