"""A shard of captions from a server that refuses, hangs up and says nothing of use: what it costs, in images and in tokens."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripted import MAX_PIXELS, images_table, published
from teacher_server import HANG_UP, completion, refusal, serving

from leaml.config import CaptionConfig, ClientConfig
from leaml.engine.spec import EngineSpec
from pipelines.caption import CaptionWork
from pipelines.shard import load, make_shards
from pipelines.shards import EngineActor, describe


def test_a_teacher_that_stumbles_loses_and_doubles_no_image_and_its_tokens_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 images six each are first answered 429, 503, by a hang-up and well; one then says null, one is refused for good."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.05)
    refs = images_table(tmp_path / "images", 24)
    (shard,) = make_shards("caption", refs, {}, 24)
    stumbles = [refusal(429, "slow down", **{"Retry-After": "0.05"}), refusal(503, "loading"), HANG_UP, None]
    numbers: dict[str, int] = {}

    def reply(body: dict[str, Any], tries: int) -> Any:
        image = body["messages"][0]["content"][0]["image_url"]["url"]
        with teacher.lock:
            number = numbers.setdefault(image, len(numbers))
        if tries == 1 and (first := stumbles[number % 4]):
            return first
        if number == 3:
            return refusal(400, "this image cannot be read")
        status, headers, data = completion(None if number == 7 else "A square.")
        told = json.loads(data) | {"usage": {"prompt_tokens": 100, "completion_tokens": 5}}
        return status, headers, json.dumps(told).encode()

    with serving(reply) as teacher:
        spec = EngineSpec("teacher", url=teacher.url, client=ClientConfig(retries=2, concurrency=4))
        result = EngineActor(spec, CaptionWork(CaptionConfig()), str(tmp_path / "out"), MAX_PIXELS)(load(shard))
    assert not result["error"]
    assert Counter(teacher.tries.values()) == {2: 18, 1: 6}
    counts = json.loads(result["counts"])
    assert (counts["images"], counts["quarantined"]) == (22, 2)
    assert published(tmp_path / "out") == Counter(refs.ids.to_pylist())
    assert {name for name in counts if name.startswith("quarantined: ")} == {"quarantined: empty reply", "quarantined: server"}
    assert (counts["prompt_tokens"], counts["tokens"]) == (23 * 100, 23 * 5)  # of the null reply too: it is paid for
    assert "115 tokens, 2300 tokens of requests" in describe(counts)
