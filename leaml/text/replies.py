"""What a model's reply is worth as text: thoughts, refusals, sentences that were cut off.

A caption that is learned has to be a description of the image, from its first word to its last. Servers and models send other
things as well, and each of them looks like text once it is a string: `None`, a thought, an apology, half a sentence.
"""

from __future__ import annotations

import re

from leaml.text.broken_text import is_broken, is_unspeakable
from leaml.text.closing_offers import is_offer, without_offer
from leaml.text.failures import FAILURE, STATUS
from leaml.text.musings import is_about_itself, is_musing, shows_words
from leaml.text.patterns import either
from leaml.text.preambles import ANNOUNCEMENT, without_assent
from leaml.text.program_text import is_program_text
from leaml.text.refusals import REFUSAL, TO_THE_ASKER
from leaml.text.repetition import is_repetitive
from leaml.text.special_tokens import DELIMITED, IN_BRACKETS
from leaml.text.thoughts import without_thoughts
from leaml.text.values import marks_missing

LENGTH = "length"
"""The `finish_reason` of a reply that did not end by itself: at the token limit, or for a reason that is no known end."""

_ENDED = {
    *("stop", "stopped", "stop_sequence", "stop_token", "stop_word", "stop_str"),
    *("eos", "eos_token", "eos_token_id", "end", "ended", "end_turn", "end_of_turn", "end_of_text", "endoftext", "im_end"),
    *("complete", "completed", "finish", "finished", "done", "success", "succeeded"),
}
"""Words of servers for a reply that ended by itself."""
_UNFINISHED = {"abort", "aborted", "cancelled", "canceled", "error", "failed", "tool_calls", "tool_use", "function_call"}
_FILTERED = {
    *("content_filter", "content_filtered", "refusal", "safety", "image_safety", "recitation", "prohibited_content"),
    *("blocklist", "spii", "guardrail_intervened", "sensitive"),
}
_TEXT_PARTS = {"text", "output_text"}
_THOUGHT_PARTS = {"thinking", "reasoning", "redacted_thinking", "thought"}
_WRAPPED = re.compile(
    r"^"
    + either(
        r"<(?P<tag>answer|response|output|final|final_answer|caption|description)>(?P<a>.*)</(?P=tag)>",
        r"<\|begin_of_box\|>(?P<b>.*)<\|end_of_box\|>",
        r"<\|begin_of_solution\|>(?P<c>.*)<\|end_of_solution\|>",
        r"<\|START_RESPONSE\|>(?P<d>.*)<\|END_RESPONSE\|>",
        r"\$*\\boxed\{(?:\\text\{(?P<e>[^{}]*)\}|(?P<f>[^{}]*))\}\$*",
    )
    + r"$",
    re.I | re.S,
)
_TAG = (
    # no markup of texts: H<sub>2</sub>O; and no word that a sign may show, as <exit>, if nothing closes it
    r"(?!</?su[bp]>)"
    + either(
        r"</[a-z][\w:.-]* ?>",
        r"<[a-z][\w:.-]*(?:(?: \d+| [^<>=]*=[^<>]*) ?/?| ?/)>|<[a-z]*[\d_:.-][\w:.-]*>",
        r"<(?P<name>[a-z]+)>(?=.*</(?P=name)>)",
        r"<"
        + either(
            r"s|bos|eos|pad|unk|sep|cls|mask|image|img|video|audio|box|ref|quad|point|slice|patch|think",
            r"thought|thinking|reason|reasoning|answer|output|response|caption|description|final|tool|result",
            r"html|head|body|div|span|br|hr|p|b|i|u|em|strong|ul|ol|li|table|tr|td|th|h\d|pre|code|a|font",
            r"center|svg|script|style|user|assistant|system|human|instruction|prompt|question|context|input",
            r"end|stop|start",
        )
        + r">",
    )
)
"""A tag of markup, or of a model's vocabulary."""
MARKER = re.compile(
    either(
        rf"{DELIMITED}|<[a-z_]+\|>|{_TAG}|<!--|<<SYS>>|{IN_BRACKETS}|\[/?(?:STOP|END)\]\s*$",
        r"""(?:^[^\w\n\"“'‘]*|(?<=[.!?…])\s*)(?-i:ASSISTANT|USER|SYSTEM|HUMAN):""",
        r"^#+ *(?:response|instruction|human|assistant|input|output)\b",
    ),
    re.I | re.M,
)
"""What stands around messages and replies in a model's text, and in no description."""
_ROLE = re.compile(
    either(
        r"^[^\w\n]*(?:assistant|user|system|human)\W*(?::|$)|^(?:ai|bot|(?:chat)?gpt|model|llava|qwen): ",
        r"^model\W*$|^q: .*\ba: |^input: .*\boutput: |^[^\w\n]*(?:question|answer):",
    ),
    re.I | re.M,
)
_NO_WORD = either(
    r"none|null|nil|nan|n[/.]?a|undefined|true|false|yes|no|ok|okay|done|empty|blank|unknown|error|todo",
    r"tb[acd]|string|text|object object|untitled|placeholder|test|sample",
    r"(?:an? |the |your )?(?:image|picture|photo|caption|description|reply|response|answer|output)" + r"(?: here| goes here)?",
    r"no "
    + r"(?:image|picture|photo|caption|description|text|content|data|results?|reply|response|answer|output)"
    + r"(?: \w+)?",
    r"lorem ipsum.*",
)
_NOTHING = re.compile(rf"{_NO_WORD}(?:[^\w]+{_NO_WORD})*", re.I | re.S)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」|(?<!\w)['‘].+?['’](?!\w)")
"""What a sign or a screen in the image says, which is nothing that the model says."""
_GREETING = re.compile(
    r"\W*"
    + either(
        r"sure(?: thing)?|of course|certainly|absolutely|hello|hi|hey|great|okay|ok|thank you|thanks|got it",
        r"understood|noted|interesting",
        r"(?:nice|great|beautiful) (?:picture|image|photo)|oops|ping|bien sûr|bien entendu|claro(?: que sí)?",
        r"por supuesto|конечно|gerne|natürlich|selbstverständlich|certo|certamente|com certeza|当然(?:可以)?",
        r"好的|没问题|もちろん(?:です)?|承知しました|はい|물론(?:이죠|입니다)?|네",
    )
    + r"\W*",
    re.I,
)
_FRAGMENT = re.compile(
    r"\W*(?:(?:the|this|an?) )?(?:image|picture|photo|photograph|frame|scene)?\s*"
    + either(
        r"shows|depicts|features|contains|displays|is|of|appears|presents|captures|there is|it is|it shows",
        r"here is",
    )
    + r"?(?: an?| the)?\W*",
    re.I,
)
"""The beginning of a description and nothing else."""
_FILL_IN = re.compile(
    either(
        r"\["
        + either(
            r"insert|your|add|describe|an? description|description|caption|image|placeholder|provide|enter",
            r"start of|end of",
        )
        + r"\b[^\]\n]*\]",
        r"^\W*\[[A-Z_ ]+\]\W*$|^\W*\$\{.*\}\W*$|^\W*<[a-z]+(?: [a-z]+)+>\W*$",
        r"^\W*\((?:image|description|caption)\b[^)]*\)\W*$",
        r"^\*(?:looks|sighs?|thinks|examines|describes|clears)\b[^*]*\*$",
        r"^\W*(?:insert|write|enter|type) (?:your )?(?:caption|description|text) here\W*$|addCriterion",
        r"^\W*-+ ?(?:begin|end|start)\b.*-+$",
        r"^\W*(?:caption|image|img|photo|option|picture)[_ ]?(?:\d+|[A-Z])\W*$",
        r"^\W*an? (?:\w+ )?(?:caption|description)(?: of the (?:image|picture|photo))?\W*$",
    ),
    re.I,
)
_ECHOED = 3
"""Words of a prompt from which on a reply that begins with it is an echo; "Polyp" may begin a caption."""
_FUSED_ROLE = re.compile(r"^\W*assistant(?:final|analysis|commentary|[A-Z])|^(?:analysis|commentary|final)(?=[A-Z])")

_ENDS = re.compile(r"(?<![.!?。！？।؟…])[.!?。！？।؟…]+[\"'”’»)\]]*(?=\s|$)|[。！？][”’」』）]*")
_ITEM_NUMBER = re.compile(r"[\s>#*_(\[-]*(?:\d+|[ivxl]+|[^\W\d_])", re.I)
_DIGIT_AT_END = re.compile(r"\d\.[\"'”’»)\]]*$")
_NEXT = re.compile(r"[^\S\n]*(\S)")
_LONGEST_ABBREVIATION = 10
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])"
    + either(
        r"[^\W\d_]|e\.g|i\.e|cf|vs|approx|ca|etc|fig|figs|no|nos|dr|mr|mrs|ms|prof|st|jr|sr|max|min|vol|p|pp|al",
        r"resp",
    )
    + r"$",
    re.I,
)


def finish_reason(said: object, tokens: int | None = None, most: int | None = None) -> str:
    """Why a reply ended: a word that is known, else `LENGTH`, since whatever else ended it did not end it as a whole.

    Args:
        said: What the server says. Where it says nothing, the tokens that it counts decide.
        tokens: Tokens of the reply; None: not known.
        most: The limit that was asked for.
    """
    if said is None or said == "":
        return "stop" if tokens is not None and (most is None or tokens < most) else LENGTH
    # "FINISH_REASON_STOP", "FinishReason.SAFETY" and "ContentFilter" are how some write "stop", "safety" and "content_filter"
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", said.rpartition(".")[2]) if isinstance(said, str) else ""
    name = re.sub(r"\W+", "_", words.lower()).strip("_").removeprefix("finish_reason_")
    return name if name in _ENDED | _UNFINISHED | _FILTERED else LENGTH


def message_text(message: dict[str, object]) -> tuple[str, str]:
    """`(text, why there is none)` of a chat message of an OpenAI-compatible server; one of them is empty.

    The content may be text, or parts whose texts are joined. Thoughts beside it (`reasoning_content`) are never taken for it.
    """
    content = message.get("content")
    if message.get("refusal"):
        return "", f"refusal: {_text(str(message['refusal']))[:200]}"
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        refused = [part for part in content if isinstance(part, dict) and part.get("type") == "refusal"]
        if refused:
            return "", f"refusal: {_text(str(refused[0].get('refusal')))[:200]}"
        texts = [_part_text(part) for part in content]
        if others := [part for part, text in zip(content, texts, strict=True) if text is None]:
            return "", f"content that is no text: {str(others[0])[:100]}"
        content = "".join(text for text in texts if text is not None)
    if isinstance(content, str) and content.strip():
        return _text(content).strip(), ""
    if content is None or isinstance(content, str):
        thought = message.get("reasoning_content") or message.get("reasoning")
        return "", "a thought without an answer" if thought else "empty reply"
    return "", f"content that is no text: {str(content)[:100]}"


def _text(text: str) -> str:
    """A text that can be stored: halves of a surrogate pair, which JSON can hold, are replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _part_text(part: object) -> str | None:
    """The text of a part, "" where it is a thought, None where it is something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    kind, text = str(part.get("type", "text")), part.get("text")
    if kind in _THOUGHT_PARTS:
        return ""
    return text if kind in _TEXT_PARTS and isinstance(text, str) else None


def answer_text(text: str) -> str:
    """The reply behind its thoughts, without a tag or box around all of it; empty when it never came out of them."""
    rest = without_thoughts(text)
    wrapped = _WRAPPED.match(rest)
    return next((text for name, text in wrapped.groupdict().items() if name != "tag" and text), "").strip() if wrapped else rest


def sentences(text: str) -> list[str]:
    """Whole sentences of a text, in order; what follows the last sentence end is left out.

    A dot after an abbreviation, an initial or the number of a list item ends no sentence.
    """
    found, start = [], 0
    for end in _ENDS.finditer(text):
        if end.group().startswith(".") and len(end.group().rstrip("\"'”’»)]")) == 1:
            last_line = max(start, text.rfind("\n", start, end.start()) + 1)
            numbered = _ITEM_NUMBER.fullmatch(text, last_line, end.start())
            abbreviated = _ABBREVIATION.search(text[max(start, end.start() - _LONGEST_ABBREVIATION) : end.start()])
            follows = _NEXT.match(text, end.end())
            if numbered or abbreviated or (follows and follows[1].islower()):
                continue
        if sentence := text[start : end.end()].strip():
            found.append(sentence)
            start = end.end()
    return found


def whole_sentences(text: str) -> str:
    """A text that was cut off up to the end of its last whole sentence, its line breaks kept; empty when it holds none.

    A dot behind a digit ends no sentence here: it may be that of the next list item, or of a decimal.
    """
    found = sentences(text)
    while found and _DIGIT_AT_END.search(found[-1]):
        found.pop()
    return text[: text.rindex(found[-1]) + len(found[-1])].strip() if found else ""


def caption(text: str, finished: str, prompt: str = "") -> tuple[str, str]:
    """`(caption, why there is none)` of a teacher's reply; one of them is empty.

    Args:
        text: The reply.
        finished: Its `finish_reason`. A reply that did not end by itself keeps its whole sentences only: learned as it is, it
            would teach to end in the middle of one.
        prompt: What was asked; a reply that only repeats it is no caption.
    """
    if finished in _FILTERED:
        return "", f"refusal: content filter ({finished})"
    if finished in _UNFINISHED:
        return "", f"not finished: {finished}"
    found = without_assent(answer_text(text))
    if not found:
        return "", "a thought without an answer" if text.strip() else "empty reply"
    if reason := _no_caption(found, prompt):
        return "", reason
    if finished not in _ENDED:
        found = without_offer(whole_sentences(found))
        if not found:
            return "", "cut at the token limit before the end of its first sentence"
    return found, ""


def _no_caption(text: str, prompt: str) -> str:
    """Why a text is no description, "" if it may be one."""
    letters = re.findall(r"[^\W\d_]", text)
    if (
        not letters
        or (len(letters) == 1 and letters[0].isascii())
        or _FRAGMENT.fullmatch(" ".join(text.split()))
        or marks_missing(text)
    ):
        return f"no description: {text[:100]!r}"
    if text.rstrip("*_ \n").endswith((":", "：")) or _FILL_IN.search(text) or ANNOUNCEMENT.fullmatch(text):
        return f"no description: {text[:100]!r}"
    if STATUS.fullmatch(text):
        return f"a status instead of a reply: {text[:100]!r}"
    if _NOTHING.fullmatch(text.strip("<>[](){}*_#.,:;!\"'`- \n")) or is_program_text(text):
        return f"no description: {text[:100]!r}"

    said, asked = _words(text), _words(prompt)
    if asked and said[: len(asked)] == asked and (len(asked) >= _ECHOED or len(said) == len(asked)):
        return "prompt echo"
    if marker := MARKER.search(text) or _ROLE.search(text) or _FUSED_ROLE.search(text):
        return f"chat marker: {marker.group().strip()!r}"
    if is_broken(text) or is_unspeakable(text):
        return f"broken text: {text[:100]!r}"

    found = sentences(text)
    if found and all(sentence.endswith(("?", "？")) for sentence in found) and text.endswith(found[-1]):
        return f"a question instead of a reply: {text[:100]!r}"
    if is_repetitive(text, found):
        return f"repeats itself: {text[:100]!r}"

    first = found[0] if found else text
    if _GREETING.fullmatch(first) and len(found) > 1:
        first = f"{first} {found[1]}"
    unquoted = _QUOTED.sub("'_'", first)
    if re.search(r"[^\W\d_]", unquoted):
        first = unquoted

    plain = first.replace("’", "'")
    if any(map(is_about_itself, _behind_the_first(text))):
        return f"a thought without an answer: {text[:100]!r}"

    if shows_words(plain):
        return ""
    if REFUSAL.search(plain) or TO_THE_ASKER.search(plain) or is_offer(text) or _GREETING.fullmatch(text):
        return f"refusal: {first[:200]}"
    if FAILURE.search(first):
        return f"an error instead of a reply: {first[:200]}"
    return "a thought without an answer" if is_musing(plain) else ""


def _behind_the_first(text: str) -> list[str]:
    """The sentences behind the first one, and what stands behind the last, without quotes; with straight apostrophes."""
    plain = _QUOTED.sub("'_'", text).replace("’", "'")
    found = sentences(plain)
    return [*found[1:], plain[plain.rindex(found[-1]) + len(found[-1]) :]] if found else []


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
