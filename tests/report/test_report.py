"""The report page: self-contained, escaped, deterministic, and honest in its verdict."""

import copy
import dataclasses
import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from leaml.report.content import ReportData, Sample, WrongAnswer
from leaml.report.formats import duration, p_value, points
from leaml.report.page import write_report
from leaml.run.records import StepRecord

BINS = [{"confidence": 0.55, "accuracy": 0.5, "n": 300}, {"confidence": 0.96, "accuracy": 0.97, "n": 1200}]
EVIL = "<script>alert('x')</script>\" onload=\"x"


def png(size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def row(accuracy: float) -> dict[str, Any]:
    ci95 = [accuracy - 0.02, accuracy + 0.02]
    types = {"count": accuracy - 0.1, "shape": accuracy + 0.1}
    counts = {"n": 2400, "images": 600, "n_by_type": {"count": 2396, "shape": 4}}
    return {"accuracy": accuracy, "ci95": ci95, "by_type": types, **counts}


def comparison(difference: float, p: float) -> dict[str, Any]:
    against = {"difference": difference, "ci95": [difference - 0.02, difference + 0.02], "p_value": p}
    return {"ours": "leaml", "best_baseline": "lora_labels", **against, "baselines": {"lora_labels": {**against, "p_holm": p}}}


def metrics(difference: float = 0.05, p: float = 0.0004) -> dict[str, Any]:
    rows = {"leaml": row(0.6 + difference), "lora_labels": row(0.6), "blind_prior": row(0.5), "full_labels": row(0.88)}
    return {"rows": rows, "comparison": comparison(difference, p)}


def pair(question: str = "What shape?", accepted: bool = True, reason: str = "") -> dict[str, Any]:
    score = {"mean_logprob": -0.25, "votes": 0.5, "roundtrip": "square"}
    return {"question": question, "answer": "circle", "accepted": accepted, "reason": reason, **score}


@pytest.fixture
def data() -> ReportData:
    return ReportData(
        run="demo",
        dataset="easy-vqa",
        labels=1234,
        metrics=metrics(),
        samples=[Sample(png(), "a red square", "a square", [pair(), pair("Which?", False, "few votes")])],
        selection=[
            {"module": "q_proj", "layer": 0, "name": "layers.0.q_proj", "rows": 128, "selected": 32},
            {"module": "q_proj", "layer": 1, "name": "layers.1.q_proj", "rows": 128, "selected": 96},
            {"module": "up_proj", "layer": 1, "name": "layers.1.up_proj", "rows": 64, "selected": 0},
        ],
        losses={
            "finetune: LoRA on labels": [(1, 2.0), (10, 0.5)],
            "warmup": [(1, 2.0), (10, 1.25)],
            "broken": [(1, float("nan"))],
        },
        steps=[
            StepRecord("caption", folder="caption-ab12", seconds=192.3),
            StepRecord("evaluate", "lora_labels", folder="evaluate-1", seconds=4.0, state="reused"),
            StepRecord("finetune", "leaml", 1, folder="finetune-2", seconds=4.0),
            StepRecord("ingest", "unlabeled", folder="ingest-3", seconds=4.0),
        ],
        wrong=[
            WrongAnswer(png(), "What is it?\nA. red\nB. blue", "A", "B", "colour", ("A", True)),
            WrongAnswer(png(), "How many?", "2", ""),
        ],
        sources={
            "labeled": {
                "images": 80,
                "rows": {"in": 90, "used": 81, "refused": {"no answer": 9}},
                "quarantined": 2,
                "seconds": 1.5,
            },
            "unlabeled": {
                "images": 5000,
                "rows": 0,
                "quarantined": 3,
                "reasons": {"truncated": 3},
                "checked": True,
                "note": "x",
            },
        },
        filters={"accepted": 30, "few votes": 60, "refusal": 10},
        quarantine={"truncated": 2},
        facts={"model": "leaml-tiny"},
        calibration={"temperature": 1.634, "ece": 0.0213, "ece_uncalibrated": 0.091, "n": 1500, "bins": BINS},
    )


def text_of(page: str) -> str:
    """Visible words of the page."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("\u00a0", " ").replace("\u2009", " ").split())


def verdict(found: dict[str, Any]) -> str:
    """The page's section of the verdict."""
    page = write_report(ReportData("demo", "easy-vqa", 2, found))
    return page[page.index('<section class="verdict') : page.index('<section id="accuracy"')]


def test_page_is_self_contained(data: ReportData) -> None:
    page = write_report(data)
    assert "default-src 'none'" in page
    references = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert references
    assert {reference[:5] for reference in references if not reference.startswith("#")} == {"data:"}
    assert not re.search(r"<(script|link|iframe|object)\b", page)
    assert "@import" not in page


def test_tags_are_balanced_and_ids_unique(data: ReportData) -> None:
    open_tags: list[str] = []
    ids: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            ids.extend(value or "" for name, value in attrs if name == "id")
            if tag not in {"meta", "img"}:
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            ids.extend(value or "" for name, value in attrs if name == "id")

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(write_report(data))
    assert open_tags == []
    assert len(ids) == len(set(ids)) > 10


def test_equal_data_give_an_equal_page(data: ReportData) -> None:
    assert write_report(data) == write_report(copy.deepcopy(data))
    changed = copy.deepcopy(data)
    changed.losses["warmup"][1] = (10, 1.0)
    assert write_report(changed) != write_report(data)


def test_everything_is_escaped(data: ReportData) -> None:
    evil = ReportData(
        run=EVIL,
        dataset=EVIL,
        labels=1,
        metrics={
            "rows": {EVIL: {**row(0.5), "by_type": {EVIL: 0.5}}, "leaml": row(0.6)},
            "comparison": {
                **comparison(0.1, 0.01),
                "best_baseline": EVIL,
                "baselines": {EVIL: {**comparison(0.1, 0.01), "p_holm": 1}},
            },
            "text_metrics": {EVIL: {EVIL: 0.5}},
            "warnings": [EVIL],
        },
        samples=[Sample(EVIL.encode(), EVIL, EVIL, [{**pair(EVIL, False, EVIL), "answer": EVIL, "roundtrip": EVIL + "2"}])],
        selection=[{"module": EVIL, "layer": 0, "name": EVIL, "rows": 2, "selected": 1}],
        losses={EVIL: [(1, 1.0)]},
        wrong=[WrongAnswer(EVIL.encode(), EVIL, EVIL, EVIL, EVIL, (EVIL, False))],
        sources={EVIL: {EVIL: {EVIL: 1}}},
        steps=[StepRecord(EVIL, EVIL, folder=EVIL, seconds=1.0, state=EVIL)],
        filters={EVIL: 1},
        quarantine={EVIL: 1},
        facts={EVIL: EVIL},
    )
    page = write_report(evil)
    assert "<script" not in page
    assert '" onload=' not in re.sub(r"<text[^>]*>[^<]*</text>", "", page)  # quotes may stand in SVG text, not in attributes
    assert page.count("&lt;script&gt;") >= 36


def with_scripts(value: Any, path: str, placed: list[str]) -> Any:
    """A copy of data whose every text is a script that holds the text's path; `placed` gets the paths."""
    if isinstance(value, str):
        placed.append(path)
        return f"<script>{path}</script>"
    if isinstance(value, dict):
        return {key: with_scripts(part, f"{path}.{key}", placed) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_scripts(part, f"{path}.{place}", placed) for place, part in enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
        return dataclasses.replace(value, **with_scripts(parts, path, placed))
    return value


def test_a_script_in_any_text_of_the_data_comes_out_as_text(data: ReportData) -> None:
    data.metrics["warnings"] = ["Six questions."]
    placed: list[str] = []
    page = write_report(with_scripts(data, "data", placed))
    assert "<script" not in page
    hidden = {path for path in placed if f"&lt;script&gt;{path}&lt;/script&gt;" not in page}
    unshown = {"data.samples.0.pairs.0.reason", "data.sources.unlabeled.note"}  # of an accepted pair; no number
    assert hidden == unshown | {f"data.steps.{place}.config" for place in range(4)}


def test_accuracy_rows_are_named_ordered_and_plotted(data: ReportData) -> None:
    words = text_of(write_report(data))
    assert "LEAML 65.0 % 63.0 – 67.0 2 400 All labels" in words
    table = words[words.index("95 % interval questions") :]
    order = [table.index(name) for name in ("Blind prior", "LoRA on labels", "LEAML 65", "All labels (ceiling)")]
    assert order == sorted(order)
    svg = re.search(r"<svg.*?</svg>", write_report(data), re.S)
    assert svg is not None
    assert svg[0].count("var(--accent)") == 1  # our bar
    assert {"65.0", "60.0", "50.0", "88.0"} <= set(re.findall(r">([\d.]+)</text>", svg[0]))


def test_best_of_a_type_is_bold_and_the_ceiling_is_no_rival(data: ReportData) -> None:
    page = write_report(data)
    assert '<td class="n"><b>75.0</b></td>' in page
    assert "<b>98.0</b>" not in page


def test_each_question_type_has_its_number_of_questions_and_what_they_can_show(data: ReportData) -> None:
    words = text_of(write_report(data))
    assert (
        "By question type question type questions shows Blind prior (no image) LoRA on labels LEAML All labels (ceiling)"
        in words
    )
    assert re.search(r"count 2 396 2\.8 40\.0 50\.0 55\.0 78\.0 shape 4 none 60\.0 70\.0 75\.0 98\.0", words)


def test_without_types_questions_are_broken_down_by_template(data: ReportData) -> None:
    for found in data.metrics["rows"].values():
        found |= {
            "by_type": {},
            "n_by_type": {},
            "by_template": {"is there … in image": 0.25},
            "n_by_template": {"is there … in image": 40},
        }
    words = text_of(write_report(data))
    assert "By question template question template questions shows" in words
    assert "is there … in image 40 18.8 25.0 25.0 25.0 25.0" in words


def test_warnings_stand_beside_the_table_and_are_named_in_the_verdict(data: ReportData) -> None:
    assert "What limits this comparison" not in text_of(write_report(data))
    data.metrics["warnings"] = ["LoRA on labels was trained for 10 steps.", "Six questions."]
    page = write_report(data)
    assert "What limits this comparison : 2 points beside the table" in text_of(page)
    box, table = page.index('<div class="warnings">'), page.index("95 % interval</th>")
    assert box < table
    assert "<li>LoRA on labels was trained for 10 steps.</li><li>Six questions.</li>" in page[box:table]


def test_wrong_answers_show_image_question_both_answers_and_the_baselines(data: ReportData) -> None:
    words = text_of(write_report(data))
    assert "What is it? A. red B. blue colour right A LEAML B best baseline A ✓" in words
    assert "How many? right 2 LEAML (nothing) " in words


def test_whatever_ingest_counted_is_in_the_data_table(data: ReportData) -> None:
    words = text_of(write_report(data))
    table = words[words.index("Data labeled unlabeled") :]
    assert table.startswith(
        "Data labeled unlabeled images 80 5 000 rows – 0 in 90 – used 81 – refused: no answer 9 – "
        "quarantined 2 3 reasons: truncated – 3"
    )
    assert "checked" not in words


def test_text_metrics_are_explained(data: ReportData) -> None:
    data.metrics["text_metrics"] = {"leaml": {"bleu": 0.5, "meteor": 0.25}, "lora_labels": {"bleu": 0.25, "meteor": 0.1}}
    words = text_of(write_report(data))
    assert "bleu meteor LEAML 0.500 0.250 LoRA on labels 0.250 0.100 The metrics of" in words
    assert "BLEU: how many of the words" in words and "METEOR: words" in words and "ROUGE-2" not in words
    data.metrics["text_metrics"] = {"leaml": {}}
    assert "Text metrics" not in text_of(write_report(data))


@pytest.mark.parametrize(
    ("difference", "p", "tone", "phrases"),
    [
        (0.05, 0.0004, "better", ["LEAML helps.", "5.0 percentage points more accurate than", "p = 0.0004", "+3.0 to +7.0"]),
        (0.05, 0.2, "flat", ["does not show that LEAML helps", "p = 0.20", "not statistically significant"]),
        (-0.03, 0.6, "flat", ["does not show that LEAML helps", "3.0 percentage points less accurate"]),
        (0.0, 1.0, "flat", ["does not show that LEAML helps", "as accurate as the best baseline, LoRA on labels"]),
        (-0.08, 0.001, "worse", ["LEAML does not help; it does harm", "Use LoRA on labels instead", "−10.0 to −6.0"]),
    ],
)
def test_verdict(difference: float, p: float, tone: str, phrases: list[str]) -> None:
    found = verdict(metrics(difference, p))
    assert f'class="verdict {tone}"' in found
    for phrase in phrases:
        assert phrase in text_of(found)


def test_verdict_warns_of_the_blind_prior() -> None:
    warning = "no better than answering without looking at the image (50.0 %)"
    assert warning in text_of(verdict(metrics(-0.1, 0.01)))
    assert warning not in text_of(verdict(metrics(-0.09, 0.01)))


def test_confidence_has_its_error_and_a_diagram(data: ReportData) -> None:
    page = write_report(data)
    words = text_of(page)
    assert (
        "over 1 500 answers: 2.1 points after calibration (measured on images that it was not fitted on), 9.1 points" in words
    )
    assert "Temperature 1.63." in words
    svg = re.search(r"<svg[^>]*Accuracy over confidence.*?</svg>", page, re.S)
    assert svg is not None
    assert svg[0].count("fill: var(--accent)") == len(BINS) or svg[0].count('fill="var(--accent)"') == len(BINS)
    assert len(svg[0]) < 20_000
    data.calibration["ece"] = None
    assert "over 1 500 answers: 9.1 points before calibration. Temperature" in text_of(write_report(data))


def test_samples_show_captions_verdicts_and_reasons(data: ReportData) -> None:
    words = text_of(write_report(data))
    assert "Teacher a red square Generator a square" in words
    assert "✓ What shape? circle" in words
    assert "✗ Which? circle few votes · second reading: “square” · votes 50 % · log p −0.25" in words


def test_images_become_data_uris(data: ReportData) -> None:
    data.samples = [Sample(png()), Sample(png((2000, 1000))), Sample(png((10, 10), "BMP")), Sample(b"no image")]
    page = write_report(data)
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 1 + len(data.wrong)
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == 2
    assert page.count("image cannot be shown") == 1
    assert "2000 by 1000 pixels" in page
    assert len(page) < 80_000  # the large one was scaled down


def test_neuron_heat_map(data: ReportData) -> None:
    page = write_report(data)
    words = text_of(page)
    assert "128 of 320 neurons (40.0 %)" in words
    assert "q_proj 25 % 32 75 % 96 50 % 128" in words
    assert "up_proj 0 % 0 0 % 0" in words
    assert "all 25 % 32 50 % 96 40 % 128" in words
    assert 'style="--mix:60.0%" title="layers.1.q_proj: 96 of 128 neurons"' in page
    assert 'style="--mix:20.0%" title="layers.0.q_proj: 32 of 128 neurons"' in page


def test_losses_filters_steps_and_quarantine(data: ReportData) -> None:
    words = text_of(write_report(data))
    assert "finetune: LoRA on labels" in words and "warmup" in words and "1.25" in words and "broken" not in words
    assert "Of 100 generated pairs, 30 (30.0 %) were accepted. accepted 30 · 30.0 % few votes 60 · 60.0 % refusal 10" in words
    assert "step model or source state time folder caption done 3 min 12 s caption-ab12" in words
    assert "evaluate LoRA on labels reused 4.0 s" in words
    assert "finetune LEAML, round 1 done 4.0 s" in words
    assert "ingest unlabeled done 4.0 s ingest-3 total 3 min 24 s" in words
    assert "2 images were set aside" in words and "truncated 2" in words
    assert "1 234 labeled images" in words


def test_a_run_without_results_says_so() -> None:
    words = text_of(write_report(ReportData("fresh", "easy-vqa", 1)))
    for phrase in (
        "not been evaluated",
        "No samples",
        "No pairs",
        "No neurons",
        "No losses",
        "No confidences",
        "No step",
        "Nothing was counted",
        "No image was set aside",
    ):
        assert phrase in words
    assert "rows below were not compared" in text_of(write_report(ReportData("x", "y", 2, {"rows": {"zero_shot": row(0.3)}})))


def test_formats() -> None:
    assert [duration(s) for s in (4.21, 59.94, 59.96, 192.3, 3719.6, 7260)] == [
        "4.2 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 12 s",
        "1 h 02 min",
        "2 h 01 min",
    ]
    assert [p_value(p) for p in (0.63, 0.049, 0.0004, 0.00001)] == ["0.63", "0.049", "0.0004", "1.0e-05"]
    assert [points(d) for d in (0.042, -0.0131, 0.0001)] == ["+4.2", "−1.3", "±0.0"]
