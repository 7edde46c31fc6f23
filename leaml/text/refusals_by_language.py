"""How models refuse, and say that there is no image, in other languages than English."""

from __future__ import annotations

from leaml.text.patterns import either

OTHER_LANGUAGES = (
    # Chinese, Japanese, Korean
    r"对不起|對不起|抱歉|很遗憾|很遺憾|(?:作为|作為|身為)(?:一个|一個|一名|一款)?(?:AI|人工智[能慧]|语言模型|大语言模型|大模型)",
    r"(?:^[^\w\n]*(?:我们?|目前|暂时)?|我)[无無]法(?:直接)?(?:查看|看到|看见|回答|识别|識別|判断|判斷|确定|確定|提供|描述|访问|显示|处理|打开|加载|分析|辨认|得知|给出|生成)",
    r"(?:不能|没办法|沒辦法)(?:直接)?(?:查看|看到|回答|提供|描述|访问|处理|分析|判断|确定|帮助|协助)",
    r"(?:没有|未|沒有)(?:能)?(?:提供|收到|上传|上傳|附上)(?:任何)?(?:图像|图片|照片|圖片|圖像)|我不(?:知道|清楚|确定|確定)|请(?:提供|上传|重新)",
    either(
        r"申し訳|すみません|ごめんなさい|(?:画像|写真)[^。]{0,12}(?:でき|見え)ません",
        r"^[^\w\n]*(?:回答|お答え|説明)[^。]{0,6}(?:でき|出来)ません|画像が(?:提供|添付|表示)",
        r"AI(?:言語モデル)?として",
    ),
    r"죄송|미안(?:하|합)|(?:할|볼|알|답변할|확인할|제공할|판단할|도와드릴) 수 (?:가 )?없|AI(?:로서| 언어 모델)",
    # Germanic and Romance languages
    either(
        r"\btut mir (?:sehr )?leid\b|\bleider (?:kann|ist|bin|habe|konnte|wurde)\b",
        r"\bich (?:kann|konnte|bin) (?:\w+ ){0,4}(?:nicht|kein)",
    ),
    r"\bich (?:sehe|habe|finde|erkenne|erhalte) (?:\w+ ){0,2}(?:kein\w*|nicht) (?:\w+ )?(?:bild|foto|zugriff|möglichkeit)",
    r"\bals (?:ki|sprachmodell|künstliche intelligenz)\b|\bkein bild (?:vorhanden|gefunden|verfügbar|angehängt|übermittelt)",
    r"\bhet spijt me\b|\bik (?:kan|zie|heb|vind) (?:\w+ ){0,4}(?:niet|geen)\b|\bals (?:een )?(?:ai|taalmodel)\b|\bhelaas kan\b",
    either(
        r"\b(?:jag|jeg|eg) (?:kan|er|är|ser|har|vet|ved) (?:\w+ ){0,3}(?:inte|ikke|ikkje|ingen|inget|inga|ej)\b",
        r"\btyvärr\b|\bdesværre\b",
    ),
    either(
        r"\bdessverre\b|\b(?:jag |jeg )?beklagar?(?:er)?\b",
        r"^[^\w\n]*(?:förlåt|ursäkta|undskyld|unnskyld)\b|\b(?:því miður|ég get ekki|fyrirgefðu)\b",
    ),
    either(
        r"(?:^[^\w\n]*|\bje suis )(?:(?:vraiment|sincèrement|vivement) )?d[ée]sol[ée]e?\b",
        r"\bje (?:ne (?:peux|suis|sais|vois|dispose|parviens|trouve|reçois)|n'(?:ai|arrive)|regrette)\b",
        r"\ben tant qu['’ ] ?(?:ia|intelligence|mod[èe]le)",
    ),
    r"\baucune image (?:n'|fournie|jointe)|\bimpossible de (?:d[ée]terminer|r[ée]pondre|voir|d[ée]crire)",
    either(
        r"\blo siento\b|\blamento\b",
        r"\bno (?:puedo|tengo|veo|sé|dispongo|logro|soy capaz|me es posible)\b",
        r"\bcomo (?:una |un )?(?:ia|modelo de lenguaje)\b",
    ),
    r"\bno se (?:ha |puede |pudo )?(?:proporcion|adjunt|determin)|\blamentablemente,? no\b",
    either(
        r"\bdesculpe\b|\bsinto muito\b",
        r"\b(?:eu )?n[ãa]o (?:posso|consigo|tenho|vejo|sei|disponho|sou capaz)\b",
        r"\bcomo (?:um |uma )?(?:ia|modelo de linguagem)\b",
    ),
    either(
        r"\bmi (?:di)?spiace\b|\bspiacente\b",
        r"\bnon (?:posso|vedo|so|ho accesso|dispongo|sono in grado|riesco)\b|\bcome (?:ia|modello linguistico)\b",
    ),
    either(
        r"\bho sento\b|\b(?:no|non) (?:puc|podo)\b|\bno (?:veig|tinc)\b|\bmalauradament\b|\bsíntoo\b",
        r"\bcom a (?:model|ia|assistent)\b",
    ),
    r"\b(?:îmi pare rău|din păcate|nu (?:pot|văd|știu|am acces))\b",
    # Slavic, Baltic and Finno-Ugric languages
    r"\b"
    + either(
        r"извините|простите|к сожалению|не могу|не вижу|не знаю|как (?:ии|языковая модель)|вибачте|на жаль",
        r"не можу|не бачу|съжалявам|за съжаление|не мога|не виждам|нажалост|жао ми је|не видим|прабачце|на жаль",
    )
    + r"\b",
    r"\b"
    + either(
        r"przepraszam|przykro mi|niestety|nie (?:mogę|widzę|jestem w stanie|wiem)|omlouvám se|bohužel|bohužiaľ",
        r"je mi (?:to )?(?:líto|ľúto)|ľutujem|prepáčte|ne(?:mohu|můžu|vidím|dokážu|môžem)|žao mi je",
        r"žal (?:mi je|ne)|nažalost|oprostite|ne (?:mogu|morem|vidim|znam)",
    )
    + r"\b",
    r"\b(?:atsiprašau|deja,|negaliu|nematau|atvainojiet|piedodiet|diemžēl|es ne(?:varu|redzu|zinu))\b",
    r"\b(?:valitettavasti|anteeksi|pahoittelen|en (?:voi|pysty|näe|osaa|tiedä)|vabandust|kahjuks|ma ei (?:näe|saa|oska|tea))\b",
    r"\b(?:sajnos|sajnálom|elnézést|nem (?:tudok|tudom|látok|látom|áll módomban))\b",
    # others
    either(
        r"συγγνώμη|λυπάμαι|δυστυχώς|δεν (?:μπορώ|βλέπω|έχω πρόσβαση)|\bm[eë] vjen keq\b|\bnuk mund t[eë]\b",
        r"\bek kan nie\b|^[^\w\n]*jammer,",
    ),
    either(
        r"מצטער|סליחה|לצערי|אני לא (?:יכול|רואה|מסוגל|יודע)|איני (?:יכול|רואה|מסוגל)|אינני|אין באפשרותי",
        r"אין לי (?:אפשרות|יכולת|גישה)",
    ),
    r"\b"
    + either(
        r"paumanhin|pasensya na|hindi ko (?:ma\w+|alam)|samahani|siwezi|barkatu|sentitzen dut|ezin dut",
        r"üzr istəyirəm|təəssüf|kechirasiz|afsuski|кешіріңіз|өкінішке|уучлаарай",
    )
    + r"\b",
    either(
        r"দুঃখিত|মাফ করবেন|மன்னிக்கவும்|క్షమించండి|ಕ್ಷಮಿಸಿ|ക്ഷമിക്കണം|માફ કરશો|ਮਾਫ਼? ਕਰ|माफ (?:करा|गर्नु)|क्षमस्व",
        r"සමාවන්න|කණගාටු|معذرت|متاسف|ներեցեք|ցավում եմ|ბოდიში|ვწუხვარ|სამწუხაროდ|សូមអភ័យទោស|សុំទោស|ຂໍໂທດ|ይቅርታ",
        r"တောင်းပန်ပါ",
    ),
    r"我是(?:一[个個名款]|由)?(?:AI|人工智[能慧]|语言模型|大模型|通义|千问|Qwen|ChatGPT|Claude|DeepSeek|阿里|智能助手)",
    r"\b(?:üzgünüm|özür dilerim|maalesef|xin lỗi|tôi không (?:thể|biết)|rất tiếc|maaf|saya tidak (?:bisa|dapat))\b",
    either(
        r"آسف|أعتذر|عذر[اًا]|لا أستطيع|لا يمكنني|لا أعرف|متأسف|نمی‌?توانم|क्षमा करें|मुझे खेद",
        r"नहीं (?:कर|बता|देख) सकत|ขออภัย|ไม่สามารถ|ขอโทษ",
    ),
)
_NOT_LOADED = either(
    r"(?:bild|foto|datei)\w* (?:konnte|kann) (?:leider )?nicht\b|(?:afbeelding|foto) (?:kon|kan) niet\b",
    r"(?:bild|foto)\w* (?:kunde inte|kunne ikke|kan inte|kan ikke)\b|(?:image|photo)\w* n'a(?: pas)? pu\b",
    r"impossible (?:de|d') ?(?:charger|afficher|traiter|lire|ouvrir|acc[ée]der)",
    r"impossibile (?:caricare|vedere|visualizzare|aprire)",
    r"no se (?:pudo|puede|ha podido) (?:cargar|mostrar|procesar|ver|abrir|acceder)",
    r"no (?:es|ha sido|fue) posible (?:ver|cargar|mostrar)",
    r"n[ãa]o (?:foi|é) poss[íi]vel (?:carregar|ver|abrir|exibir|visualizar)",
    r"non è (?:stato )?possibile (?:caricare|vedere|visualizzare)",
    r"(?:не удалось|невозможно) (?:загрузить|открыть|определить|описать|увидеть|обработать)",
    r"(?:изображение|фото) не (?:загружено|загрузилось)",
    r"nie (?:udało się|można) (?:wczytać|załadować|wyświetlić|zobaczyć)|nepodařilo se",
    r"nelze (?:načíst|zobrazit)",
    r"(?:görüntü|resim|görsel|fotoğraf)\w* (?:yükle|aç|bul|gör)\w*m[ae]",
    r"không thể (?:tải|xem|mở|hiển thị|xử lý)",
    r"tidak (?:dapat|bisa) (?:memuat|melihat|membuka)|לא (?:ניתן|סופק|צורפ|התקבל|נטענ|הועל)|불러오지 못",
    r"(?:열|표시할|처리할) 수 없",
    r"(?:読み込|表示|取得|処理|認識)[^。]{0,6}(?:ませんでした|できません)",
    r"(?:图片|图像|照片|圖片)[^。]{0,4}(?:加载|上传|读取|打开|載入|上傳)失[败敗]",
)
_FAILED = either(
    r"系统繁忙|稍后(?:再试|重试)|(?:服务器|网络|系统)(?:错误|异常|繁忙)|请求超时|发生(?:了)?错误|出错了",
    r"违反了?[^。]{0,8}(?:政策|规定)|内容不合规|相关法律法规|我看不|エラーが発生",
    r"(?:アップロード|添付|提供)して(?:ください|下さい)|오류가 발생|업로드해|다시 시도",
    r"\bein fehler ist aufgetreten\b|^\W*(?:server|interner )\w*fehler|zeitüberschreitung",
    r"\bbitte (?:laden|geben|senden|fügen|stellen|teilen|versuchen) sie\b",
    r"\bune erreur (?:est survenue|s'est produite)\b",
    r"^\W*(?:erreur|error) (?:interne|interno|interna)\b",
    r"\bveuillez (?:t[ée]l[ée]charger|fournir|r[ée]essayer|joindre)\b|\bha ocurrido un error\b",
    r"\bse produjo un error\b",
    r"\bpor favor,? (?:sub[ae]|adjunt|proporcion|env|carg|carregue|forneça|intent|tente)|\bocorreu um erro\b",
    r"\bsi è verificato un errore\b|\bsi prega di\b|произошла ошибка|^\W*ошибка\b",
    r"пожалуйста,? (?:загрузите|пришлите|предоставьте|попробуйте)|\bwystąpił błąd\b",
    r"\ber is een fout opgetreden\b|حدث خطأ|কিছু ভুল|\b\w*yamam\b|\b\w*(?:açıklaya|göre)m[ei]yorum\b",
)
_LANGUAGE_MODEL = either(
    r"\b"
    + either(
        r"språkmodell?|sprogmodel|sprachmodell|taalmodel|kielimalli|nyelvi modell|jazykov(?:ý|ým) model",
        r"model(?:em)? językow|model lingvistic|model de llenguatge|modelo de (?:lenguaje|linguagem)",
        r"modèle de langage|modello linguistico|языков\w+ модел|dil modeli|mô hình ngôn ngữ|model bahasa",
    ),
    r"언어 모델|言語モデル|语言模型|語言模型|מודל שפה|نموذج لغ",
)
_THING = either(
    r"bild(?:er)?|foto|beschreibung|image|photo|imagen|imagem|immagine|afbeelding|obraz|zdjęcie|obrázek",
    r"изображение|фото|картинка|описание|description|descripción|descrição|descrizione|beschrijving|bilden",
    r"bildet|billedet?|kuva|resim|görsel|gambar|hình ảnh",
)
_THERE = either(
    r"verfügbar|vorhanden|gefunden|disponible|disponibile|disponível|beschikbaar|tillgänglig\w*",
    r"tilgængelig\w*|tilgjengelig\w*|dostępn[eya]|znaleziono|dostupn[ýáé]|nalezen\w*|encontrad[ao]",
    r"trovat[ao]|trouvée?|gevonden|tersedia",
)
NOT_AVAILABLE = (
    _NOT_LOADED,
    _FAILED,
    _LANGUAGE_MODEL,
    rf"^[^\w\n]*(?:(?:das|die|diese[rs]?|le|la|l'|cette|el|esta|este|o|a|il|het|de|dit|deze) ?)?{_THING}(?: "
    + r"(?:ist|est|está|é|è|is|är|er|n'est|jest))? "
    + r"(?:derzeit |leider |momentan |actuellement |attualmente )?"
    + either(
        rf"(?:nicht|non|pas|no|não|niet|inte|ikke|nie|není|tidak|không) {_THERE}",
        r"in(?:disponible|disponibile|disponível)|недоступн[оаы]|не найден[оаы]?|отсутству[ею]т|mevcut değil",
        r"bulunamadı",
    )
    + r"\b",
    rf"^[^\w\n]*(?:keine?|aucune?|sin|sem|geen|brak|ingen|nessun[ao']|žádný|без|нет) ?{_THING}(?:u|a|i)?(?: {_THERE})?\W*$",
    r"^[^\w\n]*(?:brak|нет) (?:zdjęcia|obrazu|opisu|изображения|описания|фото)\W*$",
    r"^[^\w\n]*(?:该|此|这张|這張|当前)?(?:图片|图像|照片|圖片|圖像|图|内容|描述)(?:暂时|暂|目前|已)*"
    + r"(?:不可用|不存在|无法[^。]{0,8}|無法[^。]{0,8}|加载失败|載入失敗|缺失|未找到|失效|为空)\W*$",
    r"^[^\w\n]*(?:无|暂无|没有|沒有|無|不可用的)(?:可用的)?(?:图片|图像|描述|照片|内容|圖片|圖像|图)\W*$",
    r"^[^\w\n]*(?:画像|写真|説明|図)(?:は|が)?(?:ありません|見つかりません|利用できません|なし|無し|ない)\W*$",
    r"^[^\w\n]*(?:이미지|사진|설명|그림)(?:가|이|를|을|은|는)? ?(?:없습니다|없음|없어요|사용할 수 없|찾을 수 없|불러올 수 없)",
)
