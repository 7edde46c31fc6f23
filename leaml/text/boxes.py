"""The answer that a reply marks as its answer: a LaTeX box, or an `<answer>` tag."""

from __future__ import annotations

import re

from leaml.text.replies import answer_text

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.S | re.I)
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit|boldsymbol)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MATH = re.compile(r"^\s*(?:\$\$?([^$]+)\$\$?|\\\((.*)\\\)|\\\[(.*)\\\])[\s.]*$", re.S)


def final_answer(text: str) -> str:
    """What a reply gives as its answer: the content of the last `\\boxed{...}` or `<answer>`, else all but its thoughts."""
    plain = answer_text(text)
    if found := _ANSWER.findall(plain):
        plain = found[-1]
    if "\\" not in plain and "$" not in plain:
        return plain
    if (boxed := _boxed(plain)) is not None:
        plain = boxed
    if math := _MATH.match(plain):
        plain = next(group for group in math.groups() if group is not None)
    plain = _FRACTION.sub(r"\1/\2", _LATEX.sub(r"\1", plain))
    return plain.replace("\\%", "%").replace("\\,", "")


def _boxed(text: str) -> str | None:
    """Content of the last box, whose braces may hold others; None where there is none or it is not closed."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?boxed\s*\{", text)]):
        depth = 1
        for index in range(start, len(text)):
            depth += (text[index] == "{") - (text[index] == "}")
            if not depth:
                return text[start:index]
    return None
