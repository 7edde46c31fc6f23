"""What a saved model says in vLLM, as one of our engines or behind the endpoint's routes; for benchmarks/zoo.py.

    python -m benchmarks.zoo_engines written MODEL FILE    # writes FILE: greedy replies and the probability of given ones
    python -m benchmarks.zoo_engines served RUN FILE       # writes FILE: replies of POST /v1/vqa

Each is a process of its own, since there is one engine in a process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from leaml.config import ModelConfig, ResourcesConfig
from leaml.engine.interface import Request
from leaml.engine.vllm_engine import VllmEngine, reply_logprob
from leaml.vlm.collate import IGNORED, Collator, Turn
from leaml.vlm.load import VLM
from pipelines.models import engine_spec

if TYPE_CHECKING:
    from vllm import RequestOutput

QUESTION = "What is it?"
ANSWERS = {"red": "red", "blue": "a blue circle"}
"""Of an image that is mainly of this colour."""
TOKENS = 8
"""Of a greedy reply."""


def images() -> dict[str, Image.Image]:
    """By the name of its colour; of patches that differ, since where all are alike, attention to others changes nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    patches = Image.fromarray(noise).resize((96, 64), Image.Resampling.NEAREST)
    return {name: Image.blend(Image.new("RGB", (96, 64), name), patches, 0.4) for name in ANSWERS}


@dataclass(frozen=True)
class Said:
    """Of one image: ids of the greedy reply, their natural-log probabilities, and the mean of those of the given answer."""

    ids: list[int]
    logprobs: list[float]
    answer: float

    def differs(self, other: Said) -> float:
        """Largest difference of a log-probability, of the answer its mean, in nats; infinite where the replies differ."""
        if self.ids != other.ids:
            return math.inf
        return max(abs(a - b) for a, b in zip([*self.logprobs, self.answer], [*other.logprobs, other.answer], strict=True))


class _Recorder(VllmEngine):
    """Our engine, handing over what vLLM has said as it is."""

    def _completions(self, output: Any, r: Request) -> Any:
        return output


def written(model: str) -> list[Said]:
    """What our engine makes of every image."""
    engine = _Recorder(engine_spec(ModelConfig(name=model), ResourcesConfig()))
    collator, shown = Collator(engine.processor), images()
    free = [Request(image, name, QUESTION, max_tokens=TOKENS) for name, image in shown.items()]
    given = [Request(image, name, QUESTION, reply=ANSWERS[name]) for name, image in shown.items()]
    outputs: list[RequestOutput] = engine.generate([*free, *given])  # type: ignore[assignment]
    found = []
    for name, greedy, scored in zip(shown, outputs, outputs[len(shown) :], strict=False):
        reply = greedy.outputs[0]
        each = [float((at or {})[token].logprob) for token, at in zip(reply.token_ids, reply.logprobs or (), strict=True)]
        ids = collator.reply_ids(ANSWERS[name])
        found.append(Said(list(reply.token_ids), each, reply_logprob(scored, ids) / len(ids)))
    return found


def computed(vlm: VLM, causal: bool = False) -> list[Said]:
    """The same by transformers, each token by one pass over all that is before it; `causal`: without attention both ways."""
    collator, found = Collator(vlm.processor), []
    for name, image in images().items():
        batch = collator([Turn(image, QUESTION, ANSWERS[name])])
        labels = batch.pop("labels")[0]
        start = int((labels == IGNORED).sum())
        if causal and "token_type_ids" in batch:
            batch["token_type_ids"].fill_(1 if collator.chat.plain else 0)
        answer = labels[start:].tolist()
        given = _logprobs(vlm.model, batch)[start - 1 : -1]
        after = {key: value[:, :start] if key in _OF_TOKENS else value for key, value in batch.items()}
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < TOKENS and collator.chat.end not in ids:
            best = _logprobs(vlm.model, after)[-1].max(-1)
            ids.append(int(best.indices))
            logprobs.append(float(best.values))
            after = {k: _longer(k, v, ids[-1], collator.chat.plain) if k in _OF_TOKENS else v for k, v in after.items()}
        mean = sum(float(row[token]) for row, token in zip(given, answer, strict=True)) / len(answer)
        found.append(Said(ids, logprobs, mean))
    return found


_OF_TOKENS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


def _longer(key: str, tensor: torch.Tensor, token: int, plain: bool) -> torch.Tensor:
    """A tensor of tokens with one more, which is text of a reply."""
    value = {"input_ids": token, "attention_mask": 1, "token_type_ids": int(plain)}.get(key, 0)
    return torch.cat([tensor, tensor.new_full((1, 1), value)], dim=1)


def _logprobs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(tokens, vocabulary): of the token after each."""
    with torch.no_grad():
        return model(**batch, use_cache=False).logits[0].float().log_softmax(-1)


async def served(run: str) -> list[dict[str, Any]]:
    """What `/v1/vqa` replies for a run's model, about an image with and without options: the server's own plan, arguments of
    the engine, routes and answers, without Ray around them."""
    import httpx

    from serve.app import create_app
    from serve.deploy import engine_arguments, plan
    from serve.engine import EngineModels
    from serve.settings import load_settings

    made = plan(load_settings({"model": run}))
    os.environ.update(made.environment)
    from transformers import AutoProcessor
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from leaml.vlm.shrink import shrink_of

    processor = AutoProcessor.from_pretrained(made.base.name)
    arguments: dict[str, Any] = engine_arguments(made.settings, made.base, True)  # those of AsyncEngineArgs, by name
    client = AsyncLLM.from_engine_args(AsyncEngineArgs(made.base.name, **arguments))
    engine = SimpleNamespace(_engine_client=client, _oai_models=SimpleNamespace(lora_requests={}))
    shrink = shrink_of(processor)
    models: Any = EngineModels(SimpleNamespace(engine=engine), processor, shrink)  # type: ignore[arg-type]
    models.models, models.card, models.shrink = lambda: [made.main], lambda model: made.cards[model.id], lambda _: shrink
    app = create_app(models, made.settings)
    picture = BytesIO()
    images()["red"].save(picture, "PNG")
    asked = {"image": "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode(), "question": QUESTION}
    replies = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        for more in ({}, {"options": ["red", "blue"]}):
            reply = await http.post("/v1/vqa", json=asked | more)
            replies.append({"status": reply.status_code} | reply.json())
    client.shutdown()
    return replies


def main() -> None:
    """One of the two, as the table asks for it."""
    what, source, file = sys.argv[1:]
    found = asyncio.run(served(source)) if what == "served" else [vars(said) for said in written(source)]
    Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
