"""Texts of programs that come in place of a description: data, code, calls, commands, encoded bytes, addresses."""

from __future__ import annotations

import re

from leaml.text.patterns import either

_DATA = re.compile(r"^\s*(?:```|[\[{]\s*(?:[\"'\[{\]}]|\w+\s*:))|```")
_ENCODED = re.compile(
    either(
        r"\S*(?:[A-Za-z0-9+/_-]{60,}|[0-9a-f]{32,})\S*|(?:https?://|data:|www\.)\S+",
        r"\W*(?:image|text|video|audio|application)/[\w.+-]+(?:;base64,\S*)?\W*",
        r"\S+\.(?:png|jpe?g|gif|webp|tiff?|bmp|svg|heic|pdf|mp4)\W*|\W*(?-i:[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\W*",
    ),
    re.I,
)
"""Base64, a hash, an address, a media type, a file's name or a constant's, which a text may hold but not be."""
_CODE = re.compile(
    # SQL, whose words are those of sentences in small letters
    either(
        r"^[^\w\n]*(?:SELECT\b.+\bFROM|INSERT INTO|UPDATE\b.+\bSET|DELETE FROM|(?:CREATE|DROP|ALTER) TABLE)\b",
        r"^[ \t]*select [\w*., ]+ from \w+(?: (?:where|limit|order by|group by) .*)?;[ \t]*(?:\n|$)",
        r"^[ \t]*"
        + either(
            r"(?:async |static |public |private |export )*(?:def|function|fn|func|void|int) \w+\s*\(",
            r"class \w+\s*[({:]|#include\b|<\?|#!/",
        ),
        r"^[ \t]*(?:public|private|export|static) (?:static|class|default|const|function)\b",
        r"^[ \t]*(?:const|let|var) \w+ = ",
        r"""^[ \t]*[a-z_]\w* = (?:[\w.]+\(.*\)|[\[{\"'].*[\]}\"']);?[ \t]*(?:\n|$)""",
        r"^[ \t]*"
        + either(
            r"import " + r"(?:\w+ as \w+|\w+(?:\.\w+)+|\w+;|\{|numpy|torch|os|sys|json|re|cv2|pandas|requests|base64|openai)",
            r"from [\w.]+ import ",
        ),
        r"^[ \t]*(?:if|for|while|switch) ?\(.*\)\s*\{|^[^\n]*\{[ \t]*(?:\n|$)",
        r"""^[ \t]*return (?:[\"'\[{(]|\w+\()|^[ \t]*[$>] (?:\./)?[a-z][\w.-]* """,
        r"^[ \t]*(?:pip3?|npm|apt(?:-get)?|conda|docker|brew|git) (?:install|run|pull|clone|add)\b|^[ \t]*curl -",
        r"^to=\w+ ",
        r"^\s*(?:[Bb]box|[Ll]abel|[Cc]lass|[Ss]core|[Cc]onfidence)\w*: ?[\[\w][^;]*(?:\]|; ?\w+:)",
        r"^[ \t]*\\(?:begin|documentclass|usepackage|section)\{|^[ \t]*\|.*\|[ \t]*\n[ \t]*\|[-:| \t]+\|",
    ),
)
_CALL = re.compile(r"\W*(?:[A-Za-z]\w*(?:[_.]\w+)+\(.*\)|[A-Za-z]\w*\((?:|.*(?:[\"'].*[\"']|\w=).*)\))\W*", re.S)
"""A call, all of a reply: `describe_image(url="x")`."""


def is_program_text(text: str) -> bool:
    """Whether a reply is data or code, or what programs hand on."""
    return any(rule.search(text) for rule in (_DATA, _CODE)) or any(rule.fullmatch(text.strip()) for rule in (_ENCODED, _CALL))
