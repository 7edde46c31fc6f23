"""vLLM's own engine: n samples on one prefill, cumulative log-probabilities, many requests in flight."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leaml.config import ModelConfig
from leaml.engine import context, failures, lifetime
from leaml.engine.arguments import arguments, refuse_unknown, with_options
from leaml.engine.driver import Driver
from leaml.engine.interface import Completion, EngineParameters, Request
from leaml.engine.source import source_of
from leaml.errors import DataError, ModelError
from leaml.imports import uncollected
from leaml.text import replies

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.outputs import CompletionOutput

    from leaml.engine.driver import Output, Prompt

ON_CPU = {"TORCH_COMPILE_DISABLE": "1"}
"""Environment of an engine on a CPU. Told to compile nothing, vLLM still compiles a function of its sampler, a comparison and a
sum: 1.5 of 15 s of processor time at each start, 13 of 27 at the first on a machine, and a C++ compiler is needed."""


class VllmEngine:
    """vLLM, with its core in this process or in one of its own.

    Raises ModelError when vLLM cannot serve the model, and ConfigError for an option that it does not have.

    Several threads may call `generate`: their requests share the batches, so that the engine stays full while one caller's
    last replies are finished and another's first are prepared.
    """

    def __init__(self, spec: EngineParameters) -> None:
        refuse_unknown(spec.engine.options, spec.key)
        _quiet_environment(spec)
        with uncollected():
            from vllm import LLM  # import sets up platform and threads, so it comes after the environment

            from leaml.vlm import image_size
            from leaml.vlm.collate import Collator, prompt
            from leaml.vlm.shrink import shrink_of

        self._prompt, self._key = prompt, spec.key
        model = ModelConfig(name=spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
        options = arguments(spec.engine, spec.gpus)
        options |= {"revision": spec.revision, "dtype": spec.dtype, "trust_remote_code": spec.trust_remote_code}
        last_words = lifetime.listen() if spec.separate_process else lambda: ""
        try:
            options["model"], self.processor = source_of(model)
            options |= image_size.engine_options(image_size.limit(self.processor, spec, spec.model))
            options = with_options(options, spec.engine.options)
            self._collator = Collator(self.processor)
            if "max_model_len" not in options and spec.longest:
                chat = len(self._collator.prompt_ids(prompt(self.processor, "", "")))
                if length := context.needed(model, options, spec.longest, chat):
                    options["max_model_len"] = length
            self._shrink = shrink_of(self.processor, spec.engine.options.get("mm_processor_kwargs"))
            places, threads = int(options["max_num_seqs"]), max(1, int(spec.cpus))
            self._driver = Driver(lambda: LLM(**options), last_words, self._shrink, threads, places)
        except (ValueError, RuntimeError, OSError) as error:
            said = failures.named(f"{error}; {words}" if (words := last_words()) else str(error), spec.key)
            msg = f"vLLM cannot serve {spec.model!r}: {said}; is it an image-text-to-text model of a supported architecture?"
            raise ModelError(msg) from error
        self._let_die = lifetime.die_with_children() if spec.separate_process else None

    @property
    def full_seconds(self) -> float:
        """Seconds in which it had no place free."""
        return self._driver.full_seconds

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        """As Engine.generate. A request that the model cannot be asked has an `error`; the others are answered.

        Raises:
            EngineDiedError: The engine can be asked no more.
        """
        prompts: list[Prompt] = []
        sampling: list[SamplingParams] = []
        errors: list[str] = []

        for r in requests:
            try:
                text = self._prompt(self.processor, r.text, r.prefix)
                reply = [] if r.reply is None else self._collator.reply_ids(r.reply, r.prefix, r.text)
                errors.append("")
            except DataError as error:
                errors.append(str(error))
                continue

            image, ids = {"image": r.image}, {"image": [r.image_id]}
            if reply:
                tokens = [*self._collator.prompt_ids(text), *reply]
                prompts.append({"prompt_token_ids": tokens, "multi_modal_data": image, "multi_modal_uuids": ids})
            else:
                prompts.append({"prompt": text, "multi_modal_data": image, "multi_modal_uuids": ids})
            sampling.append(_sampling(r, self._collator.chat.end))

        outputs = iter(self._driver.run(prompts, sampling))
        return [
            _refused(error, r.n) if error else self._completions(next(outputs), r)
            for r, error in zip(requests, errors, strict=True)
        ]

    def close(self) -> None:
        """End vLLM, with the process of its core where it has one, and free its memory.

        The next engine of this process starts with a tenth of the processor time of one that has to import vLLM. It is a new
        one and not this one with other weights: after vLLM's `reload_weights` log-probabilities differ (docs/architecture.md).
        """
        if self._let_die:
            self._let_die()
        self._driver.close()

    def _completions(self, output: Output, r: Request) -> list[Completion]:
        """Of vLLM's output, or of the reason why there is none."""
        if isinstance(output, Exception):
            return _refused(failures.refusal(output, self._key), r.n)
        if r.reply is None:
            return [_completion(sample) for sample in output.outputs]
        ids = self._collator.reply_ids(r.reply, r.prefix, r.text)
        return [Completion(r.reply, reply_logprob(output, ids) / len(ids), "given", len(ids))]


def reply_logprob(output: RequestOutput, ids: list[int]) -> float:
    """Sum of the natural-log probabilities of a reply's tokens, with which vLLM was asked for `prompt_logprobs`.

    Args:
        output: Of vLLM.
        ids: Ids of the reply with its end token, the last ones of the prompt but for what the model's processor puts behind it.

    Raises:
        ModelError: They do not stand at the end of the prompt.
    """
    shown, logprobs = list(output.prompt_token_ids or ()), output.prompt_logprobs or []
    for end in range(len(shown), max(len(ids), len(shown) - 2) - 1, -1):
        if shown[end - len(ids) : end] == ids:
            scored = zip(ids, logprobs[end - len(ids) : end], strict=True)
            return float(sum(each[token].logprob for token, each in scored if each))
    msg = "the model's processor changes the text of a reply, so that options cannot be scored; ask without options"
    raise ModelError(msg)


def _sampling(r: Request, end: int) -> SamplingParams:
    """How vLLM is to answer. A reply ends with the token that ends it in training too, which the model may not name as such."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if r.reply is not None:
        return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    return SamplingParams(
        n=r.n,
        temperature=r.temperature,
        top_p=r.top_p,
        max_tokens=r.max_tokens,
        seed=r.seed,
        logprobs=0,
        stop_token_ids=[end],
        structured_outputs=StructuredOutputsParams(regex=r.pattern) if r.pattern else None,
    )


def _refused(error: str, n: int) -> list[Completion]:
    return [Completion("", 0.0, "refused", 0, error)] * n


def _completion(sample: CompletionOutput) -> Completion:
    tokens = len(sample.token_ids)
    mean = (sample.cumulative_logprob or 0.0) / max(1, tokens)
    return Completion(sample.text.strip(), mean, replies.finish_reason(sample.finish_reason), tokens)


def _quiet_environment(spec: EngineParameters) -> None:
    """What vLLM reads at import: its core in this process or another, no telemetry, few logs, bounded CPU cache and threads."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if spec.separate_process else "0"
    if spec.separate_process:
        os.environ[lifetime.DIES] = "1"
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # compiled at the first start, with an nvcc that few machines have
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not spec.gpus:
        os.environ.update(ON_CPU | {"OMP_NUM_THREADS": str(max(1, int(spec.cpus)))})
