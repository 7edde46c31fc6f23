"""How servers say that something failed, and what programs show while they work.

The sentences are those of the servers themselves: of vLLM, Ollama, LM Studio, the APIs of models, proxies and HTTP.
"""

from __future__ import annotations

import re

STATUS = re.compile(
    r"\W*(?:(?:now |still |currently )?(?:(?:re|up|down|pre)?loading|(?:pre)?processing|thinking|reasoning|generating"
    r"|analy[sz]ing|rendering|fetching|initiali[sz]ing|connecting|buffering|queued|pending|retrying|started|finished"
    r"|completed|success(?:ful)?|failed|captioning|describing)(?: (?:the|your|an?|this))?"
    r"(?: (?:image|picture|photo|caption|description|reply|response|answer|request|data|content|model|result|file)s?)?"
    r"(?:\W+please wait)?|please (?:wait|stand by|hold)(?: \w+){0,4}"
    r"|(?:one|just an?|a|give me an?) (?:moment|second|minute)(?:,? please)?|in progress|in (?:the |a )?queue|coming soon"
    r"|under construction|to be (?:determined|added|announced|done|filled|described)"
    r"|not (?:applicable|available|provided|specified|set|found|given|supported)|unavailable"
    r"|bitte warten|wird (?:geladen|verarbeitet)|lädt|chargement(?: en cours)?|veuillez patienter|en cours|cargando|procesando"
    r"|espere(?: por favor)?|por favor,? espere|carregando|processando|aguarde|caricamento(?: in corso)?|attendere(?: prego)?"
    r"|laden|even geduld|загрузка|обработка|(?:пожалуйста,? )?подождите|ładowanie|proszę czekać|yükleniyor"
    r"|(?:正在)?(?:加载|处理|生成|思考|分析|載入|處理)中|正在(?:加载|处理|生成|思考|分析)(?:图片|图像|描述)?|请稍[候等]"
    r"|読み込み中|処理中|生成中|お待ちください|(?:로딩|처리|생성|불러오는) ?중(?:입니다)?|잠시만 기다려 ?주세요)[\W\d]*",
    re.I,
)
"""What a program shows while or instead of working, as all of a reply."""

FAILURE = re.compile(
    r"^\W*(?:http \d{3}|(?:internal |unknown |http |api |fatal )?(?:server |system |runtime )?error(?:\W*$|:| \d"
    r"| (?:occurred|processing|while"
    r"|in |code|loading|generating|reading|decoding))|an? (?:\w+ )*?(?:error|exception) (?:has )?occurred|internal server error"
    r"|something went wrong|traceback\b(?! of)|oops(?=\W*$|\W+(?:something|there|an? (?:error|problem)|sorry|we|i"
    r"|the (?:image|page))\b)|request (?:failed|timed out|timeout|rejected|entity)|timed out\b"
    r"|rate limit(?:ed)?\b"
    r"|too many requests|quota exceeded|bad gateway|gateway time-?out|bad request\W*$|(?:access|permission) denied\W*$"
    r"|(?:forbidden|unauthori[sz]ed|not found|not implemented|time-?out|payload too large|overloaded)\W*$"
    r"|\d{3}\W+(?:error|internal"
    r"|bad|service|not found|forbidden|unauthori|too many|gateway)|(?:the )?(?:service|server"
    r"|model) (?:is )?(?:temporarily |currently )?"
    r"(?:unavailable|overloaded|(?:busy|down)(?=\W*$|[.,;!]? (?:please|try|right now|due)))"
    r"|temporarily unavailable|connection (?:refused|reset|error|closed|timed)"
    r"|cuda (?:error|out)"
    r"|out of memory"
    r"|you(?:'ve| have)? (?:exceeded|reached|hit|run out)|(?:incorrect|invalid|missing|expired|unsupported|unknown|malformed)"
    r" (?:\w+ )?(?:api|key|token|credentials|authentication|request|url|parameter|argument|image (?:format|type|url|data|size)"
    r"|media|mime|content.type|file (?:format|type))|(?:the )?(?:model|endpoint|deployment|resource|file|url)(?: '?\S+'?)?"
    r" (?:was |is |does )?not (?:found|exist|available|supported|loaded)|upstream (?:connect|request|server|timed)"
    r"|insufficient (?:quota|credits|balance|funds)|billing\b|service unavailable|no healthy upstream"
    r"|(?:the )?model (?:is )?(?:still |currently )?loading(?=\W*$|[.,;:!])"
    r"|(?:your )?(?:queue position|position in (?:the )?queue)\b"
    r"|(?:the |this )?(?:image )?(?:description|caption|content) (?:is |was )?(?:unavailable|not available)\b"
    r"|please (?:sign|log) ?in\b|your (?:free )?(?:trial|plan|subscription|account|credits?|quota) (?:has|have|is|are|was)\b"
    r"|context.length exceeded|(?:this|the|that|your) (?:model's |)(?:maximum )?(?:context|sequence|prompt) (?:length"
    r"|window|size|\(total)\b"
    r"|at most \d+ \w+(?:\(s\))? may be|(?:engine ?core|engine ?dead)\w*|(?:the )?(?:llama |model )?runner process"
    r"|\w+ requires more (?:\w+ )?memory"
    r"|(?:the |that |this )?(?:model|engine|server|service) (?:has |is |was |does not |doesn't )?(?:currently )?(?:crashed"
    r"|unloaded|overloaded"
    r"|terminated|missing|stopped|support image|timing out|down\W*$)|no slots? available|slot unavailable|invalid (?:image"
    r"|base64|input)"
    r"|cannot truncate|trying to keep the first|(?:\d{3} )?request entity too large|\d{3} page not found|page not found\W*$"
    r"|nginx\b"
    r"|(?:the )?upstream (?:server|service)|resource has been exhausted|(?:candidate|output|input|prompt|response|content"
    r"|blocked)\W* (?:was )?"
    r"(?:blocked (?:by|due)|violates|prohibited)|blocked: |finish_?reason\b|your (?:input |credit |uploaded )+\w*"
    r"|responsibleai\w*"
    r"|input validation error|segmentation fault|panic: |unexpected (?:error\W*$|token|end of)|uncaught \(|network ?error"
    r"|fetch failed|socket hang"
    r"|remote end closed|connection aborted|max retries exceeded|(?:connect )?(?:econn\w+|etimedout|epipe|enotfound)|ssl: "
    r"|method not allowed"
    r"|unprocessable entity|not authenticated|payment required|your session has|content removed|please (?:wait while"
    r"|complete)|(?:image|analysis|processing) (?:in progress|loading)\W*$|invalid_\w+\W*$|unauthori[sz]ed: "
    r"|the server had an error|number of request tokens"
    r"|access denied due|checking your browser|enable javascript"
    r"|attention required\W*$|pull model manifest"
    r"|messages\.\d|litellm\b|try again(?: later)?\W*$|retry\W*$|(?:killed|aborted|terminated)\W*$)"
    r"|^(?:data|event|id|retry): ?(?:\[done\]|message|\{|\d)|^: \w+$|^\W*(?:\w+\.)*\w*(?:Error|Exception|Violation"
    r"|Timeout)(?:: |\W*$)",
    re.I,
)
"""A server's error that came as a reply."""
