"""What chat models write behind a description, and the label in front of it, are no parts of it."""

from __future__ import annotations

import time

import pytest

from leaml.generation import prompts
from leaml.text import replies
from leaml.text.closing_offers import without_offer

OFFERS = [
    "Let me know if you need anything else!",
    "Please let me know if you have any questions.",
    "Would you like more detail?",
    "Do you want me to describe the background as well?",
    "If you need more details, just ask!",
    "If you have any other questions, I’m here to help.",
    "Should you need further information, feel free to ask.",
    "Feel free to ask if anything is unclear 😊",
    "Don't hesitate to reach out.",
    "Is there anything else you'd like to know?",
    "I hope this helps!",
    "Hope that helps.",
    "Is this what you were looking for?",
    "I can provide more detail if needed.",
    "Any other questions?",
    "Thank you for sharing this image!",
    "I hope this helps! Let me know if you need anything else.",
    "**Let me know if you want changes.**",
    "Lassen Sie mich wissen, ob Sie mehr brauchen.",
    "Wenn Sie weitere Fragen haben, helfe ich gerne.",
    "N'hésitez pas à me demander.",
    "Si vous avez d'autres questions, demandez.",
    "Espero que esto ayude.",
    "¿Te gustaría saber más?",
    "Se hai altre domande, chiedi pure.",
    "Надеюсь, это поможет!",
    "如果您还有其他问题，请告诉我。",
    "希望这对您有帮助！",
    "他に質問があれば教えてください。",
]


CAPTIONS = ["A red ball.", "A ball: red, 5 mm.\n- It is round", 'A sign says "Stop!"', "**A red ball.**"]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("caption", CAPTIONS)
def test_3_an_offer_at_the_end_is_no_part_of_a_caption(offer: str, caption: str) -> None:
    for between in ("\n", "\n\n", "\n\n---\n\n", *([" "] if not caption[-1].isalnum() else [])):
        assert replies.caption(caption + between + offer, "stop", prompts.CAPTION) == (caption, "")
        assert replies.caption(f"{caption}{between}{offer}", "length")[0] in (caption, replies.whole_sentences(caption))
    found, reason = replies.caption(offer, "stop", prompts.CAPTION)
    assert found == "" and reason


@pytest.mark.parametrize(
    "text",
    [
        'A red ball. A sign says "Stop. Let me know."',
        "A card reads: “Hello. Would you like tea?”",
        "A red ball. If you look closely, more balls are seen.",
        "A red ball. There are further balls behind it.",
        "A shop. Please feel welcome is written above its door.",
        "A red ball. I see more of them.",
        "A waiter asks a guest. He hopes it helps.",
        "Two balls are red. Is one blue?",
        "A poster. Thank you for not smoking stands on it.",
        "Ein Ball. Wenn es regnet, ist er nass.",
        "A sign. Would you like tea? stands on it.",
        "图中有一个红球。旁边有什么东西。",
    ],
)
def test_3_sound_captions_keep_their_last_words(text: str) -> None:
    assert replies.caption(text, "stop", prompts.CAPTION) == (text, "")


@pytest.mark.parametrize(
    "label",
    [
        *("Caption: ", "**Caption:** ", "**Caption**: ", "Description:\n", "## Description\n\n", "Image description: "),
        *("Alt text: ", "Short caption: ", "Description of the image: ", "Sure! Caption: ", "Here is the caption: Caption: "),
        *("Bildbeschreibung: ", "Légende : ", "Descripción: ", "描述：", "图片描述：", "キャプション：", "설명: "),
    ],
)
def test_3_a_label_in_front_is_no_part_of_a_caption(label: str) -> None:
    assert replies.caption(f"{label}A red ball.", "stop", prompts.CAPTION) == ("A red ball.", "")


@pytest.mark.parametrize(
    "text",
    [
        "Caption contest poster: a red ball.",
        "A caption: red letters.",
        "Descriptions of birds hang on a wall.",
        "Summary judgment is written on a page.",
        "A ball.\nCaption: red",
    ],
)
def test_3_sound_captions_keep_words_like_labels(text: str) -> None:
    assert replies.caption(text, "stop", prompts.CAPTION) == (text, "")


@pytest.mark.parametrize("box", ["\\boxed{A red ball}", "$\\boxed{\\text{A red ball}}$"])
def test_3_a_caption_comes_out_of_its_box(box: str) -> None:
    assert replies.caption(box, "stop", prompts.CAPTION) == ("A red ball", "")


PARTS = [". Let me know", ". If you need ", "\n", ". " + " " * 40, "? Would you like ", "。如果", "! i hope this "]


@pytest.mark.parametrize("part", PARTS)
def test_offers_at_the_end_of_long_replies_are_looked_for_in_time(part: str) -> None:
    start = time.process_time()
    without_offer("A red ball" + part * (40_000 // len(part)) + "x")
    assert time.process_time() - start < 10  # a square of its length takes minutes
