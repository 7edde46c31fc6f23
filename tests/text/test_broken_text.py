"""Damaged texts are told from rare ones."""

from __future__ import annotations

import csv
import json
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaml.config import FilterConfig
from leaml.generation.candidates import Candidate
from leaml.generation.filters import apply
from leaml.text.broken_text import is_broken, is_unspeakable, stripped


@pytest.mark.parametrize(
    "text",
    [
        "is there not a??eo a red shape",
        "caf?s",
        "is there not a⁇eo a red shape",
        "a ⁇ shape",
        "⁇",
        "a？？eo",
        "a？eo",
        "a﹖eo",
        "red⸮d",
        "red¿d",
        "red؟d",
        "a？?eo",
        "reďż˝d",
        "reпїЅd",
        "reÔøΩd",
        "re´┐¢d",
        "reοΏ½d",
        "M√ºller",
        "K√∂ln",
        "cafГ©",
        "MГјller",
        "MĂĽller",
        "cafĂ©",
        "Гјber",
        "itвЂ™s",
        "it’s вЂњredвЂќ",
        "cafΓ©",
        "itâ€™s",
        "a \ufffd shape",
        "re\x00d",
        "red\x1b[0m",
        "\ue000",
        "blue\udc80",
        "caf\u00c3\u00a9",
        "it\u00e2\u20ac\u2122s",
        "po##lyp",
        "a ??eo shape",
        "red ????",
        "r1??d",
        "re□d",
        "red □□",
        "▯▯",
        "Ġred",
        "theĠred",
        "re▁d",
        "▁red",
        "<0xE2><0x96>",
        "<0xE2>",
        "ï¿½",
        "&eacute;",
        "&#233;",
        "&amp;",
        "th?s one",
        "##lyp",
        "po@@ lyp",
        "red</w>",
        "cafÃ©",
        "goÃ»t",
        "itâ€™s",
        "Å‚Ã³dka",
        "Ä…dka zÄ…b",
        "ä¸\xadæ–‡",
        "Ð¿Ñ€Ð¸Ð²ÐµÑ‚",
        "РєСЂР°СЃРЅС‹Р№",
        "Î±Î²",
        "Ø§Ù„",
        "×©×œ",
        "ðŸ˜€",
        "à¤¹",
        "ê°€",
        "caf├⌐",
        "caf√©",
        "it‚Äôs",
        "itΓÇÖs",
        "锟斤拷",
        "%C3%A9",
        "caf\\u00e9",
        "\\xc3\\xa9",
        "37Â°C",
        "Ã©",
        "5Âµm",
        "Ã¼ber",
        "naÃ¯ve",
        "fÃ¼r",
        "caf�",
        "a\x00",
        "\udc80",
        "\ue000",
        "hÃ©mo",
        "a;;b??c",
        "\ufdd0",
        "EspaÃ±a",
        "SÃ£o",
        "Ã‰cole",
        "â€œredâ€\x9d",
        "â€œred",
        "Â©",
        "2Â±1",
    ],
)
def test_damaged_texts(text: str) -> None:
    assert is_broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "is there a red shape?",
        "What is this? And that?",
        "HER2-positive, T2-weighted, C5-C6",
        "C++ or C#?",
        "e.g. 3/4, 10:30, 2:1, 5%, 37.5 °C, µm, 10⁻³",
        "N,N-dimethyltryptamine; (2R,3S)-3-hydroxy",
        "l'hémorragie, Müller, naïve",
        "是否有息肉？",
        "有息肉吗?没有",
        "هل يوجد ورم؟",
        "क्या लाल है?",
        "see https://example.org/?q=polyp??x or www.example.org/a?b=c",
        "yes/no",
        "well... maybe",
        "🙂 a face",
        "line one\n\tline two",
        "ooo",
        "yes?no",
        "Who?What?",
        "what? yes",
        'a,"b"',
        "x==y",
        "C:\\Users\\a",
        "«MAÇÃ»",
        "“MAÇÃ”",
        "MAÇÃ…",
        "l’É»",
        "Úžasný",
        "CAFÉ’S",
        "JOSÉ’s menu",
        "CAFÉ—the",
        "«CAFÉ»",
        "NESTLÉ®",
        "É…",
        "“ÜBER”",
        "is it red?",
        "is it red？",
        "吗？？没有",
        "Who？What？",
        "¿Es rojo? ¿No?",
        "هل؟؟نعم",
        "√π r and 2√πr",
        "Ăştia",
        "Гірка, МІСТО",
        "ГЁ",
        "в Ђ",
        "Γάτα",
        "Αα",
        "Ľudia, Ĺ",
        "«МРТ»",
        "What is this? And that?",
        "什么？好",
        "有息肉吗?没有",
        "what??",
        "Really?? Yes",
        "wow!!Nice",
        "a||b",
        "x**y",
        "std::vector",
        'key="v"',
        "50%",
        "□ yes",
        "a □ shape",
        "AT&T",
        "R&D; more",
        "Q&A",
        "100 % sure",
        "🙂",
        "\U0001fae8",
        "l·l",
        "C++",
        "naïve",
        "Ça",
        "São",
        "IRMÃ, MÃE",
        "MANHÃ.",
        "Â",
        "Ã",
        "œuvre",
        "https://x.org/?a??b&amp;",
        "D:\\x64\\u00e9f",
        "yes/no",
        "▁▂▃",
        "##  Title",
        "#3",
        "a-b",
        "Þór’s",
        "ÐE",
        "±5",
        "5 ± 2",
        "°C",
        "37°C",
        "ЕЩЁ РАЗ",
        "Сёрфинг",
        "Рёбра",
        "C:\\new",
        "№5",
        "√2",
        "x ≤ y",
        "Ñandú",
        "«Ñ»",
        "È’",
        "tÊte",
        "Ø 5 mm",
        "30×40",
        "Ø—5",
        "×2",
        "É’tude",
        "Î",
        "[x]",
        "e.g. 3/4, 10:30",
        "Ġunju u ħobż",
    ],
)
def test_rare_texts_are_not_damaged(text: str) -> None:
    assert not is_broken(text)


@given(
    st.text(
        # what misread UTF-8 and pieces of tokenizers are made of is left out; "aĂŹ" is an "aù" that was read as Windows-1250
        st.characters(
            categories=["L", "N", "Zs"],
            exclude_characters=string.ascii_lowercase + "ĠĊŠšŒœŽžŸƒˆРС" + "".join(map(chr, range(0x80, 0x100))),
        ),
        max_size=40,
    )
    | st.text(string.ascii_letters + string.digits + " ", max_size=40)
)
def test_letters_and_numbers_of_every_script_are_text(text: str) -> None:
    assert not is_broken(text)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text", ["café au lait", "żółta łódka", "красный круг", "κόκκινο", "红色的球", "赤い球", "크다", "it\u2019s 37 °C", "a 🙂"]
)
def test_text_read_in_another_encoding_is_damaged(text: str, encoding: str) -> None:
    assert not is_broken(text)
    assert is_broken(text.encode().decode(encoding, "replace"))


@pytest.mark.parametrize(
    "text",
    [
        "is the xqzvbn red",
        "what is the bdfgk?",
        "Zqvxkt? no: is there a kqxzt here",
        "(xqzvb)",
        "Xqzvbn is red?",
        "qpwz lmnb vcxr tyui?",
    ],
)
def test_words_that_nobody_can_say(text: str) -> None:
    assert is_unspeakable(text)


@pytest.mark.parametrize(
    "text",
    [
        "hmmmm, psssst, what is it?", "strč prst skrz krk, čtvrt", "smrt, vrt, trg, scvrkl", "what does BKJZP say?",
        "crwth and cwm", "see https://kvxzp.example", "rhythms, tsktsk, nth, kmph", "is the HTTPS icon red or https",
        "какой цвет вздрг", "what is 5kg of x2bcdfg", "mmHg or kPa", "der Bzw. vgl.", "Knch'm wst?",
    ],
)  # fmt: skip
def test_words_that_somebody_can_say_and_signs(text: str) -> None:
    assert not is_unspeakable(text)


def test_a_long_text_is_read_in_time() -> None:
    start = time.process_time()
    assert not is_broken("a" * 40_000)
    assert is_broken("a?" * 20_000 + "b")
    assert len(stripped(" a" + " " * 20_000 + "b \u200b")) == 20_002
    assert time.process_time() - start < 5  # a square of its length takes a minute


@pytest.mark.parametrize("encoding", ["cp1250", "cp1251", "cp1253", "mac_roman", "cp437", "cp850"])
@pytest.mark.parametrize("text", ["café au lait", "Müller", "Köln", "señal", "it\u2019s red", "re\ufffdd"])
def test_utf_8_read_in_the_encoding_of_other_languages_is_damaged(text: str, encoding: str) -> None:
    assert is_broken(text.encode().decode(encoding, "replace"))


@given(st.text(st.characters(categories=["L"]), min_size=1, max_size=20), st.sampled_from("\ufffd\x00\x07\ue123"))
def test_one_character_that_is_no_text_is_enough(text: str, bad: str) -> None:
    assert is_broken(text + bad)


def test_pairs_with_broken_text_are_rejected_by_default_and_taken_where_the_filter_is_off() -> None:
    pairs = [
        Candidate("is there not a??eo a red shape", "yes", -0.1),
        Candidate("is there a red shape?", "y\ufffds", -0.1),
        Candidate("is the xqzvbn red?", "yes", -0.1),
    ]
    assert [d["reason"] for d in apply(pairs, FilterConfig())] == ["broken text"] * 3
    assert apply([Candidate("what is on the plate?", "bkjzp", -0.1)], FilterConfig())[0]["accepted"]
    assert all(d["accepted"] for d in apply(pairs, FilterConfig(broken_text=False)))


def test_no_text_of_real_data_is_damaged(shared_folder: Path) -> None:
    with (shared_folder / "data" / "kvasir_vqa_rows.csv").open(encoding="utf-8") as file:
        texts = {value for row in csv.reader(file) for value in row}
    assert len(texts) > 100
    assert [text for text in texts if is_broken(text) or is_unspeakable(text)] == []
    rows = json.loads((shared_folder / "data" / "vqa_rad" / "vqa_rad.json").read_text(encoding="utf-8"))
    texts = {str(row[name]) for row in rows for name in ("question", "answer")}
    assert len(texts) > 1000
    assert [text for text in texts if is_unspeakable(text)] == []
    assert all("\ufffd" in text for text in texts if is_broken(text))  # one text is damaged there
