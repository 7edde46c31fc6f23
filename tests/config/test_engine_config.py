"""What vLLM is told: the section `engine`, what of it the teacher has in its place, and what belongs in a step's address."""

from pathlib import Path

import pytest
import yaml

from leaml import config
from leaml.config import Config, EngineConfig, ResourcesConfig
from leaml.errors import ConfigError

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


def load(folder: Path, *overrides: str) -> Config:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({"data": DATA}))
    return config.load(file, list(overrides))


def test_the_teacher_has_the_engine_of_all_but_for_its_own_keys(tmp_path: Path) -> None:
    assert load(tmp_path).teacher_engine == load(tmp_path).engine == EngineConfig()
    found = load(
        tmp_path,
        "engine.sequences=64",
        "engine.memory_share=0.8",
        "engine.options={block_size: 32, kv_cache_dtype: fp8}",
        "caption.engine.quantization=fp8",
        "caption.engine.memory_share=0.9",
        "caption.engine.options={block_size: 16}",
    )
    options = {"block_size": 16, "kv_cache_dtype": "fp8"}
    assert found.teacher_engine == EngineConfig(sequences=64, memory_share=0.9, quantization="fp8", options=options)
    assert found.engine == EngineConfig(sequences=64, memory_share=0.8, options={"block_size": 32, "kv_cache_dtype": "fp8"})
    written = (found.engine.model_dump_json(), found.caption.engine.model_dump_json())
    again = load(tmp_path, f"engine={written[0]}", f"caption.engine={written[1]}")
    assert (again.engine, again.teacher_engine) == (found.engine, found.teacher_engine)  # as a run's config.yaml has them


def test_what_may_change_replies_is_told_from_what_changes_speed() -> None:
    assert EngineConfig(sequences=7, memory_share=0.5, processor_cache_gb=8).identity() == {}
    told = {"max_model_len": 4096, "quantization": "fp8", "options": {"kv_cache_dtype": "fp8"}}
    assert EngineConfig(**told).identity() == {"engine": told}
    assert EngineConfig(max_model_len=4096).identity() == {"engine": {"max_model_len": 4096}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("engine.options={max_num_seqs: 4}", "engine.options: max_num_seqs is set by the key sequences of this section"),
        ("caption.engine.options={gpu_memory_utilization: 0.4}", "caption.engine.options: gpu_memory_utilization is set by"),
        ("engine.gpu_memory_utilization=0.4", "did you mean 'memory_share'?"),
        ("engine.max_num_seqs=4", "did you mean 'sequences'?"),
        ("resources.engine_sequences=4", "did you mean 'engine.sequences'"),  # where it was before
        (
            "engine.memory_share=80",
            "engine.memory_share: a number above 0 and of at most 1, or null is needed (got 80); 80 % is 0.8",
        ),
    ],
)
def test_what_is_set_elsewhere_is_refused_with_the_key(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, override)
    assert words in str(caught.value)


def test_a_teacher_behind_a_url_has_no_engine(tmp_path: Path) -> None:
    assert load(tmp_path, "caption.url=http://x/v1", "engine.max_model_len=100").caption.url
    with pytest.raises(ConfigError, match=r"engine says nothing of a teacher behind url"):
        load(tmp_path, "caption.url=http://x/v1", "caption.engine.max_model_len=100")


def test_engines_of_a_run_may_be_overridden_and_nothing_else() -> None:
    run = {"resources": {"engines": 3, "engine_sequences": 9}, "engine": {"sequences": 5, "gone": 1}, "name": "mine"}
    found = config.engines_with(run, ["engine.memory_share=0.5", "resources.engine_gpus=1"])
    assert found.engine == EngineConfig(sequences=5, memory_share=0.5)
    assert found.resources == ResourcesConfig(engines=3, engine_gpus=1)
    assert config.engines_with({}).engine == EngineConfig()
    with pytest.raises(ConfigError, match=r"'model' cannot be overridden here, only resources.key=value and engine.key=value"):
        config.engines_with(run, ["model.name=x"])
    with pytest.raises(ConfigError, match=r"engine.sequences"):
        config.engines_with(run, ["engine.sequences=0"])
