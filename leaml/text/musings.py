"""Thoughts that have no marks: a reply that speaks about its task, or about the one who asks, instead of the image."""

from __future__ import annotations

import re

_DESCRIBE = (
    r"(?:describ\w+|caption\w*|answer\w*|writ(?:e|ing)|provid\w+|generat\w+|creat(?:e|ing)|analy[sz]\w+|identify\w*"
    r"|summari[sz]\w+|explain\w*|produce|list|mention|focus|note|start|begin|look|figure out|determine|examine|consider"
    r"|giv(?:e|ing) an?)"
)
_ABOUT_THE_TASK = re.compile(
    r"^\W*(?:(?:in order )?to (?:describe|caption|answer|analy[sz]e|summari[sz]e|provide|give|write|create|generate)\b[^.!?]*"
    r"\b(?:i|we|me|let's|let me)\b|before (?:i|we)\b|(?:it (?:seems|looks|appears)(?: like| that)? )?(?:i|we)(?:'m| am|'re"
    r"| are) supposed"
    r"|(?:it (?:seems|looks|appears)(?: like| that)? )?you(?:'ve| have|'re| are)? (?:want|wanted|ask|asked|asking|requested"
    r"|requesting)\b"
    rf"|(?:must|need to|should) {_DESCRIBE}\b|in this task\b|upon (?:reviewing|reading|looking)\b"
    r"|(?:(?:the|an?|my|one|good|possible|this) )*(?:captions?|descriptions?) (?:option )?(?:of the (?:image|picture"
    r"|photo) )?(?:should|would be"
    r"|could be|must|might be|needs|will|can|is (?:as follows|based on|provided|concise|given)|follows)\b"
    r"|(?:the )?(?:correct |final |right |best )*(?:answer|option|choice)(?: is\b|:)|based on the image, the answer"
    r"|you(?:'re| are) (?:absolutely |completely )?(?:right|correct|welcome)\b|(?:great|good) (?:question|catch|point)\b"
    r"|(?:the |my )?(?:previous|last|above|earlier) (?:response|answer|description|caption|reply)\b"
    r"|thank you for (?:the|your|this|sharing)\b|(?:see|as (?:described|mentioned|shown|seen|stated)) (?:above|below"
    r"|attached|previously|image)\W*$"
    r"|as you can see in the image above|same (?:as|image)\b|ditto\W*$|idem\W*$|here you go\b|have a (?:great|nice"
    r"|good) (?:day|one)\b"
    r"|(?:hello world|hi there|good (?:morning|evening|afternoon))\W*(?:how's it going\W*)?$|i(?:'m| am) looking at (?:the"
    r"|this)\b"
    r"|(?:it )?(?:cannot|can't|could not) be (?:determined|seen|described|identified|answered)\W*$|undetermined\W*$|(?:not "
    r"|un)sure\W*$"
    r"|(?:it(?:'s| is) )?(?:hard|difficult|impossible) to (?:tell|say)\W*$|no (?:idea|clue|comment)\b|idk\W*$"
    r"|it depends\W*$|correct\W*$"
    r"|(?:yes|no|maybe|perhaps)\b,? (?:there|it|they|he|she|i|we) (?:is|are|does|do|has|was)(?:n't| not)?\W*$|i(?:'ve"
    r"| have)? (?:already )?(?:described|answered|captioned)\b)"
    r"|\b(?:i|we) (?:need|have|should|must|ought) (?:to )?(?:describe|caption)\b|^\W*they (?:want|ask|asked|need|request)\w*\b"
    r"|^\W*(?:so )?(?:my|the|our) (?:final )?(?:captions?|descriptions?) (?:would|will|could|is going to) be\b|^\W*my caption\b"
    r"|^\W*double-?checking\b|^\W*(?:based on|according to|per) (?:the|your|this) (?:prompt|request|question"
    r"|instructions?|message)\b"
    r"|^\W*(?:assuming|if|suppose) (?:the|this|it|that)\b[^.]*\b(?:would|may|might|could)\b|^\W*i see (?:that )?you(?:'ve"
    r"| have)?\b"
    r"|^\W*once upon a time\b|^\W*imagine (?:an?|the|that)\b|^\W*as (?:requested|asked|instructed)\W*$|^\W*ready\W*$"
    r"|^\W*(?:ok(?:ay)?\W+)?go ahead\W*$",
    re.I,
)
"""What the caption is to be, what was asked, or an answer to a question, instead of a description."""
_ABOUT_THE_USER = re.compile(
    r"(?:\bthe |^(?:\W*\w+:)?\W*)user(?:'s)? (?:\w+ )?(?:wants?\b|asks?\b|asked|requests?\b|requested|needs?\b|provide|upload"
    r"|uploaded|sent|would like|prompt|query|is (?:asking|requesting|looking for|seeking)"
    r"|has (?:asked|provided|given|uploaded|shared|sent|requested))",
    re.I,
)
_COMMAND = re.compile(
    r"^\W*(?:please |kindly |can you |could you )?(?:describe|caption|analy[sz]e|summari[sz]e|explain)\b:? (?:the|this|what"
    r"|in|briefly|each|all"
    r"|how|your|an?)\b|^\W*(?:请)?(?:描述|说明|介绍)(?:一下)?(?:这|该|图)"
    r"|^\W*(?:bitte )?beschreib\w* (?:sie )?(?:das|dieses|was)\b"
    r"|^\W*d[ée]cri(?:s|vez)\b|^\W*describ[ae] (?:la|esta|lo)\b|^\W*(?:descreva|descrivi|опиши(?:те)?|опишите|opisz"
    r"|beschrijf)\b"
    r"|説明して(?:ください|下さい)|(?:설명|묘사)(?:하세요|해 ?주세요|하시오)",
    re.I,
)
"""What was asked, in other words."""
_OTHER_LANGUAGES = re.compile(
    r"(?:用户|使用者)(?:想|要求|希望|请求|询问|上传|提供|让我|需要)|让我(?:们)?(?:来|先|仔细)*(?:看|描述|分析|思考|想)|^\W*(?:好的|嗯|首先)?[，,]?我(?:来|将|会|需要|应该|要)"
    r"|ユーザー?(?:は|が).*(?:求め|依頼|要求)|画像を(?:見て|説明し)(?:み)?(?:ましょう|ます)|사용자(?:가|는).*(?:요청|원)"
    r"|\bder (?:be)?nutzer (?:möchte|will|hat|fragt|bittet)\b|\bich (?:werde|soll|muss|möchte|schaue|sehe mir)\b.*\bbild"
    r"|\bzuerst schaue ich\b"
    r"|\bgerne? beschreibe ich\b|\blass(?:en sie)? mich\b|\bl'utilisat(?:eur|rice) (?:demande|veut|souhaite|a)\b|\bje (?:vais"
    r"|dois) (?:\w+ )?(?:d[ée]crire|analyser|regarder)\b"
    r"|\bel usuario (?:quiere|pide|solicita|desea|ha)\b|\b(?:voy a|debo|tengo que) (?:describir|analizar)\b"
    r"|\bo usu[áa]rio (?:quer|pede|solicita|deseja)\b|\b(?:vou|preciso|devo) descrever\b|\bl'utente (?:vuole|chiede"
    r"|desidera)\b|\bdescriver[òo]\b"
    r"|пользователь (?:хочет|прос|загруз)|\b(?:я )?(?:опишу|буду описывать)\b|\bużytkownik (?:chce|prosi)\b|\bopiszę\b"
    r"|\bde gebruiker (?:wil|vraagt)\b|\bik (?:zal|ga|moet) (?:\w+ ){0,3}beschrijven\b|المستخدم (?:يريد|يطلب)|\bسأصف\b",
    re.I,
)
_LATER = re.compile(
    r"^\W*(?:wait\b[,.]|let me |let's |\(?word count|(?:explanation|justification|rationale)\b|(?:this|the) (?:caption"
    r"|description) (?:is|follows|was"
    r"|adheres|captures|meets|should)|i (?:chose|wrote|have|hope|tried|described|kept|avoided|used|should|need)\b"
    r"|(?:actually|hmm),"
    r"|please (?:consult|note)|(?:q|question): |(?:confidence|tokens used|disclaimer)\b[^.]*:|note: this|#+ ?(?:instruction"
    r"|explanation|response)"
    r"|(?:long|short|alternative|second) (?:caption|description)\b|follow me\b|would you like me\b)|\b(?:as an ai|i(?:'m"
    r"| am) an ai)\b"
    r"|^\W*(?:however|note|but|please note|that said)\b.{0,20}\bi (?:cannot|can't|am (?:unable|not able|an)|'m (?:unable"
    r"|not able|an))\b",
    re.I,
)
"""What a later sentence says of the reply or of who wrote it."""
_DISPLAY = (
    r"(?:sign|screen|screenshot|poster|card|t?-?shirt|label|book|cover|mug|tattoo|banner|letter|slide|(?:white|black"
    r"|chalk)?board|bubble|sticker"
    r"|flag|dialog|window|form|interface|terminal|menu|chart|mural|album|placard|newspaper|magazine|website|app"
    r"|diagram"
    r"|display|monitor|phone|smartphone|tablet|laptop|computer|advert\w*|leaflet|brochure|notebook|plate|plaque|transcript"
    r"|dashboard|player|snippet)"
)
_SHOWS_WORDS = re.compile(
    rf"\b(?:an?|the|on|this) (?:[\w-]+ ){{0,3}}?{_DISPLAY}s?\b"
    r"|\b(?:page|message|icon|placeholder|button|error|graph|notice|screen|heading|title|sticker)s? (?:with|on|of|for|in"
    r"|from|shown"
    r"|displayed|says|reads|about)\b|\bpages? (?:describes|shows|explains|contains|lists|has)\b"
    r"|\bis (?:written|printed|painted) (?:on|in|at|below|above)\b",
    re.I,
)
_TITLE_FIRST = re.compile(
    r"^(?![^.!?]*\b(?:can't|cannot|unable|not able|sorry|don't|do not|won't|unfortunately|describe|identify"
    r"|caption)\b)[^.!?]{1,60}?\b(?:is (?:written|printed"
    r"|painted) (?:on|in|at|below|above)"
    r"|(?:logo|flag|poster|tattoo|mural|t-?shirt|album cover|book cover|musical) (?:on|of|in|from|with)\b)",
    re.I,
)
"""Words that are not in quotes, and where they stand: "Let's Dance is written on a sign"."""
_SPEAKS_FIRST = re.compile(
    r"^\W*(?:okay|ok|alright|right|well|so|now|hmm+|wait|first|sorry|i|i'[a-z]+|we|we'[a-z]+|my|our|you|your|let|let's"
    r"|as an?|please|kindly"
    r"|unfortunately|to|here|it seems|it looks|without|for|due|the user (?:wants|asks|is asking|has asked|would like)"
    r"|cannot|unable|there)\b",
    re.I,
)
_MUSED = (
    r"(?:okay|ok|alright|all right|right|well|so|now|hmm+|uh|um|wait|actually|got it|understood|first of all|first off"
    r"|first|next"
    r"|then)"
)
_PLAN = re.compile(
    rf"^\W*(?:(?:{_MUSED}\b[\s,.!…]*)+(?:i|we) |(?:{_MUSED}\b[\s,.!…]*)*(?:hmm+\b|wait\b[,.!]|let me |let us |let's "
    r"|(?:i|we) (?:need|have|should|must|want|will|am going|'ll|are going|can start|'m going)\b(?: to)?|i'll |i'm going to "
    r"|(?:i|we)(?:'m| am| was|'re| are|'ve been| have been) (?:being |now )?(?:asked|told|given|tasked|instructed"
    r"|requested|prompted|supposed|expected) "
    r"|(?:my|our|the|your) (?:task|job|goal|aim|objective|assignment|instructions?|request) (?:here )?(?:is|was"
    rf"|are)(?: to)? {_DESCRIBE}"
    r"|this (?:task|question|prompt|instruction)? ?(?:is|asks|wants|says|requires|requests)\b(?: (?:me|us|for"
    rf"|to))+ {_DESCRIBE}"
    r"|the (?:task|prompt|instruction) (?:is|asks|wants|says)\b|the question (?:is|asks) (?:me|us|for|to|about)\b"
    r"|(?:looking|look|glancing) at (?:the|this) \w+,? (?:i|we) ?(?:should|need|must|will|have to|am|'ll|'d)\b"
    r"|(?:i|we) (?:first |then )?(?:look|start|begin|think|note|consider|analy[sz]e|examine) (?:at|by|with|that|the|about)\b"
    # instructions that were handed on
    r"|you are an? (?:\w+ ){0,3}(?:assistant|expert|ai|bot|captioner|model|professional|annotator)\b))",
    re.I,
)
_HEADED = re.compile(
    r"^[^\w\n]*(?:here(?:'s| is|'re| are) )?(?:(?:my|the|internal|step[- ]by[- ]step) )*(?:thinking|thoughts?|reasoning"
    r"|chain[- ]of[- ]thought|rationale|scratchpad|monologue|(?:system |user )?prompt"
    r"|action(?: input)?|tool|(?:caption|description) (?:option )?\d+|translation|rewrite|tl;dr|edit|corrected"
    r"|example(?: output)?|(?:draft|version|option|attempt"
    r"|variant|alternative)s?(?: \d+(?!\.)| [A-C])?)"
    r"(?: process)?[*_]*(?: ?[:：]| [-–—]|[*_]*\s*\n)"
    rf"|^[^\w\n]*(?:plan|approach|strategy|analysis|steps?|step \d+|task|instructions?|goal)[*_]*(?: ?[:：.]| [-–—])[*_]*\s*"
    rf"(?:first,? |i |we |let's |let me |to )?{_DESCRIBE}\b",
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
