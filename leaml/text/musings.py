"""Thoughts that have no marks: a reply that speaks about its task, or about the one who asks, instead of the image."""

from __future__ import annotations

import re

from leaml.text.patterns import either

_DESCRIBE = either(
    r"describ\w+|caption\w*|answer\w*|writ(?:e|ing)|provid\w+|generat\w+|creat(?:e|ing)|analy[sz]\w+",
    r"identify\w*|summari[sz]\w+|explain\w*|produce|list|mention|focus|note|start|begin|look|figure out",
    r"determine|examine|consider|giv(?:e|ing) an?",
)
_ABOUT_THE_TASK = re.compile(
    either(
        r"^\W*"
        + either(
            r"(?:in order )?to "
            + r"(?:describe|caption|answer|analy[sz]e|summari[sz]e|provide|give|write|create|generate)"
            + r"\b[^.!?]*\b(?:i|we|me|let's|let me)\b",
            r"before (?:i|we)\b",
            r"(?:it (?:seems|looks|appears)(?: like| that)? )?(?:i|we)(?:'m| am|'re| are) supposed",
            r"(?:it (?:seems|looks|appears)(?: like| that)? )?you(?:'ve| have|'re| are)? "
            + r"(?:want|wanted|ask|asked|asking|requested|requesting)\b",
            rf"(?:must|need to|should) {_DESCRIBE}\b|in this task\b|upon (?:reviewing|reading|looking)\b",
            r"(?:(?:the|an?|my|one|good|possible|this) )*(?:captions?|descriptions?)"
            + r" (?:option )?(?:of the (?:image|picture|photo) )?"
            + either(
                r"should|would be|could be|must|might be|needs|will|can",
                r"is (?:as follows|based on|provided|concise|given)|follows",
            )
            + r"\b",
            r"(?:the )?(?:correct |final |right |best )*(?:answer|option|choice)(?: is\b|:)",
            r"based on the image, the answer",
            r"you(?:'re| are) (?:absolutely |completely )?(?:right|correct|welcome)\b",
            r"(?:great|good) (?:question|catch|point)\b",
            r"(?:the |my )?(?:previous|last|above|earlier) (?:response|answer|description|caption|reply)\b",
            r"thank you for (?:the|your|this|sharing)\b",
            r"(?:see|as (?:described|mentioned|shown|seen|stated)) (?:above|below|attached|previously|image)\W*$",
            r"as you can see in the image above|same (?:as|image)\b|ditto\W*$|idem\W*$|here you go\b",
            r"have a (?:great|nice|good) (?:day|one)\b",
            r"(?:hello world|hi there|good (?:morning|evening|afternoon))\W*(?:how's it going\W*)?$",
            r"i(?:'m| am) looking at (?:the|this)\b",
            r"(?:it )?(?:cannot|can't|could not) be (?:determined|seen|described|identified|answered)\W*$",
            r"undetermined\W*$|(?:not |un)sure\W*$",
            r"(?:it(?:'s| is) )?(?:hard|difficult|impossible) to (?:tell|say)\W*$|no (?:idea|clue|comment)\b",
            r"idk\W*$|it depends\W*$|correct\W*$",
            r"(?:yes|no|maybe|perhaps)\b,? (?:there|it|they|he|she|i|we)" + r" (?:is|are|does|do|has|was)(?:n't| not)?\W*$",
            r"i(?:'ve| have)? (?:already )?(?:described|answered|captioned)\b",
        ),
        r"\b(?:i|we) (?:need|have|should|must|ought) (?:to )?(?:describe|caption)\b",
        r"^\W*they (?:want|ask|asked|need|request)\w*\b",
        r"^\W*(?:so )?(?:my|the|our) (?:final )?(?:captions?|descriptions?) (?:would|will|could|is going to) be\b",
        r"^\W*my caption\b|^\W*double-?checking\b",
        r"^\W*(?:based on|according to|per) (?:the|your|this) (?:prompt|request|question|instructions?|message)\b",
        r"^\W*(?:assuming|if|suppose) (?:the|this|it|that)\b[^.]*\b(?:would|may|might|could)\b",
        r"^\W*i see (?:that )?you(?:'ve| have)?\b|^\W*once upon a time\b|^\W*imagine (?:an?|the|that)\b",
        r"^\W*as (?:requested|asked|instructed)\W*$|^\W*ready\W*$|^\W*(?:ok(?:ay)?\W+)?go ahead\W*$",
    ),
    re.I,
)
"""What the caption is to be, what was asked, or an answer to a question, instead of a description."""
_ABOUT_THE_USER = re.compile(
    r"(?:\bthe |^(?:\W*\w+:)?\W*)user(?:'s)? (?:\w+ )?"
    + either(
        r"wants?\b|asks?\b|asked|requests?\b|requested|needs?\b|provide|upload|uploaded|sent|would like|prompt",
        r"query|is (?:asking|requesting|looking for|seeking)",
        r"has (?:asked|provided|given|uploaded|shared|sent|requested)",
    ),
    re.I,
)
_COMMAND = re.compile(
    either(
        r"^\W*(?:please |kindly |can you |could you )?(?:describe|caption|analy[sz]e|summari[sz]e|explain)\b:? "
        + r"(?:the|this|what|in|briefly|each|all|how|your|an?)\b",
        r"^\W*(?:请)?(?:描述|说明|介绍)(?:一下)?(?:这|该|图)",
        r"^\W*(?:bitte )?beschreib\w* (?:sie )?(?:das|dieses|was)\b|^\W*d[ée]cri(?:s|vez)\b",
        r"^\W*describ[ae] (?:la|esta|lo)\b",
        r"^\W*(?:descreva|descrivi|опиши(?:те)?|опишите|opisz|beschrijf)\b|説明して(?:ください|下さい)",
        r"(?:설명|묘사)(?:하세요|해 ?주세요|하시오)",
    ),
    re.I,
)
"""What was asked, in other words."""
_OTHER_LANGUAGES = re.compile(
    either(
        r"(?:用户|使用者)(?:想|要求|希望|请求|询问|上传|提供|让我|需要)",
        r"让我(?:们)?(?:来|先|仔细)*(?:看|描述|分析|思考|想)",
        r"^\W*(?:好的|嗯|首先)?[，,]?我(?:来|将|会|需要|应该|要)|ユーザー?(?:は|が).*(?:求め|依頼|要求)",
        r"画像を(?:見て|説明し)(?:み)?(?:ましょう|ます)|사용자(?:가|는).*(?:요청|원)",
        r"\bder (?:be)?nutzer (?:möchte|will|hat|fragt|bittet)\b",
        r"\bich (?:werde|soll|muss|möchte|schaue|sehe mir)\b.*\bbild|\bzuerst schaue ich\b",
        r"\bgerne? beschreibe ich\b|\blass(?:en sie)? mich\b",
        r"\bl'utilisat(?:eur|rice) (?:demande|veut|souhaite|a)\b",
        r"\bje (?:vais|dois) (?:\w+ )?(?:d[ée]crire|analyser|regarder)\b",
        r"\bel usuario (?:quiere|pide|solicita|desea|ha)\b",
        r"\b(?:voy a|debo|tengo que) (?:describir|analizar)\b",
        r"\bo usu[áa]rio (?:quer|pede|solicita|deseja)\b|\b(?:vou|preciso|devo) descrever\b",
        r"\bl'utente (?:vuole|chiede|desidera)\b|\bdescriver[òo]\b|пользователь (?:хочет|прос|загруз)",
        r"\b(?:я )?(?:опишу|буду описывать)\b|\bużytkownik (?:chce|prosi)\b|\bopiszę\b",
        r"\bde gebruiker (?:wil|vraagt)\b",
        r"\bik (?:zal|ga|moet) (?:\w+ ){0,3}beschrijven\b|المستخدم (?:يريد|يطلب)|\bسأصف\b",
    ),
    re.I,
)
_LATER = re.compile(
    either(
        r"^\W*"
        + either(
            r"wait\b[,.]|let me |let's |\(?word count|(?:explanation|justification|rationale)\b",
            r"(?:this|the) (?:caption|description) (?:is|follows|was|adheres|captures|meets|should)",
            r"i (?:chose|wrote|have|hope|tried|described|kept|avoided|used|should|need)\b|(?:actually|hmm),",
            r"please (?:consult|note)|(?:q|question): |(?:confidence|tokens used|disclaimer)\b[^.]*:|note: this",
            r"#+ ?(?:instruction|explanation|response)",
            r"(?:long|short|alternative|second) (?:caption|description)\b|follow me\b|would you like me\b",
        ),
        r"\b(?:as an ai|i(?:'m| am) an ai)\b",
        r"^\W*(?:however|note|but|please note|that said)\b.{0,20}\bi "
        + r"(?:cannot|can't|am (?:unable|not able|an)|'m (?:unable|not able|an))\b",
    ),
    re.I,
)
"""What a later sentence says of the reply or of who wrote it."""
_DISPLAY = either(
    r"sign|screen|screenshot|poster|card|t?-?shirt|label|book|cover|mug|tattoo|banner|letter|slide",
    r"(?:white|black|chalk)?board|bubble|sticker|flag|dialog|window|form|interface|terminal|menu|chart|mural",
    r"album|placard|newspaper|magazine|website|app|diagram|display|monitor|phone|smartphone|tablet|laptop",
    r"computer|advert\w*|leaflet|brochure|notebook|plate|plaque|transcript|dashboard|player|snippet",
)
_SHOWS_WORDS = re.compile(
    either(
        rf"\b(?:an?|the|on|this) (?:[\w-]+ ){{0,3}}?{_DISPLAY}s?\b",
        r"\b(?:page|message|icon|placeholder|button|error|graph|notice|screen|heading|title|sticker)s? "
        + r"(?:with|on|of|for|in|from|shown|displayed|says|reads|about)\b",
        r"\bpages? (?:describes|shows|explains|contains|lists|has)\b",
        r"\bis (?:written|printed|painted) (?:on|in|at|below|above)\b",
    ),
    re.I,
)
_TITLE_FIRST = re.compile(
    r"^(?![^.!?]*\b"
    + r"(?:can't|cannot|unable|not able|sorry|don't|do not|won't|unfortunately|describe|identify|caption)\b)[^.!?]{1,60}?\b"
    + either(
        r"is (?:written|printed|painted) (?:on|in|at|below|above)",
        r"(?:logo|flag|poster|tattoo|mural|t-?shirt|album cover|book cover|musical) (?:on|of|in|from|with)\b",
    ),
    re.I,
)
"""Words that are not in quotes, and where they stand: "Let's Dance is written on a sign"."""
_SPEAKS_FIRST = re.compile(
    r"^\W*"
    + either(
        r"okay|ok|alright|right|well|so|now|hmm+|wait|first|sorry|i|i'[a-z]+|we|we'[a-z]+|my|our|you|your|let",
        r"let's|as an?|please|kindly|unfortunately|to|here|it seems|it looks|without|for|due",
        r"the user (?:wants|asks|is asking|has asked|would like)|cannot|unable|there",
    )
    + r"\b",
    re.I,
)
_MUSED = either(
    r"okay|ok|alright|all right|right|well|so|now|hmm+|uh|um|wait|actually|got it|understood|first of all",
    r"first off|first|next|then",
)
_PLAN = re.compile(
    r"^\W*"
    + either(
        rf"(?:{_MUSED}\b[\s,.!…]*)+(?:i|we) ",
        rf"(?:{_MUSED}\b[\s,.!…]*)*"
        + either(
            r"hmm+\b|wait\b[,.!]|let me |let us |let's ",
            r"(?:i|we) (?:need|have|should|must|want|will|am going|'ll|are going|can start|'m going)\b(?: to)?",
            r"i'll |i'm going to ",
            r"(?:i|we)(?:'m| am| was|'re| are|'ve been| have been) (?:being |now )?"
            + r"(?:asked|told|given|tasked|instructed|requested|prompted|supposed|expected) ",
            r"(?:my|our|the|your) (?:task|job|goal|aim|objective|assignment|instructions?|request)"
            + rf" (?:here )?(?:is|was|are)(?: to)? {_DESCRIBE}",
            r"this (?:task|question|prompt|instruction)? ?(?:is|asks|wants|says|requires|requests)"
            + rf"\b(?: (?:me|us|for|to))+ {_DESCRIBE}",
            r"the (?:task|prompt|instruction) (?:is|asks|wants|says)\b",
            r"the question (?:is|asks) (?:me|us|for|to|about)\b",
            r"(?:looking|look|glancing) at (?:the|this) \w+,? (?:i|we) ?" + r"(?:should|need|must|will|have to|am|'ll|'d)\b",
            r"(?:i|we) (?:first |then )?(?:look|start|begin|think|note|consider|analy[sz]e|examine)"
            + r" (?:at|by|with|that|the|about)\b",
            r"you are an? (?:\w+ ){0,3}(?:assistant|expert|ai|bot|captioner|model|professional|annotator)\b",
        ),
    ),
    re.I,
)
_HEADED = re.compile(
    either(
        r"^[^\w\n]*(?:here(?:'s| is|'re| are) )?(?:(?:my|the|internal|step[- ]by[- ]step) )*"
        + either(
            r"thinking|thoughts?|reasoning|chain[- ]of[- ]thought|rationale|scratchpad|monologue",
            r"(?:system |user )?prompt|action(?: input)?|tool|(?:caption|description) (?:option )?\d+",
            r"translation|rewrite|tl;dr|edit|corrected|example(?: output)?",
            r"(?:draft|version|option|attempt|variant|alternative)s?(?: \d+(?!\.)| [A-C])?",
        )
        + r"(?: process)?[*_]*(?: ?[:：]| [-–—]|[*_]*\s*\n)",
        r"^[^\w\n]*(?:plan|approach|strategy|analysis|steps?|step \d+|task|instructions?|goal)"
        + rf"[*_]*(?: ?[:：.]| [-–—])[*_]*\s*(?:first,? |i |we |let's |let me |to )?{_DESCRIBE}\b",
    ),
    re.I,
)
"""The heading of a thought, of one draft among others, or of a plan that says what to do."""


def is_musing(sentence: str) -> bool:
    """Whether the first sentence of a reply is part of a thought, or speaks of the reply. Apostrophes are straight ones."""
    rules = (_ABOUT_THE_USER, _ABOUT_THE_TASK, _COMMAND, _OTHER_LANGUAGES, _PLAN, _HEADED)
    return any(rule.search(sentence) for rule in rules)


def is_about_itself(sentence: str) -> bool:
    """Whether a sentence behind the first one speaks of the reply, or of who wrote it."""
    return _LATER.search(sentence) is not None or _COMMAND.search(sentence) is not None


def shows_words(sentence: str) -> bool:
    """Whether a sentence describes something with words on it: they are the image's, whatever they say."""
    shown = _SHOWS_WORDS.search(sentence) is not None and _SPEAKS_FIRST.search(sentence) is None
    return shown or _TITLE_FIRST.search(sentence) is not None
