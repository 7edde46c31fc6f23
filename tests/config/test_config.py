"""The configuration tree: what loads, what is refused, and that every refusal names key, value and fix."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from leaml import config
from leaml.config import reading, yaml_text
from leaml.config.base import Section
from leaml.config.keys import section_of
from leaml.config.wanted import wanted
from leaml.errors import ConfigError

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "data": DATA, "warmup": {"steps": 7}}))
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path, list(overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_file_fills_the_tree_and_the_rest_are_defaults(file: Path) -> None:
    found = config.load(file)
    assert (found.name, found.warmup.steps, found.data.labeled.split) == ("mine", 7, "train")
    assert (found.distill.steps, found.select.ratio, found.run_folder) == (200, 0.3, str(Path("runs/mine").absolute()))


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("warmup.steps=9", "warmup", "steps", 9),
        ("warmup.lr=1e-4", "warmup", "lr", 1e-4),  # YAML 1.1 alone reads text here
        ("warmup.lr=1E+2", "warmup", "lr", 100.0),
        ("warmup.lr=[0.1, 1.0e-3]", "warmup", "lr", [0.1, 1e-3]),
        ("warmup.lr=[1e-4, 3e-4]", "warmup", "lr", [1e-4, 3e-4]),
        ("distill.skip=true", "distill", "skip", True),
        ("caption.prompt=What = this?", "caption", "prompt", "What = this?"),
        ("caption.max_images=null", "caption", "max_images", None),
        ("model.name=nan", "model", "name", "nan"),  # a word that Python would read as a number
        ("model.revision='123'", "model", "revision", "123"),
    ],
)
def test_overrides_have_the_type_of_their_value(file: Path, override: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(config.load(file, [override]), section), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "yes", "many"])
def test_a_size_of_images_that_is_none_is_refused(file: Path, value: str) -> None:
    assert "model.max_image_pixels" in refused(file, f"model.max_image_pixels={value}")
    assert "caption.teacher.image_tiles" in refused(file, "caption.teacher.image_tiles=16")


def test_a_teacher_behind_a_url_is_sent_images_of_another_key(file: Path) -> None:
    shown = refused(file, "caption.url=http://host/v1", "caption.teacher.max_image_pixels=9000")
    assert "teacher.max_image_pixels cannot be had of a teacher behind url; set client.image_max_side" in shown
    assert config.load(file, ["caption.teacher.max_image_pixels=9000"]).caption.teacher.max_image_pixels == 9000


def test_override_wins_over_the_file_and_the_last_over_the_first(file: Path) -> None:
    assert config.load(file, ["warmup.steps=9", "warmup.steps=11"]).warmup.steps == 11


def test_override_makes_sections_that_the_file_leaves_out(file: Path) -> None:
    assert config.load(file, ["filter.round_trip=false"]).filter.round_trip is False


@pytest.mark.parametrize("override", ["warmup.steps", "=3", "warmup.steps=[1"])
def test_malformed_override_is_named(file: Path, override: str) -> None:
    assert repr(override) in refused(file, override)


def test_override_below_a_value_is_refused(file: Path) -> None:
    assert "'steps' is a value, not a section" in refused(file, "warmup.steps.more=1")


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("scroe.method=random", "scroe", "score"),
        ("select.ration=0.1", "select.ration", "ratio"),
        ("data.budget.cuont=3", "data.budget.cuont", "count"),
        ("data.unlabeled.pth=x", "data.unlabeled.pth", "path"),  # inside an optional section
        ("filter.roundtrip=true", "filter.roundtrip", "round_trip"),
    ],
)
def test_unknown_key_names_itself_and_the_near_one(file: Path, override: str, key: str, near: str) -> None:
    message = refused(file, "data.unlabeled.format=folder", override)
    assert f"unknown key {key!r}: did you mean {near!r}?" in message
    assert str(file) in message


def test_unknown_key_far_from_all_lists_the_known_ones(file: Path) -> None:
    assert "known keys: method, unit, modules" in refused(file, "score.zzzz=1")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("select.ratio=many", "select.ratio", "'many'"),
        ("select.ratio=1.5", "select.ratio", "1.5"),
        ("select.ratio=-0.1", "select.ratio", "-0.1"),
        ("score.method=best", "score.method", "'best'"),
        ("score.modules=([", "score.modules", "'(['"),
        ("warmup.steps=0", "warmup.steps", "0"),
        ("warmup.steps=2.5", "warmup.steps", "2.5"),
        ("warmup.lr=[]", "warmup.lr", "[]"),
        ("warmup.lr=-1.0", "warmup.lr", "-1.0"),
        ("warmup.lr=fast", "warmup.lr", "'fast'"),
        ("seed=-1", "seed", "-1"),  # numpy refuses it, hours later
        ("name=../other", "name", "'../other'"),
        ("name=..", "name", "'..'"),
        ("data.labeled=easy_vqa", "data.labeled", "'easy_vqa'"),
    ],
)
def test_impossible_value_is_named_with_its_key(file: Path, override: str, key: str, value: str) -> None:
    message = refused(file, override)
    assert f"{key}: " in message or f"{key}." in message
    assert f"got {value}" in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune.lr=1e-3,1e-4", "finetune.lr: a number above 0, or a list of such, written [a, b] is needed (got "
         "'1e-3,1e-4'); write finetune.lr=[1e-3,1e-4]"),
        ("warmup.lr=[1e-3, -1]", "warmup.lr: a number above 0, or a list of such, written [a, b] is needed (got -1)"),
        ("warmup.lr=.inf", "(got inf); it must be finite"),
        ("name=a/b", "name: a name of letters, digits, '.', '_' and '-' (at most 64, no '.' first; the folder under storage) "
         "is needed (got 'a/b')"),
        ("name=7", "needed (got 7); put it in quotes: '7'"),
        ("select.ratio=30", "select.ratio: a number from 0 to 1 is needed (got 30); 30 % is 0.3"),
        ("select.ratio=30%", "select.ratio: a number from 0 to 1 is needed (got '30%'); 30 % is 0.3"),
        ("select.ratio=yes", "select.ratio: a number from 0 to 1 is needed (got True)"),
        ("warmup.steps=true", "warmup.steps: a whole number above 0 is needed (got True)"),
        ("data.budget.fraction=5", "fraction: a number above 0 and of at most 1, or null is needed (got 5); 5 % is 0.05"),
        ("warmup.steps=1e3", "warmup.steps: a whole number above 0 is needed (got '1e3'); write 1000"),
        ("select.scope=layers", "select.scope: one of module, layer, global is needed (got 'layers'); did you mean 'layer'?"),
        ("evaluate.controls=[no_caption]", "(got 'no_caption'); did you mean 'no_captions'?"),
        ("evaluate.controls=no_captions,full_labels", "; write evaluate.controls=[no_captions,full_labels]"),
        ("distill.skip=maybe", "distill.skip: true or false is needed (got 'maybe')"),
        ("caption.url=host:8000", "caption.url: an address that begins with http:// or https://, or null is needed"),
        ("score.modules=([", "score.modules: not a regular expression"),
        ("caption.complete=false", "caption: complete is false and file is not set"),
        ("warmup.steps=null", "warmup.steps: a whole number above 0 is needed (got None)"),
        ("tune.space={select.ratio: {low: [1]}}", "tune.space.select.ratio.low: a number, or null is needed (got [1])"),
    ],
)  # fmt: skip
def test_what_a_key_may_be_is_said_in_plain_words_with_the_fix(file: Path, override: str, said: str) -> None:
    message = refused(file, override)
    assert said in message
    for jargon in (
        "Input should",
        "String should",
        "Value error",
        "valid ",
        "unable to parse",
        "float",
        "constrained",
        "pattern",
    ):
        assert jargon not in message
    key = override.partition("=")[0]
    assert message.count(f"{key}: ") <= 1  # once, not for each type that it might have


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("finetune.learning_rate=1e-4", "'lr'"),
        ("learning_rate=1e-4", "'warmup.lr' or 'distill.lr' or 'finetune.lr' or one of 2 more"),
        ("finetune.epochs=3", "'steps'"),
        ("data.train.path=x", "'labeled'"),
        ("output_dir=x", "'storage'"),
    ],
)
def test_names_of_other_programs_are_told_ours(file: Path, override: str, near: str) -> None:
    assert f"did you mean {near}?" in refused(file, override)


def test_every_field_says_what_it_may_be() -> None:
    """None falls back to a pattern or to nothing."""

    def fields(section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
        for name, field in section.model_fields.items():
            if (nested := section_of(field.annotation)) is not None:
                yield from fields(nested)
            else:
                yield name, field

    for name, field in fields(config.Config):
        words = wanted(field)
        assert words
        assert "of the form" not in words, name


def test_every_problem_is_reported_at_once(file: Path) -> None:
    message = refused(file, "select.ratio=2", "warmup.stepz=1")
    assert "select.ratio" in message
    assert "warmup.stepz" in message


def test_missing_required_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert "missing key 'data'" in refused(path)


def test_a_source_that_is_missing_is_named_with_how_to_write_it(tmp_path: Path) -> None:
    path, test = tmp_path / "a.yaml", "evaluation: {format: jsonl, path: data/test.jsonl}"
    train = "labeled: {format: jsonl, path: data/train.jsonl}"
    path.write_text(f"data: {{{train}}}")
    assert f"missing key 'data.evaluation': add it, such as {test} (" in refused(path)
    path.write_text("data: {labeled: a.jsonl, evaluation: {path: b.jsonl}}")
    assert f"(got 'a.jsonl'), such as {train};" in refused(path)
    assert "missing key 'data.evaluation.format': add it, such as format: jsonl" in refused(path)
    path.write_text("name: x")
    assert f"missing key 'data': add it, such as data: {{{train}, {test}}}" in refused(path)
    path.write_text(f"data: {{{train}, {test}, validation: {{format: jsonl}}}}")
    assert "unknown key 'data.validation': there is no source of its own for it; data.budget.validation_fr" in refused(path)
    path.write_text("data: {train: {format: jsonl}, test: {format: jsonl}}")
    said = refused(path)
    assert "unknown key 'data.train': did you mean 'labeled'?" in said
    assert "unknown key 'data.test': did you mean 'evaluation'?" in said
    path.write_text(f"data: {{{train}, {test}}}")
    config.load(path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert "none.yaml" in refused(tmp_path / "none.yaml")
    assert str(tmp_path) in refused(tmp_path)


@pytest.mark.parametrize("content", [b"a: [1", b"- 1\n- 2\n", b"name: \xff\xfe\n", b"just words"])
def test_file_that_is_no_yaml_mapping_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert "bad.yaml" in refused(path)


def test_count_and_fraction_exclude_each_other(file: Path) -> None:
    assert config.load(file, ["data.budget.count=3"]).data.budget.count == 3
    assert config.load(file, ["data.budget.fraction=0.5"]).data.budget.fraction == 0.5
    assert "remove one" in refused(file, "data.budget.count=3", "data.budget.fraction=0.5")


def test_batch_that_the_workers_cannot_share_is_refused_at_once(file: Path) -> None:
    assert config.load(file, ["resources.train_workers=4"]).resources.train_workers == 4
    message = refused(file, "resources.train_workers=3", "evaluate.baselines.lora_labels.batch_size=30")
    assert "warmup.batch_size 64" in message
    assert "evaluate.baselines.finetune_labels.batch_size 64" in message
    assert "lora_labels" not in message.partition(": ")[2]
    assert message.partition(": ")[0].endswith(" with resources.train_workers=3 evaluate.baselines.lora_labels.batch_size=30")


def test_values_cannot_change_after_loading(file: Path) -> None:
    found = config.load(file)
    with pytest.raises(ValidationError):
        found.warmup.steps = 3
    with pytest.raises(ValidationError):
        found.data.budget.count = 3


def _leaves(tree: dict[str, object], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def test_explain_lists_every_key_once_with_default_and_description() -> None:
    rows = config.explain()
    keys = [key for key, _, _ in rows]
    assert len(set(keys)) == len(keys)
    tree = {"data": {**DATA, "unlabeled": {"format": "folder", "path": "x"}}}
    assert _leaves(config.parse(tree).model_dump()) <= set(keys)
    assert all(len(description) > 5 for _, _, description in rows)
    assert ("select.ratio", "0.3", "Share of neurons that distillation may move.") in rows
    assert ("data.labeled.format", "required") in [row[:2] for row in rows]


def test_shipped_recipes_load() -> None:
    recipes = sorted((Path(__file__).parents[2] / "pipelines" / "configs").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        config.load(recipe)


def test_shipped_model_names_become_folders_and_others_stay() -> None:
    assert config.resolve_model("leaml-tiny").endswith("/leaml/tiny/models/leaml-tiny")
    assert config.resolve_model("owner/name") == "owner/name"


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("caption.teacher.url=http://t/v1", "'caption.url'"),  # one level up
        ("teacher.name=big", "'caption.teacher'"),
        ("budget={count: 4}", "'data.budget'"),
        ("data.filter.round_trip=false", "'filter'"),
        ("score.steps=3", "'warmup.steps' or 'distill.steps' or 'finetune.steps' or one of 2 more"),
        ("round_tripp=true", "'filter.round_trip'"),  # elsewhere, and misspelt
    ],
)
def test_a_key_in_the_wrong_section_is_told_its_place(file: Path, override: str, place: str) -> None:
    assert f"did you mean {place}?" in refused(file, override)


def test_a_key_of_an_entry_is_told_its_place(file: Path) -> None:
    space = {"select.ratio": {"choice": [0.1]}}
    file.write_text(yaml.safe_dump({"data": DATA, "tune": {"space": space}}))
    assert "unknown key 'tune.space.select.ratio.choice': did you mean 'choices'?" in refused(file)


def test_what_is_explained_is_what_an_empty_configuration_resolves_to() -> None:
    found = config.parse({"data": DATA}).model_dump()
    for key, default, _ in config.explain():
        if (
            default in ("required", "section")
            or ".KEY." in key
            or key.startswith(("data.labeled", "data.unlabeled", "data.eval"))
        ):
            continue
        value = found
        for name in key.split("."):
            value = value[name]
        assert repr(value) == default, key


def test_a_section_that_is_given_in_part_keeps_its_other_defaults(file: Path) -> None:
    found = config.load(file, ["evaluate.baselines.lora_labels.steps=9", "caption.teacher.dtype=bfloat16"])
    assert found.evaluate.baselines.lora_labels.lr == [1e-3, 3e-3]
    assert found.caption.teacher.name == "leaml-tiny-teacher"


def test_the_address_of_a_teacher_and_its_key_are_named_where_people_look() -> None:
    explained = {key: text for key, _, text in config.explain()}
    assert "OPENAI_API_KEY" in explained["caption.url"]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "`caption.url`" in readme and "`OPENAI_API_KEY`" in readme


def test_every_value_of_a_choice_is_explained() -> None:
    explained = {key: text for key, _, text in config.explain()}
    assert explained["evaluate.controls"].endswith("captions_mixed, self_training, full_labels.")
    assert explained["select.scope"].endswith("One of: module, layer, global.")
    assert "One of: json, csv, tensorboard, mlflow." in explained["tune.loggers"]


# --- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("name: a\ndata:\n  x: 1\nname: b\n", "name", "1 and 4"),
        ("name: a\ncaption:\n  url: b\n  timeout: 3\n  url: b\n", "url", "3 and 5"),
        ("a: {b: 1, b: 2}\n", "b", "1 and 1"),
        ("a:\n- {b: 1}\n- b: 1\n  'b': 2\n", "b", "3 and 4"),
    ],
)
def test_a_key_that_occurs_twice_is_refused_with_both_lines(tmp_path: Path, text: str, key: str, lines: str) -> None:
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"twice\.yaml: the key '{key}' occurs twice, in lines {lines}; remove one"):
        config.load(tmp_path / "twice.yaml")


def test_a_key_twice_in_an_override_is_refused_and_merges_may_name_a_key_again() -> None:
    with pytest.raises(ConfigError, match=r"override .*: the key 'count' occurs twice"):
        reading.override({}, "data.budget={count: 1, count: 2}")
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n"
    assert yaml_text.load(text) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}}
