"""How servers say that something failed, and what programs show while they work.

The sentences are those of the servers themselves: of vLLM, Ollama, LM Studio, the APIs of models, proxies and HTTP.
"""

from __future__ import annotations

import re

from leaml.text.patterns import either

STATUS = re.compile(
    r"\W*"
    + either(
        r"(?:now |still |currently )?"
        + either(
            r"(?:re|up|down|pre)?loading|(?:pre)?processing|thinking|reasoning|generating|analy[sz]ing",
            r"rendering|fetching|initiali[sz]ing|connecting|buffering|queued|pending|retrying|started|finished",
            r"completed|success(?:ful)?|failed|captioning|describing",
        )
        + r"(?: (?:the|your|an?|this))?(?: "
        + r"(?:image|picture|photo|caption|description|reply|response|answer|request|data|content|model|result|file)s?)?"
        + r"(?:\W+please wait)?",
        r"please (?:wait|stand by|hold)(?: \w+){0,4}",
        r"(?:one|just an?|a|give me an?) (?:moment|second|minute)(?:,? please)?|in progress|in (?:the |a )?queue",
        r"coming soon|under construction",
        r"to be (?:determined|added|announced|done|filled|described)",
        r"not (?:applicable|available|provided|specified|set|found|given|supported)|unavailable|bitte warten",
        r"wird (?:geladen|verarbeitet)|lädt|chargement(?: en cours)?|veuillez patienter|en cours|cargando",
        r"procesando|espere(?: por favor)?|por favor,? espere|carregando|processando|aguarde",
        r"caricamento(?: in corso)?|attendere(?: prego)?|laden|even geduld|загрузка|обработка",
        r"(?:пожалуйста,? )?подождите|ładowanie|proszę czekać|yükleniyor",
        r"(?:正在)?(?:加载|处理|生成|思考|分析|載入|處理)中",
        r"正在(?:加载|处理|生成|思考|分析)(?:图片|图像|描述)?|请稍[候等]|読み込み中|処理中|生成中|お待ちください",
        r"(?:로딩|처리|생성|불러오는) ?중(?:입니다)?|잠시만 기다려 ?주세요",
    )
    + r"[\W\d]*",
    re.I,
)
"""What a program shows while or instead of working, as all of a reply."""

FAILURE = re.compile(
    either(
        r"^\W*"
        + either(
            r"http \d{3}",
            r"(?:internal |unknown |http |api |fatal )?(?:server |system |runtime )?error"
            + r"(?:\W*$|:| \d| (?:occurred|processing|while|in |code|loading|generating|reading|decoding))",
            r"an? (?:\w+ )*?(?:error|exception) (?:has )?occurred|internal server error|something went wrong",
            r"traceback\b(?! of)",
            r"oops(?=\W*$|\W+(?:something|there|an? (?:error|problem)|sorry|we|i|the (?:image|page))\b)",
            r"request (?:failed|timed out|timeout|rejected|entity)|timed out\b|rate limit(?:ed)?\b",
            r"too many requests|quota exceeded|bad gateway|gateway time-?out|bad request\W*$",
            r"(?:access|permission) denied\W*$",
            r"(?:forbidden|unauthori[sz]ed|not found|not implemented|time-?out|payload too large|overloaded)\W*$",
            r"\d{3}\W+(?:error|internal|bad|service|not found|forbidden|unauthori|too many|gateway)",
            r"(?:the )?(?:service|server|model) (?:is )?(?:temporarily |currently )?"
            + r"(?:unavailable|overloaded|(?:busy|down)(?=\W*$|[.,;!]? (?:please|try|right now|due)))",
            r"temporarily unavailable",
            r"connection (?:refused|reset|error|closed|timed)|cuda (?:error|out)|out of memory",
            r"you(?:'ve| have)? (?:exceeded|reached|hit|run out)",
            r"(?:incorrect|invalid|missing|expired|unsupported|unknown|malformed) (?:\w+ )?"
            + either(
                r"api|key|token|credentials|authentication|request|url|parameter|argument",
                r"image (?:format|type|url|data|size)|media|mime|content.type|file (?:format|type)",
            ),
            r"(?:the )?(?:model|endpoint|deployment|resource|file|url)(?: '?\S+'?)? (?:was |is |does )?not "
            + r"(?:found|exist|available|supported|loaded)",
            r"upstream (?:connect|request|server|timed)|insufficient (?:quota|credits|balance|funds)|billing\b",
            r"service unavailable|no healthy upstream",
            r"(?:the )?model (?:is )?(?:still |currently )?loading(?=\W*$|[.,;:!])",
            r"(?:your )?(?:queue position|position in (?:the )?queue)\b",
            r"(?:the |this )?(?:image )?(?:description|caption|content)" + r" (?:is |was )?(?:unavailable|not available)\b",
            r"please (?:sign|log) ?in\b",
            r"your (?:free )?(?:trial|plan|subscription|account|credits?|quota) (?:has|have|is|are|was)\b",
            r"context.length exceeded",
            r"(?:this|the|that|your) (?:model's |)(?:maximum )?(?:context|sequence|prompt) "
            + r"(?:length|window|size|\(total)\b",
            r"at most \d+ \w+(?:\(s\))? may be|(?:engine ?core|engine ?dead)\w*",
            r"(?:the )?(?:llama |model )?runner process|\w+ requires more (?:\w+ )?memory",
            r"(?:the |that |this )?(?:model|engine|server|service) (?:has |is |was |does not |doesn't )"
            + r"?(?:currently )?"
            + r"(?:crashed|unloaded|overloaded|terminated|missing|stopped|support image|timing out|down\W*$)",
            r"no slots? available|slot unavailable|invalid (?:image|base64|input)|cannot truncate",
            r"trying to keep the first|(?:\d{3} )?request entity too large|\d{3} page not found",
            r"page not found\W*$|nginx\b|(?:the )?upstream (?:server|service)|resource has been exhausted",
            r"(?:candidate|output|input|prompt|response|content|blocked)\W* (?:was )?"
            + r"(?:blocked (?:by|due)|violates|prohibited)",
            r"blocked: |finish_?reason\b|your (?:input |credit |uploaded )+\w*|responsibleai\w*",
            r"input validation error|segmentation fault|panic: |unexpected (?:error\W*$|token|end of)",
            r"uncaught \(|network ?error|fetch failed|socket hang|remote end closed|connection aborted",
            r"max retries exceeded",
            r"(?:connect )?(?:econn\w+|etimedout|epipe|enotfound)|ssl: |method not allowed|unprocessable entity",
            r"not authenticated|payment required|your session has|content removed|please (?:wait while|complete)",
            r"(?:image|analysis|processing) (?:in progress|loading)\W*$|invalid_\w+\W*$|unauthori[sz]ed: ",
            r"the server had an error|number of request tokens|access denied due|checking your browser",
            r"enable javascript|attention required\W*$|pull model manifest|messages\.\d|litellm\b",
            r"try again(?: later)?\W*$|retry\W*$|(?:killed|aborted|terminated)\W*$",
        ),
        r"^(?:data|event|id|retry): ?(?:\[done\]|message|\{|\d)|^: \w+$",
        r"^\W*(?:\w+\.)*\w*(?:Error|Exception|Violation|Timeout)(?:: |\W*$)",
    ),
    re.I,
)
"""A server's error that came as a reply."""
