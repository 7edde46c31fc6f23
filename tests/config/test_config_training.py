"""What a training step can be told, and what of it decides its result."""

from __future__ import annotations

import re
from typing import Any

import pytest

from leaml import config
from leaml.errors import ConfigError

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup": {"method": "neurons"}}, "select comes after this step; use full or lora"),
        ({"evaluate": {"baselines": {"lora_labels": {"method": "full"}}}}, "called after its method; use lora"),
        ({"evaluate": {"baselines": {"finetune_labels": {"method": "lora"}}}}, "called after its method; use full"),
        ({"finetune": {"method": "neurons"}, "distill": {"skip": True}}, "which distill.skip leaves out"),
        ({"finetune": {"method": "neurons"}, "evaluate": {"controls": ["no_captions"]}}, "['no_captions'] select no neurons"),
        (
            {"distill": {"method": "lora"}, "evaluate": {"controls": ["all_neurons"]}},
            "['all_neurons'] select other neurons, but no training moves selected ones",
        ),
        ({"finetune": {"method": "neurons", "freeze": ["vision"]}}, "finetune.freeze says nothing where neurons are trained"),
        (
            {"finetune": {"method": "lora", "freeze": ["vision"], "lora": {"target": ["vision"]}}},
            "lora.target ['vision'] is frozen",
        ),
    ],
    ids=str,
)
def test_a_method_that_a_training_cannot_have_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config.parse({"data": DATA, **settings})


def test_what_changes_memory_alone_is_no_part_of_a_trainings_identity() -> None:
    plain = config.TrainConfig()
    memory = {"micro_batch_tokens": 100, "activation_checkpointing": True, "save_every": 7}
    assert config.TrainConfig(**memory).identity() == plain.identity()
    for other in (
        {"method": "lora"},
        {"freeze": ["vision"]},
        {"batch_size": 3},
        {"precision": "float32"},
    ):
        assert config.TrainConfig(**other).identity() != plain.identity()
    lora = config.TrainConfig(method="lora").identity()
    assert config.TrainConfig(method="lora", lora={"rank": 3}).identity() != lora
    assert config.TrainConfig(lora={"rank": 3}).identity() == plain.identity()  # nothing follows from it


def test_a_distillation_has_a_slot_for_each_kind_of_its_examples() -> None:
    """Else it would be refused after the captions and the warm-up."""
    five = "no slot for each of captions, checks, clozes, pairs, answers; raise it to 5"
    with pytest.raises(ValueError, match=five):
        config.DistillConfig(batch_size=4)
    assert config.DistillConfig(batch_size=5).batch_size == 5
    assert config.DistillConfig(batch_size=4, check_share=0).question_shares() == {"clozes": 0.5}
    assert config.DistillConfig(batch_size=1, check_share=0, cloze_share=0, qa_weight=0).batch_size == 1
    assert config.DistillConfig(batch_size=1, skip=True).skip


def test_warm_up_and_fine_tuning_have_a_slot_for_each_kind_of_their_examples() -> None:
    with pytest.raises(ValueError, match="batch_size 1 has no slot for each of pairs, answers; raise it to 2"):
        config.WarmupConfig(batch_size=1)
    with pytest.raises(ValueError, match="no slot for each of labels, pairs; raise it to 2, or set label_share to 0 or 1"):
        config.FinetuneConfig(batch_size=1)
    for share in (0, 1):
        assert config.FinetuneConfig(batch_size=1, label_share=share).batch_size == 1
