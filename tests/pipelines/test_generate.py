"""Generation with a scripted engine: what is asked, with which beginning and seed, and what filters make of what is kept."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from leaml.config import FilterConfig, GenerateConfig
from leaml.data import tables
from leaml.engine.interface import Completion, Request
from leaml.generation import prompts
from pipelines.filter import counts_of, decided
from pipelines.generate import GenerateWork
from pipelines.shards import Item

PICTURE = Image.new("RGB", (8, 8), "red")
ITEMS = [Item(name, PICTURE, f"teacher on {name}") for name in ("a", "b", "c")]
NO_FILTERS = FilterConfig(
    max_question_chars=None, max_answer_chars=None, min_mean_logprob=None, round_trip=False, min_votes=None, duplicates=False
)


class Recorder:
    """Keeps every request; captions, pairs and answers come from functions of the request."""

    def __init__(self, pair: Callable[[Request, int], str], answer: Callable[[Request, int], str] = lambda r, n: "red") -> None:
        self.pair, self.answer = pair, answer
        self.captions: list[Request] = []
        self.samples: list[Request] = []
        self.answers: list[Request] = []

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        return [[Completion(self._text(r, n), -0.1 * (n + 1), "stop", 4) for n in range(r.n)] for r in requests]

    def _text(self, request: Request, n: int) -> str:
        if request.text == "Look!":
            self.captions.append(request)
            return f"own  words on {request.image_id}"
        if request.text != prompts.GENERATE or request.prefix.endswith("Answer:"):
            self.answers += [request] if n == 0 else []
            return self.answer(request, n)
        self.samples += [request] if n == 0 else []
        return self.pair(request, n)


def colours(request: Request, n: int) -> str:
    return f" Question: What colour is part {n}? Answer: red"


def candidates(
    engine: Recorder, items: list[Item] = ITEMS, prompt: str = "Look!", pattern: str | None = None, **config: Any
) -> tuple[list[dict[str, Any]], Counter[str]]:
    work = GenerateWork(GenerateConfig(**{"pairs_per_image": 2, **config}), prompt, pattern)
    rows, counts = work(engine, items)
    assert [r["image_id"] for r in rows] == [i.image_id for i in items]
    return tables.table(rows, work.schema).to_pylist(), counts  # the contract holds


def run(
    engine: Recorder, items: list[Item] = ITEMS, filters: FilterConfig | None = None, **config: Any
) -> tuple[list[Any], Counter[str]]:
    """Pairs as the filter step makes them, and the counts of both steps."""
    written, counts = candidates(engine, items, **config)
    rows = [decided(row, filters or FilterConfig()) for row in written]
    tables.table(rows, tables.PSEUDO_QA)
    return rows, counts + counts_of(rows)


@pytest.mark.parametrize(
    ("caption", "prefix", "column"),
    [
        ("none", "", None),
        ("self", "Caption: own words on {}", "own  words on {}"),
        ("teacher", "Caption: teacher on {}", "teacher on {}"),
    ],
)
def test_caption_mode_decides_what_stands_before_the_pair(caption: str, prefix: str, column: str | None) -> None:
    engine = Recorder(colours)
    rows, _ = run(engine, caption=caption)
    assert {r.image_id: r.prefix for r in engine.samples} == {i.image_id: prefix.format(i.image_id) for i in ITEMS}
    assert {r.text for r in engine.samples} == {prompts.GENERATE}
    assert [r["caption"] for r in rows] == [column and column.format(i.image_id) for i in ITEMS]
    assert [(r.text, r.temperature) for r in engine.captions] == [("Look!", 0.0)] * (3 if caption == "self" else 0)
    # asked again after the same caption; without one as a user would ask, the plain question
    again = [
        (prompts.GENERATE, f"{prefix.format(i.image_id)} Question: What colour is part {n}? Answer:")
        if prefix
        else (f"What colour is part {n}?", "")
        for i in ITEMS
        for n in (0, 1)
    ]
    assert [(r.text, r.prefix) for r in engine.answers] == again


def test_image_without_a_teacher_caption_has_no_prefix() -> None:
    engine = Recorder(colours)
    rows, _ = run(engine, [Item("a", PICTURE, None), Item("b", PICTURE, "seen")], caption="teacher")
    assert sorted(r.prefix for r in engine.samples) == ["", "Caption: seen"]
    assert [r["caption"] for r in rows] == [None, "seen"]


def test_sampling_settings_reach_the_engine() -> None:
    engine = Recorder(colours)
    run(engine, pairs_per_image=5, temperature=0.7, top_p=0.8, max_tokens=33)
    assert {(r.n, r.temperature, r.top_p, r.max_tokens, r.pattern) for r in engine.samples} == {(5, 0.7, 0.8, 33, None)}
    structured = Recorder(colours)
    run(structured, pattern=prompts.pair_pattern(60, 100))
    assert {r.pattern for r in structured.samples} == {prompts.pair_pattern(60, 100)}
    assert {r.pattern for r in structured.answers} == {None}
    assert {(r.n, r.temperature) for r in engine.answers} == {(1, 0.0)}  # one greedy answer
    voting = Recorder(colours)
    run(voting, votes=3, temperature=0.7)
    assert {(r.n, r.temperature) for r in voting.answers} == {(3, 0.7)}


def test_seeds_depend_on_the_image_and_the_seed_alone() -> None:
    def seeds(items: list[Item], **config: Any) -> tuple[dict[str, Any], set[Any]]:
        engine = Recorder(colours)
        run(engine, items, **config)
        return {r.image_id: r.seed for r in engine.samples}, {(r.image_id, r.text, r.seed) for r in engine.answers}

    together = seeds(ITEMS)
    assert seeds(ITEMS[::-1]) == together
    apart = [seeds([item]) for item in ITEMS]
    assert {i: s for samples, _ in apart for i, s in samples.items()} == together[0]
    assert {a for _, answers in apart for a in answers} == together[1]
    assert len(set(together[0].values())) == 3
    assert len({s for _, _, s in together[1]}) == 6  # every question of every image has its own
    assert not set(seeds(ITEMS, seed=1)[0].values()) & set(together[0].values())
    assert all(0 <= s < 2**31 for s in together[0].values())


def test_every_question_is_answered_again_once_and_not_for_nothing() -> None:
    engine = Recorder(lambda r, n: f"Question: What? Answer: {'red' if n else 'blue'}" if n < 3 else "no pair")
    rows, _ = run(engine, ITEMS[:1], pairs_per_image=4, filters=FilterConfig(min_votes=None))
    assert len(engine.answers) == 1
    assert [p["roundtrip"] for p in rows[0]["pairs"]] == ["red", "red", "red", None]
    off = Recorder(colours)
    run(off, votes=0, filters=NO_FILTERS)
    assert off.answers == []
    given = Recorder(colours)
    rows, _ = run(given, ITEMS[:1], votes=0, questions=["What else?"], filters=NO_FILTERS)
    assert [(r.text, r.n, r.temperature) for r in given.answers] == [("What else?", 1, 0.0)]
    assert [p["question"] for p in rows[0]["pairs"]] == ["What colour is part 0?", "What colour is part 1?", "What else?"]


class Remembering(Recorder):
    """Has what it made of the last four images that it was asked about, as vLLM's cache has."""

    def __init__(self) -> None:
        super().__init__(colours)
        self.last: list[str] = []
        self.made = 0

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        for request in requests:
            self.made += request.image_id not in self.last
            self.last = [*(name for name in self.last if name != request.image_id), request.image_id][-4:]
        return super().generate(requests)


def test_images_are_asked_about_to_and_fro_so_that_fewer_are_made_again() -> None:
    engine, items = Remembering(), [Item(f"image{n}", PICTURE, "") for n in range(16)]
    rows, _ = candidates(engine, items, caption="self")
    assert engine.made == 16 + 12 + 12
    for item, row in zip(items, rows, strict=True):
        assert row["caption"] == f"own  words on {item.image_id}"
        assert [answer["question"] for answer in row["answers"]] == ["What colour is part 0?", "What colour is part 1?"]
    assert [r.image_id for r in engine.answers] == [item.image_id for item in items for _ in range(2)]


def test_pairs_keep_order_score_and_reason_and_the_counts_add_up() -> None:
    replies = [
        "Question: What colour? Answer: red",
        "Question: What shape? Answer: circle",  # the second reading says red
        "nothing of use",
        "Question: What colour? Answer: red",
    ]
    engine = Recorder(lambda r, n: replies[n])
    rows, counts = run(engine, ITEMS[:2], pairs_per_image=4)
    for row in rows:
        pairs = row["pairs"]
        assert [p["reason"] for p in pairs] == ["", "round trip disagrees", "unparsable", "duplicate question"]
        assert [p["accepted"] for p in pairs] == [True, False, False, False]
        assert [p["mean_logprob"] for p in pairs] == pytest.approx([-0.1, -0.2, -0.3, -0.4])
        assert (pairs[0]["question"], pairs[0]["answer"], pairs[0]["votes"]) == ("What colour?", "red", 1.0)
    assert counts == Counter(
        {
            "tokens": 4 * (2 * 4 + 2 * 2),  # 2 images, 4 pairs and 2 answers each
            "candidates": 8,
            "images": 2,
            "pairs": 8,
            "accepted": 2,
            "rejected: round trip disagrees": 2,
            "rejected: unparsable": 2,
            "rejected: duplicate question": 2,
        }
    )


def test_votes_are_the_share_of_agreeing_answers() -> None:
    engine = Recorder(colours, lambda r, n: "red" if n < 2 else "blue")
    rows, _ = run(engine, ITEMS[:1], votes=3, filters=FilterConfig(min_votes=0.7, round_trip=False))
    assert [p["votes"] for p in rows[0]["pairs"]] == pytest.approx([2 / 3, 2 / 3])
    assert {p["reason"] for p in rows[0]["pairs"]} == {"few votes"}


def test_given_questions_are_answered_about_every_image_beside_the_sampled_pairs() -> None:
    engine = Recorder(colours, lambda r, n: "pink" if "polyp" in r.text else "red")
    rows, counts = run(engine, questions=["Where is the  polyp?", "What colour is part 0?"], filters=NO_FILTERS)
    for row in rows:
        found = {(p["question"], p["answer"], p["accepted"]) for p in row["pairs"]}
        assert found == {
            ("What colour is part 0?", "red", True),  # sampled, and given: one pair
            ("What colour is part 1?", "red", True),
            ("Where is the polyp?", "pink", True),
        }
    assert counts["accepted"] == counts["pairs"] == 9
    asked = [r.text for r in engine.answers]
    assert sorted(set(asked)) == ["What colour is part 0?", "What colour is part 1?", "Where is the polyp?"]
    assert len(asked) == 3 * len(ITEMS)  # each once an image


def test_given_questions_alone_need_no_sampling_and_take_the_winning_answer() -> None:
    engine = Recorder(colours, lambda r, n: "red" if n < 2 else "blue")
    rows, _ = run(engine, pairs_per_image=0, questions=["What colour?"], votes=3)
    assert engine.samples == []
    for row in rows:
        (found,) = row["pairs"]
        assert (found["question"], found["answer"], found["votes"]) == ("What colour?", "red", pytest.approx(2 / 3))
        assert found["mean_logprob"] == pytest.approx(-0.15)  # of the agreeing answers
    unsure, _ = run(Recorder(colours, lambda r, n: str(n)), pairs_per_image=0, questions=["What colour?"], votes=3)
    assert {r["pairs"][0]["reason"] for r in unsure} == {"few votes"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs_per_image": 0}, "no pair would be made"),
        ({"questions": ["What?", "What? "]}, r"repeated questions \['What\?'\]"),
        ({"questions": [" "]}, r"empty or repeated questions \[''\]"),
        ({"questions": ["what <image> is it?"]}, r"questions with <image> \['what <image> is it\?'\]; leave it out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**settings)


class Cut(Recorder):
    """The first pair, and every answer and caption, ends at the token limit."""

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        def reason(request: Request, n: int) -> str:
            return "stop" if request.text == prompts.GENERATE and n and not request.prefix.endswith("Answer:") else "length"

        return [[Completion(self._text(r, n), -0.01, reason(r, n), 4) for n in range(r.n)] for r in requests]

    def _text(self, request: Request, n: int) -> str:
        return "A wall. It has a" if request.text == "Look!" else super()._text(request, n)


def test_pairs_and_answers_cut_at_the_token_limit_are_rejected_and_counted() -> None:
    rows, counts = run(Cut(colours), ITEMS[:1], questions=["what else?"], filters=NO_FILTERS)
    verdicts = [(p["question"], p["accepted"], p["reason"]) for p in rows[0]["pairs"]]
    assert verdicts == [
        ("What colour is part 0?", False, "cut at the token limit"),
        ("What colour is part 1?", True, ""),
        ("what else?", False, "cut at the token limit"),
    ]
    assert counts["rejected: cut at the token limit"] == 2
    assert counts["replies cut at the token limit"] == 4  # with the answers to both questions


def test_a_caption_of_its_own_that_is_cut_keeps_its_whole_sentences() -> None:
    rows, _ = run(Cut(colours), ITEMS[:1], caption="self", filters=NO_FILTERS)
    assert rows[0]["caption"] == "A wall."
