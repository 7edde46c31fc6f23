"""The filter step: every candidate gets a verdict, nothing that is rejected is learned, a kill changes nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaml.config import FilterConfig, TrainConfig
from leaml.data import step_rows, tables
from leaml.data.step_rows import StepRows
from leaml.errors import DataError
from leaml.generation.dataset_filters import PairSet
from leaml.training.examples import read_examples
from pipelines.filter import count_pairs, decided, filter_rows
from pipelines.run import Step
from pipelines.training_set import PAIRS, draw

PARTS, IMAGES = 5, 100
PLAIN = FilterConfig(round_trip=False, min_votes=None)

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("ray_local")]


def reply(text: str, logprob: float = -0.5) -> dict[str, Any]:
    return {"text": text, "mean_logprob": logprob, "cut": False}


def publish(folder: Path) -> list[str]:
    """The table of candidates of a right pair and of one that the second answer contradicts; the ids of their images."""
    rows: list[dict[str, Any]] = []
    for part in range(PARTS):
        rows += [
            {
                "image_id": f"{part}-{number:02d}",
                "caption": None,
                "replies": [reply("Question: Is it red? Answer: yes"), reply("Question: Is it round? Answer: no", -0.2)],
                "answers": [
                    {"question": "Is it red?", "given": False, "replies": [reply("yes")]},
                    {"question": "Is it round?", "given": False, "replies": [reply("yes", -3.0)]},
                ],
                "base": [{"question": "Is it red?", "answer": "yes" if number % 2 else "no"}],
            }
            for number in range(IMAGES)
        ]
    step_rows.write(str(folder), rows, tables.CANDIDATES)
    return [f"{part}-{number:02d}" for part in range(PARTS) for number in range(IMAGES)]


def stored(folder: Path) -> list[dict[str, Any]]:
    return StepRows(str(folder)).columns(None).to_pylist()


def reasons(folder: Path) -> Counter[str]:
    return Counter(pair["reason"] for row in stored(folder) for pair in row["pairs"])


def learned(folder: Path) -> list[tuple[str, str, str]]:
    """What a training whose steps read everything draws from a filter step."""
    step, config = Step("filter", "filter", "0", str(folder)), TrainConfig(steps=10, batch_size=1000)
    draw("finetune", step, PAIRS, StepRows(str(folder)).counts["accepted"], config, 0, f"{folder}/drawn")
    return [(each.image_id, each.request, each.reply) for each in read_examples(f"{folder}/drawn")]


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    """Parts of a hundred images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.filter.PART", IMAGES)
        yield


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    publish(folder)
    return folder


def test_rejected_pairs_stay_in_the_table_and_out_of_training(candidates: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in candidates.rglob("*") if file.is_file()}
    summary = filter_rows("filter", str(candidates), str(tmp_path), FilterConfig())
    assert summary == {"images": 500, "pairs": 1000, "accepted": 500, "rejected: round trip disagrees": 500}
    assert reasons(tmp_path) == {"": 500, "round trip disagrees": 500}
    assert learned(tmp_path) == [(row["image_id"], "Is it red?", "yes") for row in stored(tmp_path)]
    assert {file: file.read_bytes() for file in candidates.rglob("*") if file.is_file()} == before  # nothing is rewritten


def test_pairs_that_the_base_answers_too_are_rejected_where_that_is_asked_for(candidates: Path, tmp_path: Path) -> None:
    summary = filter_rows("filter", str(candidates), str(tmp_path), FilterConfig(hardness=True))
    assert summary["rejected: base answers it"] == 250
    trained = learned(tmp_path)
    assert {int(image[2:]) % 2 for image, _, _ in trained} == {0} and len(trained) == 250


def test_filters_of_all_pairs_come_to_the_same_after_a_kill(candidates: Path, tmp_path: Path) -> None:
    config = FilterConfig(max_per_question=100)
    summary = filter_rows("filter", str(candidates), str(tmp_path / "one"), config)
    dropped = summary["rejected: question too common"]
    assert summary["accepted"] == 500 - dropped == pytest.approx(100, rel=0.3)
    assert reasons(tmp_path / "one") == {"": 500 - dropped, "question too common": dropped, "round trip disagrees": 500}

    for folder in ("rows", "counts"):  # as if killed after two files, and after the counts of a third
        (tmp_path / "two" / folder).mkdir(parents=True)
        for file in sorted((tmp_path / "one" / folder).iterdir())[: 2 if folder == "rows" else 3]:
            (tmp_path / "two" / folder / file.name).write_bytes(file.read_bytes())
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "two" / "rows").iterdir()}
    assert filter_rows("filter", str(candidates), str(tmp_path / "two"), config) == summary
    assert stored(tmp_path / "two") == stored(tmp_path / "one")
    assert {file: file.stat().st_mtime_ns for file in kept} == kept  # not made again

    other = filter_rows("filter", str(candidates), str(tmp_path / "three"), config.model_copy(update={"seed": 1}))
    assert other != summary or stored(tmp_path / "three") != stored(tmp_path / "one")


def test_only_questions_that_may_be_thinned_are_held(tmp_path: Path) -> None:
    asked = [f"Is there number {n}?" if n % 2 else "Is it red?" for n in range(400)]
    rows = [
        {"image_id": f"{n}", "replies": [reply(f"Question: {question} Answer: yes")], "answers": [], "base": None}
        for n, question in enumerate(asked)
    ]
    step_rows.write(f"{tmp_path}/c", rows, tables.CANDIDATES)
    config = PLAIN.model_copy(update={"max_per_question": 50})
    whole = PairSet(config)
    count_pairs("filter", f"{tmp_path}/c", f"{tmp_path}/out", [f"{start}-100" for start in range(0, 400, 100)], whole)
    assert list(whole.groups.numbers) == ["is it red"]
    assert sum(whole.counts[0].values()) == 200
    assert filter_rows("filter", f"{tmp_path}/c", f"{tmp_path}/out", config)["accepted"] == pytest.approx(250, abs=25)
    kept = {pair["question"] for row in stored(tmp_path / "out") for pair in row["pairs"] if pair["accepted"]}
    assert kept == set(asked)  # none of the rare ones is gone


def test_similar_questions_are_counted_as_one_whatever_file_is_ready_first(candidates: Path, tmp_path: Path) -> None:
    rows = [
        {
            "image_id": f"{n}",
            "caption": None,
            "replies": [reply(f"Question: {question} Answer: yes")],
            "answers": [],
            "base": None,
        }
        for n, question in enumerate(["Is the ball red?", "Is the ball red ?", "is the ball red"] * 40)
    ]
    step_rows.write(f"{tmp_path}/c", rows, tables.CANDIDATES)
    config = PLAIN.model_copy(update={"max_per_question": 40, "similar_questions": 0.8})
    summary = filter_rows("filter", f"{tmp_path}/c", f"{tmp_path}/out", config)
    assert summary["accepted"] == pytest.approx(40, abs=16)  # of 120, which is one group


def test_a_damaged_table_of_candidates_is_named_and_pairs_that_are_made_are_kept(candidates: Path, tmp_path: Path) -> None:
    shutil.copytree(candidates / "table", tmp_path / "table")
    (data,) = (tmp_path / "table" / "data").iterdir()
    whole = data.read_bytes()
    first = tmp_path / "out" / "rows" / "000000000-100.parquet"
    tables.write(str(first), tables.PSEUDO_QA.empty_table())
    (tmp_path / "out" / "counts").mkdir()
    (tmp_path / "out" / "counts" / "000000000-100.json").write_text(json.dumps({"images": IMAGES}))
    data.write_bytes(whole[:100])
    with pytest.raises(DataError, match=rf"cannot read the table in {tmp_path}/table: "):
        filter_rows("filter", str(tmp_path), str(tmp_path / "out"), PLAIN)
    assert not step_rows.exists(str(tmp_path / "out"))
    data.write_bytes(whole)
    kept = first.read_bytes()
    assert filter_rows("filter", str(tmp_path), str(tmp_path / "out"), PLAIN)["images"] == 500
    assert first.read_bytes() == kept


def test_each_image_is_decided_about_once_however_many_passes_there_are(
    candidates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "pipelines.filter.decided", lambda row, config: (asked.append(row["image_id"]), decided(row, config))[1]
    )
    monkeypatch.setattr("pipelines.filter.in_tasks", lambda given, work, *_, **__: ({"result": work(each)} for each in given))
    config = FilterConfig(max_per_question=100)
    summary = filter_rows("filter", str(candidates), str(tmp_path / "one"), config)
    assert len(asked) == len(set(asked)) == summary["images"] == 500
    assert not (tmp_path / "one" / "decided").exists()
    asked.clear()
    filter_rows("filter", str(candidates), str(tmp_path / "two"), FilterConfig())  # one pass alone keeps nothing
    assert len(asked) == 500
