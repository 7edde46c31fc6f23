"""vLLM's arguments, without vLLM: what steps and servers tell it, and what it says in the words of the configuration."""

import pytest

from leaml.config import EngineConfig, ModelConfig, ResourcesConfig
from leaml.engine import failures
from leaml.engine.arguments import arguments, known_options, refuse_unknown, with_options
from leaml.errors import ConfigError
from pipelines.models import engine_spec
from serve.deploy import engine_arguments
from serve.settings import load_settings

TOLD = EngineConfig(
    max_model_len=4096, sequences=16, memory_share=0.7, quantization="fp8", processor_cache_gb=2, options={"block_size": 32}
)


def test_every_key_reaches_vllm_from_steps_and_servers_alike() -> None:
    expected = {
        "max_model_len": 4096,
        "max_num_seqs": 16,
        "gpu_memory_utilization": 0.7,
        "quantization": "fp8",
        "mm_processor_cache_gb": 2,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
    }
    assert expected.items() <= arguments(TOLD, 2).items()
    assert engine_spec(ModelConfig(), ResourcesConfig(), TOLD).engine is TOLD
    settings = load_settings({"model": "leaml-tiny", "engine": {**TOLD.model_dump(), "gpus": 2}})
    served = engine_arguments(settings, ModelConfig(), adapters_too=False)
    assert (expected | {"block_size": 32, "tensor_parallel_size": 2}).items() <= served.items()


def test_defaults_start_on_a_gpu_a_part_of_one_and_a_cpu() -> None:
    whole, part, none = (arguments(EngineConfig(), gpus) for gpus in (1, 0.5, 0))
    assert (whole["max_num_seqs"], whole["tensor_parallel_size"]) == (128, 1)
    assert not {"max_model_len", "quantization", "gpu_memory_utilization", "mm_processor_cache_gb"} & whole.keys()
    assert part["gpu_memory_utilization"] == 0.45
    assert (none["enforce_eager"], none["mm_processor_cache_gb"]) == (True, 0.5)
    assert all(made["limit_mm_per_prompt"] == {"image": 1, "video": 0} for made in (whole, part, none))


def test_options_win_and_mappings_are_put_together() -> None:
    found = with_options({"seed": 0, "limits": {"image": 1, "video": 0}}, {"seed": 3, "limits": {"video": 2}, "more": [1]})
    assert found == {"seed": 3, "limits": {"image": 1, "video": 2}, "more": [1]}


def test_an_option_that_vllm_does_not_have_is_refused_with_its_key_and_near_names() -> None:
    assert {"kv_cache_dtype", "hf_overrides", "max_model_len"} <= known_options()
    refuse_unknown({"kv_cache_dtype": "fp8"}, "engine")
    with pytest.raises(ConfigError, match=r"^caption.engine.options.kv_cache_type: .*did you mean 'kv_cache_dtype'"):
        refuse_unknown({"kv_cache_type": "fp8"}, "caption.engine")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "To serve at least one request with the model's max seq len (128000), 9.1 GiB\n KV cache is needed. Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len` when",
            "Try increasing `caption.engine.memory_share` or decreasing `caption.engine.max_model_len` when",
        ),
        ("User-specified max_model_len (9000) is greater", "User-specified caption.engine.max_model_len (9000) is greater"),
    ],
)
def test_a_refused_start_is_told_with_our_keys(said: str, words: str) -> None:
    assert words in failures.named(said, "caption.engine")


def test_a_request_that_is_too_long_names_the_key() -> None:
    error = ValueError("This model's maximum context length is 512 tokens. However, your prompt contains 600 input tokens.")
    assert failures.refusal(error, "engine").endswith("(or raise engine.max_model_len, up to what the model takes)")
    assert "max_model_len" not in failures.refusal(ValueError("At most 1 image(s) may be provided"), "engine")
