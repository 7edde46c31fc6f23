"""The keys of a configuration tree: the list of all with default and meaning, and what is said about a wrong one."""

from __future__ import annotations

import difflib
from typing import Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from leaml.config.base import Section
from leaml.config.engine import OF_VLLM
from leaml.config.sections import Config
from leaml.config.wanted import fix, wanted

_SHOWN = 120
"""Characters of a wrong value."""
_OTHER_NAMES = {
    "learning_rate": "lr",
    "learning_rates": "lr",
    "epochs": "steps",
    "num_train_epochs": "steps",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "max_new_tokens": "max_tokens",
    "model_name_or_path": "name",
    "output_dir": "storage",
    "train": "labeled",
    "test": "evaluation",
    "eval": "evaluation",
    "engine_sequences": "sequences",
    **OF_VLLM,
}
"""What other programs, or earlier versions, call a key of ours."""
_NO_VALIDATION = (
    "there is no source of its own for it; data.budget.validation_fraction holds that share of the labels out to choose by"
)
_NO_KEYS = dict.fromkeys(("validation", "valid", "val", "dev"), _NO_VALIDATION)
"""What other programs have and we do not, and what is in its place."""


def refusal(error: ValidationError, origin: str, root: type[Section], listing: str) -> str:
    """What is wrong with a tree, in one line: every key with its value and the fix.

    Args:
        error: What pydantic found.
        origin: Names the tree, for example its file.
        root: The section that the tree was to be.
        listing: What lists every key of it.
    """
    lines: dict[str, str] = {}
    for problem in sorted(error.errors(), key=lambda p: len(p["loc"])):  # the last of a union's is nearest to what was meant
        where, line = _problem(problem, root)
        lines[where] = line
    return f"{origin}: " + "; ".join(lines.values()) + f" ({listing} lists every key)"


def _problem(problem: ErrorDetails, root: type[Section]) -> tuple[str, str]:
    """The key that a problem is about, and what is wrong with it."""
    location, kind = problem["loc"], problem["type"]
    where = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return where, f"unknown key {where!r}: {_suggestion(location, root)}"
    example = _example(location, root)
    if kind == "missing":
        return where, f"missing key {where!r}: add it{example}"
    got = f"(got {_shown(problem['input'])})"
    if kind in ("model_type", "model_attributes_type"):
        keys = ", ".join(_known_keys(location, root))
        return where, f"{where}: a section with the keys {keys} is needed {got}{example}"
    depth, field = _field_at(location, root)
    if field is None or section_of(field.annotation) is not None:
        said = str(problem.get("ctx", {}).get("error", problem["msg"]))
        return where, f"{where}: {said}" if where else said
    where = ".".join(map(str, location[:depth]))
    if kind == "value_error":  # of a rule of ours
        return where, f"{where}: {problem['ctx']['error']} {got}"
    return where, f"{where}: {wanted(field)} is needed {got}{fix(field, where, problem['input'])}"


def _example(location: tuple[int | str, ...], root: type[Section]) -> str:
    """How a key may be written."""
    _, field = _field_at(location, root)
    return f", such as {location[-1]}: {field.examples[0]}" if field is not None and field.examples else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _field_at(location: tuple[int | str, ...], root: type[Section]) -> tuple[int, FieldInfo | None]:
    """The field that a location leads to, and how many of its names that takes: pydantic goes on with types and entries."""
    section: type[Section] | None = root
    depth, field = 0, None
    while section is not None and depth < len(location):
        found = section.model_fields.get(str(location[depth]))
        if found is None:
            break
        depth, field, section = depth + 1, found, section_of(found.annotation)
        if section is not None and get_origin(found.annotation) in (list, dict, tuple):
            depth += 1  # the number or the key of an entry
    return depth, field


def _suggestion(location: tuple[int | str, ...], root: type[Section]) -> str:
    """Where an unknown key belongs: the key of that name elsewhere in the tree, else one with a similar name, here first."""
    *parents, wrong = map(str, location)
    known = _known_keys(location[:-1], root)
    if wrong in _NO_KEYS:
        return _NO_KEYS[wrong]
    wrong = _OTHER_NAMES.get(wrong, wrong)
    if wrong in known:
        return f"did you mean {wrong!r}?"
    if slip := difflib.get_close_matches(wrong, known, 1, cutoff=0.9):
        return f"did you mean {slip[0]!r}?"
    everywhere = [key for key, _, _ in explain(root) if ".KEY." not in key]
    if same := [key for key in everywhere if key.rpartition(".")[2] == wrong]:
        return f"did you mean {_some(sorted(same, key=lambda key: _distance(key.split('.'), parents)))}?"
    if near := difflib.get_close_matches(wrong, known, 1):
        return f"did you mean {near[0]!r}?"
    leaves = difflib.get_close_matches(wrong, {key.rpartition(".")[2] for key in everywhere}, 1, cutoff=0.8)
    if leaves:
        return f"did you mean {_some([key for key in everywhere if key.rpartition('.')[2] == leaves[0]])}?"
    return f"known keys: {', '.join(known)}"


def _distance(key: list[str], parents: list[str]) -> int:
    """Steps in the tree from the section `parents` to `key`."""
    shared = 0
    for a, b in zip(key, parents, strict=False):
        if a != b:
            break
        shared += 1
    return len(key) + len(parents) - 2 * shared


def _some(keys: list[str], most: int = 3) -> str:
    more = f" or one of {len(keys) - most} more" if len(keys) > most else ""
    return " or ".join(map(repr, keys[:most])) + more


def _known_keys(location: tuple[int | str, ...], root: type[Section]) -> list[str]:
    section = root
    names = iter(location)
    for name in names:
        field = section.model_fields.get(str(name))
        nested = section_of(field.annotation) if field else None
        if field is None or nested is None:
            return []
        section = nested
        if get_origin(field.annotation) in (list, dict, tuple):
            next(names, None)  # the number or the key of an entry
    return list(section.model_fields)


def section_of(annotation: object) -> type[Section] | None:
    """The section in an annotation: itself, or in a union, list or mapping."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def explain(section: type[Section] = Config, prefix: str = "") -> list[tuple[str, str, str]]:
    """`(key, default, description)` of every field, in order; `KEY` stands for a key of one's own."""
    rows = []
    for name, field in section.model_fields.items():
        nested = section_of(field.annotation)
        default = (
            "required" if field.is_required() else "section" if nested else repr(field.get_default(call_default_factory=True))
        )
        rows.append((prefix + name, default, _description(field)))
        if nested is not None:
            every = "KEY." if get_origin(field.annotation) is dict else ""
            rows.extend(explain(nested, f"{prefix}{name}.{every}"))
    return rows


def _description(field: FieldInfo) -> str:
    """What a field says about itself, with the values it may have where these are few."""
    text = field.description or ""
    if values := _values(field.annotation):
        text = f"{text.rstrip('.')}. One of: {', '.join(values)}."
    return text


def _values(annotation: object) -> list[str]:
    """Names that an annotation allows, also inside a list or a union; none where it allows others."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    inner = [a for a in get_args(annotation) if a not in (type(None), Ellipsis)]
    return _values(inner[0]) if len(inner) == 1 else []
