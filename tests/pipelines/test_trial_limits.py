"""What the dry run can tell of a part of the data, of the server behind `caption.url`, and of rows that are too long."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dry_runs import captions_of, dry_run

from leaml.config import load
from leaml.errors import DataError, InputError
from leaml.vlm.lengths import Lengths
from pipelines import adapt, trial
from pipelines.caption import caption_step
from pipelines.run import Run


def some_torn(folder: Path, torn: int) -> None:
    for number in range(torn):
        (folder / "frames" / f"{number}.jpg").write_bytes(b"no image")  # before the others, by name


@pytest.mark.parametrize(
    ("torn", "limit", "refused"),
    [(0, 0.05, None), (1, 0.5, None), (3, 0.6, False), (3, 0.5, True), (2, 0.5, False), (1, 0, True)],
)
def test_the_beginning_of_a_large_source_is_held_against_the_limit(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, torn: int, limit: float, refused: bool | None
) -> None:
    """Of 3 images looked at; refused where the rest cannot bring the share below the limit, else it is said."""
    monkeypatch.setattr(trial.TrialRun, "first", 3)
    some_torn(recipe.parent, torn)
    for file in sorted((recipe.parent / "frames").glob("*.png"))[: torn - 2 if torn == 3 else 0]:
        file.unlink()
    done = dry_run(recipe, f"data.max_quarantined={limit}", "data.budget.count=4")
    said = f"{torn} of the first 3 images of {recipe.parent}/frames cannot be used"
    if refused:
        assert isinstance(done.exception, InputError), done.output
        assert said in str(done.exception)
        assert f"{torn} not an image" in str(done.exception)
    else:
        assert done.exit_code == 0, done.exception
        assert (said in done.output) == (refused is False)
        assert ("adapt refuses the source unless the others bring that down" in done.output) == (refused is False)


@pytest.mark.parametrize("limit", [0.5, 0])
def test_label_rows_of_the_beginning_are_held_against_the_limit_too(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr(trial.TrialRun, "first", 3)
    rows = [{"image": f"{seed}.png", "question": "what?", "answer": "noise" if seed > 2 else None} for seed in range(4)]
    (recipe.parent / "train" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = dry_run(recipe, f"data.max_quarantined={limit}")
    said = f"3 of the first 3 label rows of {recipe.parent}/train/rows.jsonl cannot be used"
    if limit:
        assert done.exit_code == 0, done.exception
        assert f"warning: {said}" in done.output
        assert "no image that was looked at has a question that can be used" in done.output
    else:
        assert said in str(done.exception)
        assert "rows.jsonl:1" in str(done.exception)


@contextmanager
def listing(status: int, body: str) -> Iterator[str]:
    """URL of a server that answers every request for its models like this."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            known = self.path == "/v1/models" and self.headers["Authorization"] == "Bearer right"
            self.send_response(status if known or status != 200 else 401)
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


MODELS = json.dumps({"object": "list", "data": [{"id": "gpt"}, {"id": "other"}]})


@pytest.mark.parametrize(
    ("status", "body", "key", "refused", "said"),
    [
        (200, MODELS, "right", False, ""),
        (200, MODELS, "wrong", True, "answered 401"),
        (402, "no credit", "right", True, "answered 402: 'no credit'"),
        (404, "what?", "right", False, "not every server lists them"),
        (200, "<html>", "right", False, "answered '<html>', which is no list"),
        (200, '{"data": [{"id": "gtp"}]}', "right", False, "lists no model 'gpt' but gtp; check caption.teacher.name"),
    ],
)
def test_the_url_of_captions_is_tried(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: str, key: str, refused: bool, said: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with listing(status, body) as url:
        done = dry_run(recipe, f"caption.url={url}/chat/completions", "caption.teacher.name=gpt")
    if refused:
        assert isinstance(done.exception, InputError), done.output
        assert said in str(done.exception)
        assert "check caption.url" in str(done.exception)
        assert "OPENAI_API_KEY" in str(done.exception)
    else:
        assert done.exit_code == 0, done.exception
        assert said in done.output
        assert ("caption.url" in done.output) == bool(said)


def test_a_url_where_nobody_listens_is_refused_where_captions_are_still_to_be_asked_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "caption.url=http://127.0.0.1:9/v1"
    assert "caption.url: http://127.0.0.1:9/v1 cannot be reached" in str(dry_run(recipe, url).exception)
    given = captions_of(recipe.parent, *(f"{seed}.png" for seed in range(7)))
    for others in (["distill.skip=true"], ["caption.complete=false", given], [given]):
        done = dry_run(recipe, url, *others)
        assert done.exit_code == 0, done.exception
    with Run(load(recipe, [url])) as run:
        sources = adapt.ingest(run)
        labels = adapt.draw_labels(run, sources)
        with pytest.raises(InputError, match="cannot be reached"):
            adapt.refuse_unusable_url(run, sources, labels)
        run.execute(caption_step(run, sources, labels), dict)
        assert adapt.refuse_unusable_url(run, sources, labels) is None
    assert dry_run(recipe, url).exit_code == 0


def test_a_part_of_the_images_and_a_dead_url_are_a_warning(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The captions of all of them may be finished, and the file may name the others."""
    monkeypatch.setattr(trial.TrialRun, "first", 3)
    url = "caption.url=http://127.0.0.1:9/v1"
    for others in ([], [captions_of(recipe.parent, "6.png")]):
        done = dry_run(recipe, url, *others)
        assert done.exit_code == 0, done.exception
        assert "warning: caption.url: http://127.0.0.1:9/v1 cannot be reached" in done.output


LONG = "is the grey noise in the middle of it as dark as that at its edge, " * 60
"""Under the limit of characters, over the context of leaml-tiny."""


def long_rows(folder: Path, role: str, **changed: object) -> None:
    file = folder / role / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1] |= {"question": LONG} | changed
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize("changed", [{}, {"question": "which?", "answer": "B", "options": [LONG, "short"]}])
def test_rows_longer_than_the_models_context_are_refused_before_anything_is_paid_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, role: str, changed: dict[str, object]
) -> None:
    long_rows(recipe.parent, role, **changed)
    done = dry_run(recipe)
    assert isinstance(done.exception, DataError), done.output
    said = str(done.exception)
    assert "1 label rows are longer than the 1,024 tokens that the model 'leaml-tiny' takes, the longest at" in said
    assert f"{role}/rows.jsonl:2: 1," in said
    assert "of them for the image" in said
    monkeypatch.setattr(adapt, "start_ray", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(DataError) as refused:
        adapt.adapt(load(recipe))
    assert str(refused.value) == said


def test_questions_longer_than_the_engine_takes_are_refused_with_its_key(recipe: Path) -> None:
    """Of labels the model's own context counts, which trainings have."""
    for role in ("train", "test"):
        long_rows(recipe.parent, role, question=LONG[:600])
    assert dry_run(recipe).exit_code == 0
    said = str(dry_run(recipe, "engine.max_model_len=150").exception)
    assert "1 label rows are longer than the 150 tokens that engine.max_model_len allows, the longest at" in said
    assert "test/rows.jsonl:2" in said and "train/rows.jsonl" not in said
    assert "leave them out or raise that" in said


def test_an_option_that_vllm_does_not_have_is_refused(recipe: Path) -> None:
    for key in ("engine", "caption.engine"):
        said = str(dry_run(recipe, f"{key}.options={{swap_spaces: 4}}").exception)
        assert f"{key}.options.swap_spaces: vLLM's engine has no such option" in said


def test_a_long_answer_counts_where_it_is_learned_and_no_more_of_it_than_is_written_elsewhere(recipe: Path) -> None:
    long_rows(recipe.parent, "test", question="what?", answer=LONG)
    assert dry_run(recipe).exit_code == 0
    long_rows(recipe.parent, "train", question="what?", answer=LONG)
    assert "train/rows.jsonl:2" in str(dry_run(recipe).exception)


def test_long_rows_that_no_model_is_asked_or_taught_are_no_fault(recipe: Path) -> None:
    long_rows(recipe.parent, "train")
    assert dry_run(recipe, "data.budget.count=1").exit_code == 0  # another row is drawn
    everything = dry_run(recipe, "data.budget.count=1", "evaluate.controls=[full_labels]")
    assert "train/rows.jsonl:2" in str(everything.exception)


def test_short_rows_are_not_tokenised(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lengths, "of", lambda *_: pytest.fail("a row was tokenised"))
    assert dry_run(recipe).exit_code == 0


def test_of_a_part_what_is_certainly_asked_is_looked_at(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.TrialRun, "first", 2)
    long_rows(recipe.parent, "test")
    assert "test/rows.jsonl:2" in str(dry_run(recipe).exception)
    assert dry_run(recipe, "data.evaluation_questions=1").exit_code == 0
