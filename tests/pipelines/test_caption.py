"""The caption step without Ray: replies that are none, kills while a URL is asked, captions that images come with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import MAX_PIXELS, images_table, published, shard_rows
from teacher_server import completion, refusal, serving

from leaml.config import CaptionConfig, ClientConfig, Config, parse
from leaml.engine.interface import Completion, Request
from leaml.engine.spec import EngineSpec
from leaml.errors import StepError
from leaml.io import files
from pipelines import kept, quarantine
from pipelines.caption import CaptionWork
from pipelines.rehearsal import rehearse
from pipelines.shard import load, make_shards
from pipelines.shards import EngineActor, Item, _remaining, describe

PICTURE = Image.new("RGB", (8, 8))


class Says:
    """A teacher in this process."""

    def __init__(self, *completions: Completion) -> None:
        self.completions = completions

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        return [[c] for c in self.completions]


def test_only_captions_become_rows_and_the_others_say_why() -> None:
    teacher = Says(
        Completion("A red ball.", -0.1, "stop", 4),
        Completion("A red ball. It lies on the", -0.2, "length", 7),
        Completion("A red ball on the", -0.2, "length", 5),
        Completion("<think>Okay, the user wants", float("nan"), "length", 6),
        Completion("None", float("nan"), "stop", 1),
        Completion("", float("nan"), "error", 0, "server: 503: overloaded"),
        Completion("A blue ball.", float("nan"), "stop", 4),
    )
    items = [Item(name, PICTURE, None) for name in "abcdefg"]
    rows, counts = CaptionWork(CaptionConfig())(teacher, items)
    assert [r["image_id"] for r in rows] == list("abcdefg")
    made = {r["image_id"]: (r["caption"], r["finish_reason"], r["mean_logprob"]) for r in rows if "caption" in r}
    assert made == {
        "a": ("A red ball.", "stop", -0.1),
        "b": ("A red ball.", "length", -0.2),
        "g": ("A blue ball.", "stop", None),
    }
    assert {r["image_id"]: r[quarantine.REASON].partition(":")[0] for r in rows if "caption" not in r} == {
        "c": "cut at the token limit before the end of its first sentence",
        "d": "a thought without an answer",
        "e": "no description",
        "f": "server",
    }
    assert counts == {"tokens": 27, "replies cut at the token limit": 3, "captions cut back to whole sentences": 1}
    assert "1 captions cut back to whole sentences" in describe(dict(counts))
    assert "3 replies cut at the token limit" in describe(dict(counts))


@pytest.mark.parametrize(("same", "others", "counted"), [(8, 24, True), (7, 3, False), (8, 40, False), (40, 0, True)])
def test_3_a_caption_that_many_images_of_a_shard_have_is_counted(same: int, others: int, counted: bool) -> None:
    """It may be a refusal in words that nobody has thought of."""
    texts = ["Nope, not today, friend."] * same + [f"A ball with the number {n}." for n in range(others)]
    items = [Item(f"i{n}", PICTURE, None) for n in range(len(texts))]
    rows, counts = CaptionWork(CaptionConfig())(Says(*(Completion(text, -0.1, "stop", 4) for text in texts)), items)
    assert len(rows) == len(texts)
    key = "images of a shard with the one caption 'Nope, not today, friend.'"
    assert {name: n for name, n in counts.items() if "one caption" in name} == ({key: same} if counted else {})


def actor(url: str, output: Path, known: Any = None, **client: Any) -> EngineActor:
    spec = EngineSpec("teacher", url=url, client=ClientConfig(**{"retries": 0, "concurrency": 4} | client))
    return EngineActor(spec, CaptionWork(CaptionConfig()), str(output), MAX_PIXELS, known)


def test_null_replies_behind_a_url_are_quarantined_and_the_step_stops_above_the_share(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 12)
    (shard,) = make_shards("caption", refs, {}, 12)
    null = completion(None, "length", reasoning="Okay, the user wants")
    with serving(lambda body, tries: null if len(teacher.tries) <= 3 else completion("A square.")) as teacher:
        result = actor(teacher.url, tmp_path / "out", concurrency=1)(load(shard))
    assert not result["error"]
    counts = json.loads(result["counts"])
    assert (counts["images"], counts["quarantined"], counts["quarantined: a thought without an answer"]) == (9, 3, 3)
    rows = shard_rows(tmp_path / "out")
    assert {r["caption"] for r in rows} == {"A square."}
    assert published(tmp_path / "out") == Counter(refs.ids.to_pylist())
    quarantine.check("caption", counts, 12, 12, 0.25, "out")
    with pytest.raises(StepError, match=r"3 of 12 images got no result, more than 5% \(data.max_quarantined\): 3 a thought"):
        quarantine.check("caption", counts, 12, 12, 0.05, "out")


def test_a_teacher_that_gives_nothing_ends_the_step_long_before_the_share_of_all_images() -> None:
    quarantine.check("caption", {"quarantined": 63}, 63, 10**6, 0.05, "out")
    quarantine.check("caption", {"quarantined": 100}, 10_000, 10**6, 0.05, "out")
    with pytest.raises(StepError, match="64 of 100 images got no result, more than half of those so far"):
        quarantine.check("caption", {"quarantined": 64}, 100, 10**6, 0.05, "out")
    quarantine.check("caption", {"quarantined": 64}, 100, 10**6, 1.0, "out")  # it is allowed


def test_a_wrong_key_ends_the_step_and_keeps_what_was_answered(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 6)
    (shard,) = make_shards("caption", refs, {}, 6)
    with serving(
        lambda body, tries: completion("A square.") if len(teacher.tries) <= 2 else refusal(401, "expired")
    ) as teacher:
        kind, message = actor(teacher.url, tmp_path / "out", concurrency=1)(load(shard))["error"]
    assert (kind, "answered 401" in message, "OPENAI_API_KEY" in message) == ("StepError", True, True)
    assert not published(tmp_path / "out")  # no image is to blame
    assert len(kept.read(str(tmp_path / "out"))) == 2


DRIVER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from leaml.data import store
from pipelines.shard import load, make_shards
from test_caption import actor
for shard in make_shards("caption", store.index({images!r}), {{}}, 40):
    actor({url!r}, Path({out!r}))(load(shard))
"""


@pytest.mark.parametrize("size", [40, 15])
def test_replies_that_were_paid_for_survive_a_kill(tmp_path: Path, size: int) -> None:
    """Killed in its only shard; the next run, perhaps with smaller shards, asks for what had not come."""
    count, concurrency, killed_after = 40, 4, 21
    images, out = tmp_path / "images", tmp_path / "out"
    refs = images_table(images, count)
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    with serving(lambda body, tries: completion("A square."), 0.2) as teacher:
        code = DRIVER.format(path=path, images=str(images), out=str(out), url=teacher.url)
        process = subprocess.Popen([sys.executable, "-c", code])
        while len(teacher.bodies) < killed_after:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not published(out)
        before = len(teacher.bodies)
        assert before < count
        known = kept.read(str(out))
        assert len(known) >= before - 2 * concurrency  # all but those under way, and those just come
        for shard in make_shards("caption", refs, {}, size):
            assert not actor(teacher.url, out, known)(load(shard))["error"]
        assert len(teacher.bodies) == before + count - len(known)
    assert published(out) == Counter(refs.ids.to_pylist())
    assert len(shard_rows(out)) == count


def test_a_server_that_failed_is_asked_again_and_replies_are_removed_with_their_shard(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 4)
    (shard,) = make_shards("caption", refs, {}, 4)
    with serving(lambda body, tries: refusal(500, "oh") if len(teacher.tries) == 1 else completion("A square.")) as teacher:
        engine = actor(teacher.url, tmp_path / "out", concurrency=1).engine
        asked = [Request(Image.new("RGB", (8, 8), (n, 0, 0)), f"id{n}", "?") for n in range(4)]
        first = kept.KeptReplies(engine, str(tmp_path / "out" / kept.FOLDER / "u"), {}).generate(asked)  # type: ignore[arg-type]
        assert sum(c.failed for (c,) in first) == 1
        known = kept.read(str(tmp_path / "out"))
        assert len(known) == 3
        again = kept.KeptReplies(engine, str(tmp_path / "out" / kept.FOLDER / "v"), known).generate(asked)  # type: ignore[arg-type]
        assert [c.text for (c,) in again] == ["A square."] * 4
        assert len(teacher.bodies) == 5
        assert not actor(teacher.url, tmp_path / "out")(load(shard))["error"]
    assert not files.exists(str(tmp_path / "out" / kept.FOLDER / shard["shard"]))


@pytest.mark.parametrize("killed", [None, "rows", "counts"])
def test_quarantined_images_are_done_again_by_a_step_that_would_stop_for_them(
    tmp_path: Path, killed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, refs = tmp_path / "out", images_table(tmp_path / "images", 9)
    shards = make_shards("caption", refs, {}, 3)
    ids = refs.ids.to_pylist()

    def work(good: bool) -> None:
        def generate(requests: list[Request]) -> list[list[Completion]]:
            bad = {ids[0], *ids[3:6]}
            return [[Completion("A square." if good or r.image_id not in bad else "", 0.0, "stop", 3)] for r in requests]

        for shard in _remaining(shards, str(output)):
            one = actor("http://127.0.0.1:9/v1", output)
            one.engine, one.known = type("Scripted", (), {"generate": staticmethod(generate)})(), None
            assert not one(load(shard))["error"]

    work(good=False)
    assert quarantine.settle(str(output), 4)["quarantined"] == 4
    work(good=True)  # within the limit they stay
    assert len(shard_rows(output)) == 5
    if killed:
        delete = files.delete_tree

        def dies(uri: str) -> None:
            if f"/{killed}/" in uri:
                raise KeyboardInterrupt
            delete(uri)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files, "delete_tree", dies)
            quarantine.settle(str(output), 3)
    limit = 100 if killed else 3  # what was begun is finished, whatever the limit is now
    quarantine.settle(str(output), limit)
    assert max(published(output).values()) == 1
    quarantine.settle(str(output), 0)
    assert len(published(output)) == 5
    assert max(published(output).values()) == 1
    work(good=True)
    assert published(output) == Counter(ids)
    assert sorted(row["image_id"] for row in shard_rows(output)) == sorted(ids)


def dataset(folder: Path, **section: Any) -> Config:
    for n in range(6):
        path = folder / "frames" / ("a" if n < 3 else "b") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (40 * n, 9, 90)).save(path)
    Image.new("RGB", (40, 40), (3, 3, 3)).save(folder / "test.png")
    for name, image in (("train", "frames/a/0.png"), ("test", "test.png")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"image": image, "question": "what?", "answer": "red"}))
    data = {
        "labeled": {"format": "jsonl", "path": str(folder / "train.jsonl")},
        "unlabeled": {"format": "folder", "path": str(folder / "frames")},
        "evaluation": {"format": "jsonl", "path": str(folder / "test.jsonl")},
    }
    return parse({"storage": str(folder / "runs"), "data": data, "caption": section})


def test_patience_is_no_setting_of_the_captions_and_the_image_format_is(tmp_path: Path) -> None:
    def address(**client: Any) -> str:
        rehearsal, _, _ = rehearse(dataset(tmp_path, url="http://127.0.0.1:9/v1", client=client))
        return next(p.step.hash for p in rehearsal.planned.values() if p.step.name == "caption")

    same = {address(), address(concurrency=3), address(timeout=9), address(retries=0)}
    assert len(same) == 1
    assert address(image_format="jpeg") not in same
