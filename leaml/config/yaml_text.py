"""YAML of people's files: a key that occurs twice in one section is an error, as the first value would be lost."""

from __future__ import annotations

from typing import Any

import yaml


class DuplicateYamlKeyError(yaml.YAMLError):
    """A section has a key twice; the message names both lines."""


def load(text: str) -> object:
    """The value that a YAML text holds, of plain kinds alone. Raises yaml.YAMLError, DuplicateYamlKeyError among them."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not while it is constructed: merges (<<), which may name a key again, are among its keys by then
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                first = lines.get((key.tag, key.value))
                if first is not None:
                    msg = f"the key {key.value!r} occurs twice, in lines {first} and {line}; remove one"
                    raise DuplicateYamlKeyError(msg)
                lines[key.tag, key.value] = line
        return node
