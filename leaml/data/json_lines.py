"""Lines of JSON Lines files, with what is wrong with those that are none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from leaml.data import file_kinds, json_text
from leaml.errors import DataError
from leaml.io import files

_HEAD = 10_000
_SPREAD = "it is one JSON object over several lines; write each row on a line of its own"
_ALL_SPREAD = "its JSON objects stand over several lines; write each row on a line of its own (jq -c . does)"
_NO_COMMA = "; before that, remove the comma before its closing bracket"


def lines(uri: str) -> Iterator[tuple[str, object]]:
    """`(file:line, value)` of every line that is not blank.

    Raises:
        DataError: A line is not whole, valid JSON, or has a key twice; the file is a JSON list, or of another kind.
    """
    with files.open_read(uri) as stream:
        for number, line in enumerate(stream, 1):
            where = f"{uri}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                value = json_text.loads(text)
            except UnicodeDecodeError as error:
                kind = file_kinds.of_bytes(line) if number == 1 else ""
                msg = f"{where}: not UTF-8 ({error.reason} at byte {error.start}){kind or '; save the file as UTF-8'}"
                raise DataError(msg) from None
            except json_text.DuplicateJsonKeyError as error:
                msg = f"{where}: {error}"
                raise DataError(msg) from None
            except ValueError as error:
                raise DataError(_no_json(uri, where, line, text, error)) from None

            if _is_table(value):
                msg = f"{uri}: {file_kinds.of_list(text)}"
                raise DataError(msg)
            yield where, value


def _is_table(value: object) -> bool:
    """Whether a line is a whole file of rows: a list of objects."""
    return isinstance(value, list) and len(value) > 0 and all(isinstance(entry, dict) for entry in value)


def _no_json(uri: str, where: str, line: bytes, text: str, error: ValueError) -> str:
    """What is wrong with a line that is no JSON, or with the file: one value over several lines, or another kind."""
    reason = f"{error.msg}: column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    start = text.strip()
    explained = isinstance(error, json_text.ExplainedError)
    if start[:1] in ("[", "{") and not explained:
        with contextlib.suppress(ValueError):
            if len(json_text.values(text)) > 1:
                return f"{where}: several JSON values on one line; write each row on a line of its own"
        with files.open_read(uri) as stream, contextlib.suppress(ValueError):
            return f"{uri}: {_over_lines(text, stream.read().decode('utf-8-sig'))}"
    kind = file_kinds.of_text(text) if where.endswith(":1") and start[:1] not in ("[", "{") else ""
    torn = "" if line.endswith(b"\n") or kind or explained else "the last line, perhaps torn when the file was written: "
    return f"{where}: {torn}not valid JSON ({reason}){kind or '; fix or remove this line'}"


def _over_lines(line: str, whole: str) -> str:
    """What a file is that is JSON, but not line by line. Raises ValueError if it is none."""
    plain = json_text.without_closing_commas(whole)
    values = json_text.values(plain)
    comma = _NO_COMMA if plain != whole else ""
    if len(values) > 1:
        return _ALL_SPREAD + comma
    if not isinstance(values[0], list):
        return _SPREAD + comma
    return file_kinds.of_list(line + str(values[0])[:_HEAD].replace("'", '"')) + comma
