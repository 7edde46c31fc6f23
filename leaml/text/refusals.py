"""How models say that they cannot or will not answer.

The sentences are those of the models themselves, those in other languages than English in `refusals_by_language`.
Everything here looks for how one speaks about oneself ("I cannot see", "no image was provided"), not for words of the domain.
"""

from __future__ import annotations

import re

from leaml.text.patterns import any_of, either
from leaml.text.refusals_by_language import NOT_AVAILABLE, OTHER_LANGUAGES

_MODEL = r"an? (?:\w+[- ]){0,5}?(?:ai|a\.i\.|language model|llm|assistant|chatbot|bot)\b"
_NOT = r"(?:cannot|can ?not|can't|could ?not|couldn't|won't|will not|would not|wouldn't)"
_DO = r"(?:\w+ly |even |really )?" + either(
    r"see|view|look|read|open|load|access|process|analy[sz]e|interpret|inspect|examine|display|find|detect",
    r"identify|recogni[sz]e|determine|discern|tell|say|answer|respond|reply|describe|caption|help|assist",
    r"provide|give|offer|generate|create|fulfil|comply|comment|continue|do (?:that|this|so)|discuss|engage",
    r"confirm|verify|complete|retrieve|fetch|download|decode|parse|obtain|upload|render",
)
_IMAGE = r"(?:images?|pictures?|photos?|photographs?|attachments?|files?|input|url)"
_GIVEN = either(
    r"provided|attached|available|found|given|uploaded|received|supplied|included|shared|sent|loaded",
    r"detected|present|accessible|displayed|processed|retrieved|opened|accessed|decoded|downloaded|fetched",
)
_MESSAGE = r"(?:messages?|requests?|prompts?|quer(?:y|ies)|questions?|inputs?|conversations?|chats?|posts?|submissions?)"
_HELLO = r"(?:hello|hi|hey|greetings)(?: there)?"
_MODELS = (
    either(
        r"(?:chat)?gpt\b[\w.-]*|claude|gemini|gemma|llama|qwen|mistral|pixtral|copilot|bard|deepseek|grok|kimi",
        r"intern\w*|llava|chatglm|glm|ernie|doubao|minicpm|smolvlm|molmo|tongyi|hunyuan|bing|alexa|siri|aya",
    )
    + r"[\w.-]*"
)
_ENGLISH = (
    rf"\bas {_MODEL}",
    rf"\bi(?:'m| am) (?:just |only )?(?:programmed to|designed to|trained to|{_MODEL}|an? (?:[\w-]+ )?model\b)",
    r"\bi(?:'m| am) (?:really |so |very |truly )?(?:sorry|afraid)\b",
    r"\bi(?:'m| am) (?:\w+ )?"
    + either(
        r"unable(?! to (?:exclude|rule out|distinguish|differentiate))|incapable",
        r"not "
        + either(
            r"able|capable|allowed|permitted|equipped|comfortable|sure|certain|designed|programmed",
            r"authori[sz]ed",
        ),
    )
    + r"\b",
    rf"\bi {_NOT} {_DO}\b",
    rf"\bwe {_NOT} {_DO} (?:you\b|(?:with |to )?(?:the|this|that|your|any|an) (?:\w+ )?(?:{_IMAGE}|request|question)\b)",
    r"\bi "
    + either(
        r"wasn't|was not|was unable",
        r"am having (?:\w+ )?(?:trouble|difficult\w+|problems?|issues?)",
        r"(?:'m|had|have) (?:having )?(?:\w+ )?(?:trouble|difficult\w+|problems?)|failed",
    )
    + rf" (?:able )?(?:to |with )?{_DO}(?:ing)?\b",
    r"\bi'm having (?:\w+ )?(?:trouble|difficult\w+|problems?|issues?)\b",
    r"\byou (?:have not|haven't|did not|didn't) (?:yet |actually |successfully )?(?:attach|upload|includ|provid|shar|sen[dt])",
    r"\bthis (?:ai |language |chat )?model (?:does not|doesn't|cannot|can't|is not able|is unable)\b",
    r"^[^\w\n]*i (?:cannot|can't|can not|won't|will not)\W*$",
    r"\bi (?:do not|don't|did not|didn't) (?:actually |currently |yet |really )?"
    + r"(?:know|have|see|receive|think|understand|possess)\b",
    r"\bi (?:have not|haven't|never) (?:been |yet |actually )?(?:received|given|provided|seen|shown|got)\b",
    r"\bi (?:lack|have no) (?:the |any )?(?:\w+ )?(?:ability|access|way|means|information|capabilit|idea|images?|knowledge)",
    r"\bi (?:must |have to |need to )?(?:respectfully )?(?:decline|refuse|apologi[sz]e)\b",
    r"\bi(?:'ll| will|'d| would)? ?need (?:to see |you to |access |more |the |an? |your )",
    r"^[^\w\n]*(?:(?:my |our |sincere )+apolog(?:y|ies)\b|apologies\b|apology\W*$)",
    r"^[^\w\n]*(?:so |very )?sorry\b[\s,.!:;-]*"
    + either(
        r"$|but\b|i\b|no\b|not\b|this\b|that\b|there\b|it\b|unable|cannot|can't|for (?:the|any)|as an?\b",
        r"about (?:that|this)|something|we (?:can|could|are un)|the (?:image|picture|photo|requested)",
    ),
    r"^[^\w\n]*(?:unfortunately|regrettably),? "
    + either(
        r"i|we|there|no",
        r"(?:the|this|your) (?:image|picture|photo)(?: you \w+)? "
        + either(
            r"(?:is|was|has|could|can|did|does|failed)\b.{0,12}?"
            + r"(?:not|n't|un\w+|missing|blank|empty|failed|corrupt|to load)",
            r"n't|can't|cannot",
        ),
    )
    + r"\b",
    rf"^[^\w\n]*(?:(?:unable|not able|failed) to|{_NOT}) {_DO}\b"
    + r"(?="
    + either(
        r"\W*$",
        r"[^.!?]*\b"
        + either(
            rf"{_IMAGE}|requests?|questions?|this|that|it|you|your|anything|contents?|prompts?|details?",
            r"descriptions?|captions?|model",
        )
        + r"\b",
    )
    + r")",
    r"^[^\w\n]*(?:the |your |this )?(?:content|request|prompt|response|message|image)"
    + r"(?: was| is| has been| were)? (?:\w+ )?(?:blocked|flagged|filtered|rejected|moderated)\b",
    r"^[^\w\n]*(?:it is |it's )?(?:not possible|impossible) to "
    + r"(?:determine|answer|say|know|describe|tell\W*$|tell (?:from|what|if|whether|without))\b",
    either(
        rf"\b(?:i|we) {_NOT} be able to\b",
        r"\b(?:you|to have) (?:forgot(?:ten)?|did not|didn't) (?:to )?(?:attach|upload|include|provide)\b",
    ),
    r"^[^\w\n]*(?:not enough|insufficient) (?:information|context|data|details)\b",
    r"\bno (?!prior|previous|earlier|comparison)"
    + rf"(?:\w+ )?{_IMAGE} (?:(?:was|is|were|are|has been|have been|could be|can be|appears? to be|seems? to be) "
    + rf"(?:\w+ )?)?{_GIVEN}\b",
    rf"\b(?:is|was|are|'s) no {_IMAGE}(?: (?:\w+ )?(?:{_GIVEN}|here|to (?:describe|see|view|analy[sz]e|caption))|\W*$)",
    r"\bno (?:caption|description|answer|response|reply|content|result|text)"
    + r"s? (?:(?:was|is|were|are|could be|can be) )?"
    + r"(?:given|provided|available|possible|returned|generated|produced)\b",
    rf"\b{_IMAGE} "
    + either(
        r"(?:was|is|were|are|has|have|did|does|could|can) ?(?:not|n't)|wasn't|isn't|couldn't|didn't|cannot|can't",
        r"failed to",
    )
    + rf" (?:been |be |properly |correctly |successfully )*(?:{_GIVEN}|load|open|come through|upload|attach)\b",
    r"^[^\w\n]*(?:the |your |this )?(?:image|picture|photo|attachment) "
    + either(
        r"(?:is |was )?" + r"(?:missing(?! (?:an?|its|the|one|some|part|\w+ing)\b)|unavailable|inaccessible|corrupt(?:ed)?)",
        rf"not {_GIVEN}",
    )
    + r"\b",
    r"^[^\w\n]*(?:please|kindly|could you|can you|would you)\b[^.?!]{0,30}\b"
    + either(
        r"upload|attach|send|resend|supply|submit|try again|retry|contact",
        r"(?:provide|share) (?:me )?(?:with )?(?:the |an? |your |more |another |some |any )*(?:\w+ )?"
        + r"(?:image|picture|photo|file|details|context|information|description)",
    )
    + r"\b",
    r"\b(?:please|kindly|you) (?:re-?)?(?:upload|share|attach|provide|send)"
    + r" (?:me )?(?:the|an|your|a|another) (?:\w+ )?(?:image|picture|photo)",
    rf"\bi (?:can |could )?(?:only |currently )?(?:see|find|detect|notice|got|received) no (?:\w+ )?{_IMAGE}\b",
    rf"\bi(?:'m| am) not (?:currently )?(?:seeing|able|finding|getting|receiving) (?:an?|any|the|your) (?:\w+ )?{_IMAGE}\b",
    r"\bthere (?:(?:seems|appears) to (?:be|have been)|is|was|has been|might be|may be|must be)"
    + r" (?:an? |some )?(?:\w+ )?(?:issue|problem|error|difficult(?:y|ies)|trouble|glitch)s? "
    + either(
        r"with",
        r"(?:while |when |in )?(?:load|access|process|display|open|view|upload|read|retriev|render|download)ing",
    )
    + rf" (?:the |your |this |an? )?(?:\w+ ){{0,2}}?(?:{_IMAGE}|upload|link|request)\b",
    r"^[^\w\n]*(?:sorry,? )?(?:it (?:seems|appears|looks)(?: like| that| as if| as though)* )?"
    + rf"(?:the |your |this |that )?(?:\w+ )?{_IMAGE}(?: (?:that )?you(?:'ve| have)? \w+)? "
    + r"(?:is|was|appears?|seems?|looks?)(?: to (?:be|have been))? (?:\w+ly )?"
    + r"(?:blank|empty|missing|unavailable|inaccessible|corrupt(?:ed)?|damaged|broken|invalid|unreadable)"
    + r"(?:\W*$|[.,;!]| (?:and|or|so|please|because|since)\b)",
    rf"\b(?:images?|pictures?|photos?|contents?|request)\b[^.?!\n]*\b(?:{_NOT} be|is not|isn't) "
    + r"(?:described|captioned|processed|analy[sz]ed|displayed|generated|accessed|supported)\b",
    rf"\b{_IMAGE} (?:(?:may |might )?(?:contain|include|depict)s?|has|is) (?:\w+ )?"
    + r"(?:inappropriate|explicit|prohibited|sensitive|harmful|unsafe|nsfw|offensive|restricted|graphic)"
    + r"(?: (?:content|material|imagery)\b|\W*$)",
    r"^[^\w\n]*(?:(?:the|this|your|requested|no|an?) )*"
    + either(
        r"contents?|images?|pictures?|photos?|media|resource|page|descriptions?|captions?|previews?|answers?",
        r"text|videos?|files?|items?",
    )
    + r" (?:(?:is|was|are) )?(?:currently |temporarily |yet )*"
    + r"(?:unavailable|not (?:currently |yet )?available|no longer available)\b",
    r"\b(?:violat\w+|against) (?:\w+ ){0,3}(?:polic(?:y|ies)|guidelines|terms)\b",
    # there is no image in what was sent
    rf"\b(?:your|the|this) (?:\w+ )?{_MESSAGE} "
    + either(
        r"(?:does|did)(?: not|n't)(?: (?:seem|appear) to| actually)? (?:contain|include|have|come with|carry)"
        + r"(?: an?| any| the)?",
        r"(?:contain|include)[sd]? no|ha[sd] no",
    )
    + rf" (?:\w+ )?{_IMAGE}\b",
    r"\bthere (?:(?:is|was|are|were)(?: not|n't)(?: an?| any)?|(?:is|was|are|were) no)"
    + rf" (?:\w+ )?{_IMAGE} (?:in|with|attached to) (?:your|the|this) {_MESSAGE}\b",
    rf"^[^\w\n]*no (?:\w+ )?{_IMAGE} (?:in|with|attached to) (?:your|the|this) {_MESSAGE}\b",
    r"\bi (?:can |could )?only (?:see|have|find|got|received?) (?:the |your |some |a )?(?:text|words|question|prompt)\b",
    rf"\b{_IMAGE} (?:(?:that )?you(?:'ve| have)? \w+ )?{_NOT} be (?:shown|viewed|seen|opened|loaded|rendered|displayed)\b",
    r"^[^\w\n]*(?:the |your )?(?:image|picture|photo|file|attachment) "
    + r"(?:upload(?:ing)?|download(?:ing)?|load(?:ing)?|process(?:ing)?|fetch(?:ing)?|retrieval|decod(?:e|ing))"
    + r" (?:has |was |is )?(?:failed|error|failure|timed out|not |un)",
    r"^[^\w\n]*without (?:(?:seeing|having|access to|viewing|being able to see) )?(?:the|an|any|your)"
    + rf" (?:actual )?{_IMAGE},? "
    + r"(?:i|we|it|there|no|one)\b",
    # what it will not or should not do, without "I cannot"
    r"\b(?:that|this|it)?(?:'s| is|isn't| is not| are not| aren't)"
    + r"(?: not)? (?:something|things?) (?:that )?i(?:'m| am| can| could|'d)\b",
    r"^[^\w\n]*(?:my|our) (?:\w+ )?(?:capabilities|abilities|training|knowledge|instructions|guidelines|policy|purpose)\b",
    r"^[^\w\n]*(?:for|due to|because of) (?:\w+ )?(?:privacy|safety|security|legal|ethical|policy)\b",
    r"^[^\w\n]*(?:please|it(?:'s| is) best to|you should|kindly) (?:\w+ )?"
    + r"(?:consult|see|contact|ask|clarify|rephrase|specify|check|try)\b",
    either(
        r"^[^\w\n]*i(?:'d| would| do not| don't)? "
        + r"(?:strive|prefer|rather not|aim|made a mistake|guess|think so|feel comfortable|want to)\b",
        r"^[^\w\n]*i see\W*$|\bit (?:would|might) be inappropriate\b",
    ),
    r"\bit (?:wouldn't|would not|isn't|is not) (?:be )?(?:appropriate|possible|right|ethical) to "
    + r"(?:describe|identify|comment|answer|say)\b",
    r"\b(?:additional|more|further) (?:\w+ )?(?:information|context|details?)"
    + r" (?:is|are|would be) (?:needed|required|necessary)\b",
    r"^[^\w\n]*there (?:is|'s|isn't|is not) (?:not )?(?:enough|insufficient|sufficient) (?:context|information|detail)\b",
    r"^[^\w\n]*(?:vision|image (?:input|understanding|analysis)|multimodal (?:input|support)) (?:is|are) (?:not |un|dis)\w+",
    r"^[^\w\n]*(?:disclaimer|note): (?:i|this (?:is not|description|caption|was))\b",
    either(
        r"^[^\w\n]*(?:waiting for|awaiting) (?:the|your|an?)? ?(?:\w+ )?"
        + r"(?:images?|pictures?|photos?|files?|upload|attachment)\b",
        r"\b(?:seems|looks like|appears) (?:that )?you(?:'ve| have)? (?:forgot|forgotten|missed)\b",
    ),
    either(
        rf"\b{_IMAGE} (?:that )?you(?:'ve| have)? \w+ (?:doesn't|does not|didn't|did not|isn't|is not)\b",
        r"\bmessage (?:got|was) cut off\b",
    ),
    either(
        rf"^[^\w\n]*you(?:'ll| will) (?:have|need) to (?:\w+ )*?(?:the |an? |your )?{_IMAGE}\b",
        r"^[^\w\n]*(?:only|nothing but) (?:the |your )?(?:text|words)\b",
    ),
    either(
        r"^[^\w\n]*nothing (?:came|comes|got) through\b|\b(?:isn't|is not) one (?:that )?i can\b",
        r"\bi don't (?:do|support|handle|process) (?:images|pictures|photos)\b",
    ),
    r"^[^\w\n]*(?:no can do|pass)\W*$|^[^\w\n]*i can(?:'t|not) (?:share|show|name|reveal)\b",
    # who it is that speaks
    rf"(?:^[^\w\n]*|[.!?] )(?:{_HELLO}\W+)?"
    + r"(?:i(?:'m| am)|my name is|you(?:'re| are) (?:talking|speaking|chatting) (?:to|with))"
    + rf" {_MODELS}(?: (?:\d\S*|large|small|medium|mini|pro|flash|ultra|chat|instruct|opus|sonnet|haiku|vl))*"
    + r"(?=[^\w\n]*$|[.,;:!?]| (?:and|an?|the|by|from|created|made|developed|trained|built|your|here)\b)",
    r"\bi (?:was|am|have been) (?:created|made|developed|trained|built|designed|programmed) (?:by|to|on)\b",
)
REFUSAL = re.compile(any_of((*_ENGLISH, *OTHER_LANGUAGES, *NOT_AVAILABLE)), re.I | re.M)
"""A model that refuses, cannot see, or talks about itself; apostrophes are straight ones."""

TO_THE_ASKER = re.compile(
    "|".join(
        (
            r"^[^\w\n]*(?:"
            + r"(?:sure(?: thing)?|of course|certainly|absolutely|hello|hi|hey|great|okay|ok)\b[\s,.!]*)?"
            + r"(?:i'd|i would|i'll|i will|i am|i'm) (?:be )?(?:more than )?"
            + r"(?:happy|glad|pleased|delighted|ready|here) to\b",
            r"^[^\w\n]*(?:(?:hello|hi|hey|sure|of course|certainly)\b[\s,.!]*)?(?:how|what) "
            + r"(?:can|may|could|would|do|should) (?:i|you)\b",
            r"\b(?:would|do) you (?:like|want) (?:me )?to\b|\blet me know\b|\b(?:if|would) you(?:'d| would)? like(?: me)? to\b",
        )
    ),
    re.I | re.M,
)
"""A reply to the one who asks instead of a description; a question of a pair may well begin so."""
