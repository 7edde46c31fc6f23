"""vLLM's engine: the keys that both the steps of a run and `leaml serve` tell it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from leaml.config.base import Section

OF_VLLM = {
    "max_model_len": "max_model_len",
    "max_num_seqs": "sequences",
    "gpu_memory_utilization": "memory_share",
    "quantization": "quantization",
    "mm_processor_cache_gb": "processor_cache_gb",
}
"""What vLLM calls the keys of `EngineConfig`, each of which is set in one place."""

SPEED_ONLY = {"sequences", "memory_share", "processor_cache_gb"}
"""Keys of `EngineConfig` that change no reply."""


class EngineConfig(Section):
    """vLLM's engine. How large images are shown is a setting of the model (`model.max_image_pixels`, `model.image_tiles`)."""

    max_model_len: int | None = Field(
        None,
        gt=0,
        description="Context length: longest prompt with its image and reply, in tokens. None: of a model that takes more than "
        "8,192, what the largest image, the longest prompt and the longest reply of the step need; else what the model takes.",
    )
    sequences: int = Field(
        128,
        gt=0,
        description="Sequences it works on at a time (vLLM's max_num_seqs); shards should hold as many images.",
    )
    memory_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of a GPU's memory for weights, activations and cache (vLLM's gpu_memory_utilization); none: vLLM's, "
        "or 0.9 of the GPU's fraction that an engine has.",
    )
    quantization: str | None = Field(
        None,
        min_length=1,
        description="How vLLM quantises the weights while it loads them, such as fp8 or bitsandbytes; none: as the checkpoint "
        "says.",
    )
    processor_cache_gb: float | None = Field(
        None,
        ge=0,
        description="GB of processed images that are kept for later requests about them (vLLM's mm_processor_cache_gb), best "
        "those of all shards under way; an image of a megapixel takes 0.02. None: 4 with a GPU, 0.5 without.",
    )
    options: dict[str, object] = Field(
        default_factory=dict,
        description="Further arguments of vLLM's engine by its own names (EngineArgs), such as {kv_cache_dtype: fp8}; they "
        "override what LEAML tells it, mappings key by key.",
    )

    @field_validator("options")
    @classmethod
    def _have_no_key_here(cls, value: dict[str, object]) -> dict[str, object]:
        for name, key in OF_VLLM.items():
            if name in value:
                msg = f"{name} is set by the key {key} of this section; set that instead"
                raise ValueError(msg)
        return value

    def identity(self) -> dict[str, object]:
        """The keys that may change replies, as far as they are set; the others change memory and time."""
        given = {key: value for key, value in self.model_dump(exclude=SPEED_ONLY).items() if value}
        return {"engine": given} if given else {}


class TeacherEngineConfig(EngineConfig):
    """What the teacher's engine is told in place of `engine`; none: the same."""

    sequences: int | None = Field(  # type: ignore[assignment]
        None, gt=0, description="Sequences it works on at a time; none: engine.sequences."
    )

    def over(self, engine: EngineConfig) -> EngineConfig:
        """`engine` with the keys that are set here; options one by one."""
        given: dict[str, Any] = {key: value for key, value in self if value is not None and key != "options"}
        return engine.model_copy(update={**given, "options": {**engine.options, **self.options}})
