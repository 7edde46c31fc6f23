"""README and docs as they stand: every block, command, configuration, row, request and snippet is tried as far as it goes
without Ray and vLLM, and what nobody knows how to try fails."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import doc_leaml
import doc_shell
import pytest
import torch
import yaml
from doc_folder import READ_ELSEWHERE, make_folder, with_defaults
from doc_pages import (
    OWN_DATA,
    PAGES,
    ROOT,
    Command,
    Found,
    all_blocks,
    commands,
    configs,
    kind_of,
    of_program,
    one,
    spans,
    table,
)
from doc_requests import Sent, routes, send, shown, try_route
from peft import get_peft_model
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from cluster import manifests
from leaml import config as tree
from leaml import rows, score_methods
from leaml.config import SourceConfig
from leaml.data import captions, questions, registry
from leaml.errors import ConfigError
from leaml.generation import filters
from leaml.neurons.peft import NeuronConfig
from leaml.text.scoring import answer_text
from pipelines import report
from pipelines.steps import COMMANDS
from pipelines.trial import refuse
from serve import settings as serving

OF_READERS = {"pipelines/sizes.py"}
"""Files that the reader of a page writes."""

KINDS = {"commands", "rows", "config", "kustomization", "project", "python", "diagram"}
"""Each has a test below."""


def names(found: list[Any]) -> list[str]:
    return [str(each) for each in found]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_folder(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder, which is the current one, with runs and configurations of its own; nothing starts Ray."""
    for entry in made.iterdir():
        if entry.name == "runs":
            shutil.copytree(entry, tmp_path / entry.name)
        elif entry.suffix == ".yaml":
            shutil.copy(entry, tmp_path)
        else:
            (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    doc_leaml.stop_before_ray(monkeypatch)
    return tmp_path


def test_pieces_are_found() -> None:
    """So that the tests below cannot pass because they look at nothing."""
    pages = {command.at.page for command in commands()}
    assert pages >= {
        "README.md",
        OWN_DATA,
        "serving.md",
        "operations.md",
        "kvasir_vqa.yaml",
        "demo.yaml",
        "cluster/ray-up/aws.yaml",
    }
    assert len(of_program("leaml")) > 50
    assert {command.program for command in commands()} == {*doc_shell.TRIES, "leaml", "curl", "export"}
    assert {each.page for each in configs()} >= {OWN_DATA, "tuning.md", "neurons.md", "folder.yaml", "sportu.yaml"}
    assert any("url: http" in line for each in configs() if each.page == OWN_DATA for line in each.text.splitlines())


@pytest.mark.parametrize("block", all_blocks(), ids=names(all_blocks()))
def test_every_block_is_of_a_kind_that_is_tried(block: Found) -> None:
    assert kind_of(block) in KINDS, f"{block}: no test knows how to try this; write one:\n{block.text}"


@pytest.mark.parametrize("text", ["let x = 1", "SELECT 1", "wget http://x", "[a]\nb = 1", "nosuchkey: 1"])
def test_a_block_of_an_unknown_kind_is_noticed(text: str) -> None:
    assert kind_of(Found("new.md", 1, text)) is None


# Configurations


@pytest.mark.parametrize("found", configs(), ids=names(configs()))
def test_every_configuration_loads(found: Found) -> None:
    read = yaml.safe_load(found.text)
    assert isinstance(read, dict), found.text
    tree.parse({"data": doc_leaml.SOURCES} | read)


@pytest.mark.parametrize("found", configs(), ids=names(configs()))
def test_every_configuration_is_one_that_a_run_would_take(found: Found, folder: Path) -> None:
    tried = refuse(with_defaults(found.text))
    assert tried.amounts is not None


def test_a_wrong_configuration_is_noticed() -> None:
    with pytest.raises(ConfigError, match=r"'caption.teacher.url': did you mean 'caption.url'\?"):
        tree.parse({"data": doc_leaml.SOURCES, "caption": {"teacher": {"name": "big", "url": "http://teacher:8000/v1"}}})


def test_every_key_that_is_named_exists() -> None:
    """`section.key` in running text, of a run's configuration or of the server's settings."""
    known = {key.replace("[]", "") for section in (tree.Config, serving.ServeSettings) for key, _, _ in tree.explain(section)}
    sections = {key.partition(".")[0] for key in known if "." in key}
    wrong = []
    for span in (span for page in PAGES for span in spans(page)):
        match = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)(?:[=:*].*)?", span.text)
        if match is None or match[1].partition(".")[0] not in sections or (ROOT / match[1]).exists():
            continue
        key, is_file = match[1], match[1].rpartition(".")[2] in ("py", "md", "json", "yaml", "parquet", "jsonl")
        if key not in known and not any(k.startswith(key) for k in known if span.text.endswith("*")) and not is_file:
            wrong.append(f"{span} {key}")
    assert not wrong


def test_the_registry_named_in_a_kustomization_is_where_images_come_from(tmp_path: Path) -> None:
    """docs/operations.md: the block goes into the overlay's site/kustomization.yaml."""
    block = next(b for b in all_blocks() if kind_of(b) == "kustomization")
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    site = tmp_path / "cluster" / "kuberay" / "overlays" / "gpu" / "site" / "kustomization.yaml"
    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | yaml.safe_load(block.text)))
    images = set(re.findall(r'"image": "([^"]+)"', json.dumps(manifests.render("gpu", tmp_path / "cluster"))))
    wanted = yaml.safe_load(block.text)["images"][0]["newName"]
    assert any(image.startswith(f"{wanted}:") for image in images), images


# Commands


LEAML = of_program("leaml")
CURL = of_program("curl")


@pytest.mark.parametrize("command", LEAML, ids=names(LEAML))
def test_every_leaml_command_is_parsed(command: Command) -> None:
    try:
        doc_leaml.parse(command.text)
    except (doc_leaml.REFUSED, ConfigError, ValueError) as error:
        pytest.fail(f"{command}: leaml {command.text}: {error}")


RUNS = {" ".join(words): (command, words) for command in LEAML for words in doc_leaml.runs_of(command)}
"""Commands that are run, each once however often a page has it."""


@pytest.mark.parametrize("text", RUNS)
def test_every_leaml_command_runs(text: str, folder: Path) -> None:
    command, words = RUNS[text]
    if words[:2] == ["tune", "mine.yaml"]:  # the page gives it a space
        with (folder / "mine.yaml").open("a") as file:
            file.write(one("tuning.md", "config").text)
    said = doc_leaml.run(words)
    if words[0] == "inspect":
        assert "is there a polyp?" in said and "yes" in said
    if words[0] == "status":
        assert "done" in said, f"{command}: {said}"


@pytest.mark.parametrize(
    "wrong", ["adapt c.yaml --dryrun", "adapt c.yaml select.ration=1", "statsu runs/x", "serve m limits.x=1"]
)
def test_a_wrong_leaml_command_is_noticed(wrong: str) -> None:
    with pytest.raises((doc_leaml.REFUSED, ConfigError)):
        doc_leaml.parse(wrong)


def test_what_is_not_run_to_its_end_here_is_run_elsewhere() -> None:
    for where in [*(test for _, test in (*doc_leaml.TRIED.values(), *doc_shell.TRIES.values())), *READ_ELSEWHERE.values()]:
        file, _, test = where.partition("::")
        assert not where or f"def {test}(" in (ROOT / "tests" / file).read_text(), where


# Rows


ROWS = [b for b in all_blocks() if kind_of(b) == "rows"]
PARTS = [Found(b.page, b.line, part) for b in ROWS for part in b.text.strip().split("\n\n")]


def written(part: str, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The rows in a file, and what a reader of the page takes them for."""
    is_json = part.startswith("{")
    file = folder / f"rows.{'jsonl' if is_json else 'csv'}"
    file.write_text(part + "\n")
    rows = [json.loads(line) for line in part.splitlines()] if is_json else list(csv.DictReader(io.StringIO(part)))
    for row in rows:
        options = row.get("options")
        row["options"] = tuple(options.split("|") if isinstance(options, str) and options else options or ()) or None
    return file, rows


@pytest.mark.parametrize("part", PARTS, ids=names(PARTS))
def test_rows_are_read_as_they_are_meant(part: Found, folder: Path) -> None:
    file, meant = written(part.text, folder)
    if "caption" in meant[0]:
        assert len(captions.read(str(file))) == len(meant)
        return
    if "answer" in meant[0]:
        for row in meant:
            shutil.copy(folder / "frame.png", folder / row["image"])
        source = SourceConfig(format=file.suffix.removeprefix("."), path=str(file))
        read = [question for record in registry.read(source) for question in record.questions]
        assert [(q.question, q.answer, q.options) for q in read] == [(r["question"], r["answer"], r["options"]) for r in meant]
    asked = questions.read(str(file))  # a file of labels is one of questions too
    assert [(a.image, a.question, a.options) for a in asked] == [(r["image"], r["question"], r["options"]) for r in meant]


def options_written() -> Iterator[str]:
    """How docs/data.md says that options may be written, behind "options are"."""
    text = " ".join((ROOT / "docs" / "data.md").read_text().split())
    start = text.index("Labels may also be a CSV or TSV file")
    yield from re.findall(r"`([^`]+)`", text[start : text.index("Labels in front of their", start)])


@pytest.mark.parametrize("text", [text for text in options_written() if "red" in text])
@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_options_of_tables_are_read_as_the_page_says(text: str, form: str, folder: Path) -> None:
    words = re.findall(r"[a-z]{3,}", text)
    cells = ("frame.png", "which colour?", words[1], text)
    comma = "," if form == "csv" else "\t"
    (folder / f"labels.{form}").write_text(f"{comma.join(('image', 'question', 'answer', 'options'))}\n{comma.join(cells)}\n")
    (record,) = registry.read(SourceConfig(format="csv", path=str(folder / f"labels.{form}")))
    (question,) = record.questions
    assert question.options is not None and list(question.options) == words
    assert question.answer in ("B", words[1])


@pytest.mark.parametrize("value", [["red", "blue"], {"A": "red", "B": "blue"}, '["red", "blue"]'])
@pytest.mark.parametrize("answer", ["B", "blue"])
def test_options_of_json_are_read_as_the_page_says(value: Any, answer: str, folder: Path) -> None:
    """docs/data.md: a list, an object by letter, JSON text; the answer a letter or the text of one."""
    row = {"image": "frame.png", "question": "which?", "answer": answer, "options": value}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    (record,) = registry.read(SourceConfig(format="jsonl", path="rows.jsonl"))
    (question,) = record.questions
    assert question.options == ("red", "blue")
    assert answer_text({"question": question.question, "answer": question.answer, "options": ["red", "blue"]}) == "blue"


KEYS_OF_CAPTIONS = re.findall(r"`(\w+)`", table("data.md", "`caption.file`")[0][1])


@pytest.mark.parametrize("key", KEYS_OF_CAPTIONS)
@pytest.mark.parametrize("ending", [kind.strip() for kind in table("data.md", "`caption.file`")[0][0].split(",")])
def test_tables_of_captions_are_read_as_the_table_says(ending: str, key: str, folder: Path) -> None:
    rows = [{key: "more_0.jpg", "caption": "A fold."}, {key: "more_1.jpg", "caption": "A red polyp."}]
    comma = {"CSV": ",", "TSV": "\t"}.get(ending, "")
    lines = [comma.join(row) for row in [list(rows[0]), *(list(row.values()) for row in rows)]]
    text = {"JSON": json.dumps(rows), "JSON Lines": "\n".join(map(json.dumps, rows))}.get(ending, "\n".join(lines))
    file = folder / f"captions.{ending.lower().replace('json lines', 'jsonl')}"
    file.write_text(text)
    found = captions.read(str(file))
    asked = ("more_1.jpg", None) if key == "image_id" else ("0123", "/data/frames/more_1.jpg")
    assert (len(found), found.of(*asked)) == (2, "A red polyp.")


def test_every_kind_of_source_and_of_captions_is_read_in_a_test() -> None:
    kinds = {row[0] for head in ("source", "`caption.file`") for row in table("data.md", head)}
    assert kinds == {*READ_ELSEWHERE, table("data.md", "`caption.file`")[0][0]}


def captions_shown() -> list[Found]:
    """JSON objects with a caption in comments and running text."""
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            found += [Found(page.name, number, text) for text in re.findall(r'\{"image": [^{}]*"caption": [^{}]*\}', line)]
    return found


@pytest.mark.parametrize("found", captions_shown(), ids=names(captions_shown()))
def test_caption_rows_are_read(found: Found, folder: Path) -> None:
    (folder / "ready.jsonl").write_text(found.text.replace("...", '"more_0.jpg"') + "\n")
    assert captions.read("ready.jsonl").of("", "data/frames/more_0.jpg") == "more_0.jpg"


# Requests


@pytest.mark.parametrize("command", CURL, ids=names(CURL))
def test_every_curl_gets_what_the_page_shows(command: Command, folder: Path) -> None:
    key = doc_shell.value_of(next(c for c in of_program("export") if c.at.page == command.at.page).text)
    sent: Sent = send(command, {"LEAML_API_KEYS": key}, key, folder)
    assert sent.status == 200, sent.body
    assert shown(sent.body) == shown(json.loads(command.reply))
    said = sent.body
    assert said["confidence"] + sum(other["confidence"] for other in said["alternatives"]) <= 1
    refused = send(command, {"LEAML_API_KEYS": "x" * 20}, key, folder)
    assert refused.status == 401
    (shape,) = re.findall(r'`\{"error": \{(.*?)\}\}`', (ROOT / "docs" / "serving.md").read_text())
    assert set(refused.body["error"]) == set(re.findall(r'"(\w+)"', shape))


@pytest.mark.parametrize("method,path", routes())
def test_every_route_of_the_table_answers(method: str, path: str, folder: Path) -> None:
    with_key, without, head = try_route(method, path, folder)
    assert with_key == 200
    assert without == (200 if path == "/health" else 401), "the table says which routes need no key"
    assert head in (None, 200)


# Output


def test_the_demos_output_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/quickstart.md: the table read back, and printed again."""
    (shown,) = [command.reply for command in commands() if command.program == "make" and "┏" in command.reply]
    head, *lines = [[cell.strip() for cell in line[1:-1].split(line[0])] for line in shown.splitlines() if line[0] in "┃│"]
    metrics: dict[str, Any] = {"dataset": "easy_vqa", "labels": 40, "rows": {}}
    for name, accuracy, interval, number, *kinds in lines:
        low, high = map(float, interval.split(" to "))
        by_type = dict(zip(head[4:], map(float, kinds), strict=True))
        metrics["rows"][name] = {"accuracy": float(accuracy), "ci95": [low, high], "n": int(number), "by_type": by_type}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "console", Console(width=120, file=sys.stdout))
        report.print_table(metrics)
    printed = capsys.readouterr().out.strip().splitlines()
    assert [line.strip() for line in printed][:-1] == shown.splitlines()[:-1]


# Packages of others, Python, diagrams


@pytest.mark.parametrize("block", [b for b in all_blocks() if kind_of(b) == "project"], ids=str)
def test_entry_points_are_of_groups_that_are_looked_at(block: Found) -> None:
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert groups.keys() <= {each.PLUGINS.group for each in (registry, filters, rows, score_methods)}
    assert all(re.fullmatch(r"[\w.]+:\w+", target) for group in groups.values() for target in group.values())


@pytest.mark.parametrize("name", ["reader", "filter", "row"])
def test_what_a_page_adds_is_the_package_in_examples(name: str) -> None:
    page, folder = f"docs/how-to/{name}.md", ROOT / "examples" / name
    (module,) = folder.glob("*.py")
    assert one(page, "python").text.strip() in module.read_text()
    packaged = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    assert tomllib.loads(one(page, "project").text)["project"]["entry-points"] == packaged


@pytest.mark.parametrize("block", [b for b in all_blocks() if kind_of(b) == "python"], ids=str)
def test_every_python_snippet_runs(block: Found, folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    base, base_again = (LlamaForCausalLM(LlamaConfig(**sizes)) for _ in range(2))
    base_again.load_state_dict(base.state_dict())
    before = {name: value.clone() for name, value in base.state_dict().items()}
    space: dict[str, Any] = {
        "base": base,
        "base_again": base_again,
        "other_config": NeuronConfig(rows={"model.layers.0.mlp.up_proj": [1]}),
        "loader": [{"input_ids": torch.arange(12).view(2, 6), "labels": torch.arange(12).view(2, 6)}],
        "get_peft_model": get_peft_model,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(block.text, str(block), "exec"), space)
    if "adapter" not in block.text:
        return
    assert {path.name for path in Path("adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert (Path("lora") / "adapter_config.json").exists()
    plain = space["plain"].state_dict()
    assert all(torch.equal(plain[name], value) for name, value in before.items())


def test_lists_of_the_steps_are_those_that_are_declared() -> None:
    every = [spec.name for spec in COMMANDS]
    concepts, quickstart = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("concepts", "quickstart"))
    listed = re.findall(r"`(\w+)`", concepts.split("**Steps.**")[1].split(". Each is a command")[0])
    (commands_listed,) = re.findall(r"One step at a time: `leaml ([\w|]+)`", quickstart)
    assert listed == every
    assert commands_listed.split("|") == every[1:]  # ingest comes before


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    folders = "leaml|pipelines|serve|tests|cluster|benchmarks|examples|tools|research|docs|requirements"
    named = re.findall(rf"(?<![\w./-])(?:\.\./)*((?:{folders})/[\w./-]+\.(?:py|yaml|sh|md|toml|txt|html))\b", page.read_text())
    assert [name for name in named if not (ROOT / name).exists() and name not in OF_READERS] == []


@pytest.mark.parametrize("block", [b for b in all_blocks() if kind_of(b) == "diagram"], ids=str)
def test_modules_of_diagrams_exist(block: Found) -> None:
    there = {file.name for folder in ("leaml", "pipelines", "serve") for file in (ROOT / folder).rglob("*.py")}
    assert not set(re.findall(r"\b\w+\.py\b", block.text)) - there
    for folder in re.findall(r"^(\w+)/ ", block.text, re.MULTILINE):
        assert (ROOT / folder).is_dir()
