"""The service on Ray's LLMServer: chat through vLLM's own OpenAI handler, answers straight from vLLM's engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from leaml.engine.vllm_engine import reply_logprob
from leaml.errors import DataError
from leaml.text.choice import Said, choose, replies, settled
from leaml.text.replies import LENGTH
from leaml.text.scoring import normalise
from leaml.vlm.shrink import Shrink
from serve import _compat
from serve.errors import ApiError, explained, refuse, stopped
from serve.media import Encoded, Picture
from serve.service import Answer, ChatBody, ChatMessage, ChatReply, ImageQuestion, Model, Reply
from serve.vqa import request_text

if TYPE_CHECKING:
    from ray.serve.llm.deployment import LLMServer
    from vllm import CompletionOutput, RequestOutput
    from vllm.inputs import TextPrompt, TokensPrompt

    from leaml.vlm.processor import Processor

T = TypeVar("T")


class EngineModels:
    """Answers and chats of one vLLM engine and the adapters in it."""

    def __init__(self, server: LLMServer, processor: Processor, shrink: Shrink) -> None:
        from leaml.vlm.collate import Collator

        self._server, self._processor, self.shrink = server, processor, shrink
        self._collator = Collator(processor)
        self._client = _compat.client_of(server)
        self._registry = _compat.registry_of(server)
        self.max_model_len = int(self._client.model_config.max_model_len)

    def unfinished(self) -> int:
        """Requests that vLLM works on or has waiting."""
        return int(self._client.get_num_unfinished_requests())

    async def add_adapter(self, name: str, folder: str) -> None:
        """Load a LoRA under this name. Raises ModelError-like ValueError with vLLM's reason."""
        result = await self._registry.load_lora_adapter(_compat.lora_request(name, folder))
        if not isinstance(result, str):
            raise ValueError(result.error.message)

    async def remove_adapter(self, name: str) -> None:
        """Forget a LoRA; requests under way end with it."""
        request = self._registry.lora_requests.pop(name, None)
        if request is not None:
            await self._client.remove_lora(request.lora_int_id)

    async def try_out(self, name: str) -> None:
        """Let a model or adapter answer once, which also warms it up. Raises ValueError if its numbers are none."""
        from PIL import Image

        grey = Picture(Encoded(b"", "trial", 64 * 64), Image.new("RGB", (64, 64), "grey"))
        (answer,) = await self.answer(
            Model(name, "", answer_tokens=2), grey, [ImageQuestion("what is it?")], 0, f"trial-{name}"
        )
        if not math.isfinite(answer.reply.logprob):
            msg = "its answers have no finite probability"
            raise ValueError(msg)

    async def chat(
        self, model: Model, body: ChatBody, pictures: list[Picture], request_id: str
    ) -> ChatReply | AsyncGenerator[str, None]:
        """As Service.chat."""
        from ray.serve.llm.openai_api_models import ChatCompletionRequest

        chat = self._collator.chat
        if any(chat.placeholder in text for message in body["messages"] for text in _texts_of(message)):
            refuse("the text holds the model's mark for an image; take it out", "placeholder", "messages")
        plain = {**body, "model": model.id, "request_id": request_id, "messages": [{"role": "user", "content": ""}]}
        try:
            request = ChatCompletionRequest.model_validate(plain)
        except ValueError:
            refuse("the request has a field or a combination of fields that the model does not take", "bad_body")
        if not request.ignore_eos:
            request.stop_token_ids = [*(request.stop_token_ids or []), chat.end]
        request.messages = [_with_images(message, pictures) for message in body["messages"]]
        with self._explaining():
            stream = await self._server.chat(request)
            begun = await anext(stream)
            first = begun[0] if isinstance(begun, list) else begun
            try:
                if isinstance(first, _compat.ErrorResponse):
                    raise explained(int(first.error.code), first.error.message, self.max_model_len)
                if isinstance(first, str):
                    self._raise_if_error(first)
            except ApiError:
                await stream.aclose()
                raise
        return self._texts(first, stream) if isinstance(first, str) else first.model_dump(mode="json")

    async def _texts(self, first: str, stream: AsyncGenerator[object, None]) -> AsyncGenerator[str, None]:
        """The events of a stream. Raises ApiError where vLLM writes an event that tells of an error."""
        try:
            yield first
            with self._explaining():
                async for items in stream:
                    for item in items if isinstance(items, list) else [items]:
                        if isinstance(item, str):
                            self._raise_if_error(item)
                            yield item
        finally:
            await stream.aclose()

    def _raise_if_error(self, event: str) -> None:
        """Raise ApiError for an event with an error, which vLLM writes in its own words."""
        if event.startswith('data: {"error"'):
            error = json.loads(event.removeprefix("data: "))["error"]
            raise explained(int(error["code"]), str(error["message"]), self.max_model_len)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Raise what vLLM raises as an ApiError, and whatever goes wrong with a dead engine as `stopped`."""
        from vllm.exceptions import VLLMClientError, VLLMServerError

        dead = _compat.engine_dead_error()
        try:
            yield
        except ApiError:
            raise
        except dead:
            raise stopped() from None
        except Exception as error:
            if self._client.errored:
                raise stopped() from None
            if isinstance(error, ValueError | VLLMClientError):
                raise explained(400, str(error), self.max_model_len) from None
            if isinstance(error, VLLMServerError):
                raise explained(500, str(error), self.max_model_len) from None
            raise

    async def answer(
        self, model: Model, picture: Picture, questions: list[ImageQuestion], alternatives: int, request_id: str
    ) -> list[Answer]:
        """As Service.answer."""
        return await together(
            [
                self._one(model, picture, question, alternatives, f"{request_id}-{number}")
                for number, question in enumerate(questions)
            ]
        )

    async def _one(self, model: Model, picture: Picture, question: ImageQuestion, alternatives: int, request_id: str) -> Answer:
        from leaml.vlm.collate import prompt

        try:
            text = prompt(self._processor, request_text(question))
        except DataError:
            at = "question" if self._collator.chat.placeholder in question.text else "options"
            refuse(f"{at!r} holds the model's mark for an image; take it out", "placeholder", at)
        free = alternatives if not question.options else 0
        found = await self._generate(model, text, picture, request_id, model.answer_tokens, logprobs=free + 1 if free else 0)
        reply = found.outputs[0]
        greedy = Said(reply.text.strip(), reply.cumulative_logprob or 0.0, ended=reply.finish_reason != LENGTH)
        used = (len(found.prompt_token_ids or ()), len(reply.token_ids))
        if question.options:
            return await self._option(model, text, picture, question, alternatives, greedy, used, request_id)
        others = await self._branches(model, text, picture, reply, alternatives, request_id) if alternatives else []
        ranked = sorted((o for o in others if normalise(o.text) != normalise(greedy.text)), key=lambda o: -o.logprob)[
            :alternatives
        ]
        return Answer(Reply(greedy.text, greedy.logprob), tuple(ranked), *used)

    async def _branches(
        self, model: Model, text: str, picture: Picture, reply: CompletionOutput, count: int, request_id: str
    ) -> list[Reply]:
        """Other answers: for each of the next most probable first tokens the greedy answer that begins with it."""
        tokenizer = self._processor.tokenizer
        prompt_ids = self._collator.prompt_ids(text)
        ends = {self._collator.chat.end, tokenizer.eos_token_id}  # Gemma 3 ends a reply with another token than a text
        first = {token: found.logprob for token, found in reply.logprobs[0].items()} if reply.logprobs else {}
        tokens = [token for token in first if token != reply.token_ids[0] and token not in ends][:count]

        async def branch(token: int) -> Reply:
            ids = f"{request_id}-{token}"
            found = await self._generate(model, [*prompt_ids, token], picture, ids, max(1, model.answer_tokens - 1))
            rest = found.outputs[0]
            words = tokenizer.decode([token, *rest.token_ids], skip_special_tokens=True).strip()
            return Reply(words, first[token] + (rest.cumulative_logprob or 0.0))

        by_text: dict[str, Reply] = {}
        for other in sorted(await together([branch(token) for token in tokens]), key=lambda o: o.logprob):
            by_text[normalise(other.text)] = other  # of equal answers the most probable
        return list(by_text.values())

    async def _option(
        self,
        model: Model,
        text: str,
        picture: Picture,
        question: ImageQuestion,
        alternatives: int,
        greedy: Said,
        used: tuple[int, int],
        request_id: str,
    ) -> Answer:
        """The most probable option and the next ones; scored where they are asked for or the reply does not settle it."""
        options = question.options
        choice = settled(greedy, options)
        if choice is None or alternatives:
            prompt_ids = self._collator.prompt_ids(text)

            async def score(reply: str, number: str) -> Said:
                ids = self._collator.reply_ids(reply)
                found = await self._generate(
                    model, [*prompt_ids, *ids], picture, f"{request_id}-{number}", 1, prompt_logprobs=0
                )
                return Said(reply, reply_logprob(found, ids), tuple(ids))

            groups = replies(options, greedy)
            scored = iter(await together([score(r, f"{i}-{k}") for i, group in enumerate(groups) for k, r in enumerate(group)]))
            choice = choose(greedy, options, [[next(scored) for _ in group] for group in groups])
        others = [Reply(options[i], each) for i, each in enumerate(choice.others) if i != choice.index]
        ranked = sorted(others, key=lambda o: -o.logprob)[:alternatives]
        return Answer(Reply(options[choice.index], choice.logprob), tuple(ranked), *used, own=choice.own)

    async def _generate(
        self,
        model: Model,
        prompt: str | list[int],
        picture: Picture,
        request_id: str,
        max_tokens: int,
        logprobs: int = 0,
        prompt_logprobs: int | None = None,
    ) -> RequestOutput:
        """vLLM's final output of one greedy request; given up by vLLM when this is cancelled."""
        from vllm import SamplingParams

        image, ids = {"image": picture.image}, {"image": [picture.image_id]}
        request: TextPrompt | TokensPrompt
        if isinstance(prompt, str):
            request = {"prompt": prompt, "multi_modal_data": image, "multi_modal_uuids": ids}
        else:
            request = {"prompt_token_ids": prompt, "multi_modal_data": image, "multi_modal_uuids": ids}
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=[self._collator.chat.end],
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        adapter = self._registry.lora_requests.get(model.id)
        final = None
        with self._explaining():
            async for output in self._client.generate(request, sampling, request_id, lora_request=adapter):
                final = output
        assert final is not None
        return final


def _texts_of(message: ChatMessage) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def _with_images(message: ChatMessage, pictures: list[Picture]) -> dict[str, object]:
    """A message with pixels instead of its images' numbers; vLLM takes them as they are and fetches nothing."""
    if isinstance(message["content"], str):
        return {**message}
    parts = [
        {"type": "image_pil", "image_pil": pictures[p["index"]].image, "uuid": pictures[p["index"]].image_id}
        if p["type"] == "image"
        else p
        for p in message["content"]
    ]
    return {"role": message["role"], "content": parts}


async def together(work: Sequence[Awaitable[T]]) -> list[T]:
    """Results of all; when one fails or this is cancelled, none of them goes on."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
