"""The tokens with which vLLM is asked, with the tokenizers of models as they are published; vLLM itself is scripted."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from leaml.vlm.chat import chat_of
from leaml.vlm.collate import Collator, prompt
from serve.engine import EngineModels
from serve.errors import ApiError
from serve.media import Encoded, Picture
from serve.service import ImageQuestion, Model
from serve.vqa import request_text

pytestmark = pytest.mark.anyio

ZOO = Path(__file__).parents[3] / "shared" / "zoo"
ENDS = {"gemma3": "<end_of_turn>", "smolvlm1": "<end_of_utterance>", "paligemma": "<eos>", "llava15": "</s>"}


class Scripted:
    """vLLM's client: the greedy reply is "no" with a probability of 0.6, or else the reply ends at once or is of `others`."""

    def __init__(self, processor: Any) -> None:
        self.model_config, self.errored = SimpleNamespace(max_model_len=512), False
        self.collator, self.asked = Collator(processor), list[list[int]]()
        self.end, self.text, self.others = self.collator.chat.end, "no", {"yes": -3.0}
        self.logprob = -0.5

    async def generate(self, request: dict[str, Any], sampling: Any, _: str, lora_request: Any) -> AsyncIterator[Any]:
        assert sampling.stop_token_ids == [self.end]  # models' generation configs may lack it
        ids = request.get("prompt_token_ids", [])
        self.asked.append(ids)
        logprobs = {self.word("no"): -0.5, self.end: -1.0, **{self.word(word): p for word, p in self.others.items()}}
        first = {token: SimpleNamespace(logprob=p) for token, p in logprobs.items()}
        reply = SimpleNamespace(
            text=self.text,
            cumulative_logprob=self.logprob,
            token_ids=[self.word("no"), self.end],
            logprobs=[first],
            finish_reason="stop",
        )
        if len(self.asked) > 1:  # a branch, whose first token was given
            reply = SimpleNamespace(
                text="", cumulative_logprob=-0.1, token_ids=[self.end], logprobs=[first], finish_reason="stop"
            )
        # "B" has -1 a token, all others -4
        given = -1.0 if ids[-2:] == self.collator.reply_ids("B") else -4.0
        scores = [{token: SimpleNamespace(logprob=given)} for token in ids] if sampling.prompt_logprobs is not None else None
        yield SimpleNamespace(prompt_token_ids=ids, outputs=[reply], prompt_logprobs=scores)

    def word(self, text: str) -> int:
        return self.collator.reply_ids(text)[0]


@pytest.fixture(params=ENDS)
def models(request: pytest.FixtureRequest) -> EngineModels:
    if not ZOO.is_dir():
        pytest.skip("needs the checkpoints of shared/zoo, which are not part of the repository")
    processor = AutoProcessor.from_pretrained(ZOO / request.param)
    assert processor.tokenizer.convert_ids_to_tokens(chat_of(processor).end) == ENDS[request.param]
    engine = SimpleNamespace(_engine_client=Scripted(processor), _oai_models=SimpleNamespace(lora_requests={}))
    return EngineModels(SimpleNamespace(engine=engine), processor, lambda image: image)


async def ask(models: EngineModels, question: ImageQuestion, alternatives: int) -> tuple[Any, Scripted]:
    picture = Picture(Encoded(b"", "grey", 64), Image.new("RGB", (8, 8), "grey"))
    (answer,) = await models.answer(Model("m", ""), picture, [question], alternatives, "r")
    return answer, models._client


async def test_options_are_scored_with_the_ids_and_the_end_token_of_training(models: EngineModels) -> None:
    question = ImageQuestion("colour?", ("red", "blue"))
    answer, client = await ask(models, question, 1)
    assert (answer.reply.text, answer.own) == ("blue", False)
    assert math.exp(answer.reply.logprob) + math.exp(answer.alternatives[0].logprob) == pytest.approx(1)

    before = client.collator.prompt_ids(prompt(models._processor, request_text(question)))
    replies = ("A", "red", "A. red", "B", "blue", "B. blue")
    assert client.asked[1:] == [[*before, *client.collator.reply_ids(reply)] for reply in replies]
    assert {ids[-1] for ids in client.asked[1:]} == {client.end}


async def test_what_the_model_says_counts_for_the_option_it_names_in_whatever_case(models: EngineModels) -> None:
    models._client.text, models._client.logprob = "red", math.log(0.45)  # beside which "B" has exp(-2)
    answer, client = await ask(models, ImageQuestion("colour?", ("RED", "Blue")), 1)
    assert (answer.reply.text, answer.own) == ("RED", False)
    assert math.exp(answer.reply.logprob) == pytest.approx(0.45 / (0.45 + math.exp(-2)), abs=0.01)
    before = client.collator.prompt_ids(prompt(models._processor, "colour?\nA. RED\nB. Blue"))
    replies = ("A", "RED", "red", "A. RED", "B", "Blue", "blue", "B. Blue")
    assert client.asked[1:] == [[*before, *client.collator.reply_ids(reply)] for reply in replies]


async def test_the_models_own_mark_of_an_image_is_refused_where_it_stands(models: EngineModels) -> None:
    mark = models._collator.chat.placeholder
    for question, param in ((ImageQuestion(f"a {mark}"), "question"), (ImageQuestion("a", (mark, "b")), "options")):
        with pytest.raises(ApiError) as refused:
            await ask(models, question, 0)
        assert (refused.value.code, refused.value.param) == ("placeholder", param)


async def test_the_end_of_a_reply_begins_no_other_answer(models: EngineModels) -> None:
    _, client = await ask(models, ImageQuestion("dark?"), 3)
    before = client.collator.prompt_ids(prompt(models._processor, "dark?"))
    assert client.asked[1:] == [[*before, client.word("yes")]]


async def test_the_same_answer_in_other_letters_is_no_alternative(models: EngineModels) -> None:
    models._client.text, models._client.others = "x", {"X": -2.0, "z": -3.0}  # letters are one token everywhere
    answer, _ = await ask(models, ImageQuestion("dark?"), 5)
    assert answer.reply.text == "x"
    assert [other.text for other in answer.alternatives] == ["z"]
