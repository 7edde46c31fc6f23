"""Video frames and the SPORTU clips, on small real videos."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.readers.sportu import shuffled
from leaml.data.records import Record, hash_split
from leaml.data.registry import read
from leaml.errors import DataError

RATE = 10


def movie(path: Path, frames: int = 30) -> str:
    """Frame n has grey level 8 * n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * n, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def records(**source: Any) -> list[Record]:
    return list(read(SourceConfig(**source)))


def level(record: Record) -> int:
    """Number of the frame, from its grey level."""
    assert record.data is not None
    image = Image.open(io.BytesIO(record.data))
    assert image.format == "PNG"
    return round(image.getpixel((16, 16))[0] / 8)


def test_frames_are_taken_at_the_asked_rate(tmp_path: Path) -> None:
    path = movie(tmp_path / "a.mp4")
    found = records(format="video", path=path, fps=2)
    assert [r.uri for r in found] == [f"{path}#t={t:.3f}" for t in (0, 0.5, 1, 1.5, 2, 2.5)]
    assert [level(r) for r in found] == [0, 5, 10, 15, 20, 25]
    assert len(records(format="video", path=path, fps=1000)) == 30  # never more than the video has
    assert [level(r) for r in records(format="video", path=path, fps=0.4)] == [0, 25]


def test_folder_of_videos_with_limit_and_a_broken_one(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4")
    movie(tmp_path / "sub" / "b.mkv")
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "notes.txt").write_bytes(b"x")
    found = records(format="video", path=str(tmp_path))
    assert [r.uri.removeprefix(f"{tmp_path}/") for r in found if r.error is None] == [
        *("a.mp4#t=0.000", "a.mp4#t=1.000", "a.mp4#t=2.000"),
        *("sub/b.mkv#t=0.000", "sub/b.mkv#t=1.000", "sub/b.mkv#t=2.000"),
    ]
    (broken,) = [r for r in found if r.error is not None]
    assert broken.uri == f"{tmp_path}/broken.mp4"
    assert "cannot decode the video" in str(broken.error)
    assert len(records(format="video", path=str(tmp_path), limit=4)) == 4


def test_a_playlist_named_mp4_cannot_reach_other_files(tmp_path: Path) -> None:
    movie(tmp_path / "other.mkv")
    (tmp_path / "trap.mp4").write_text("ffconcat version 1.0\nfile 'other.mkv'\n")  # FFmpeg alone would play other.mkv
    (trap,) = records(format="video", path=str(tmp_path / "trap.mp4"))
    assert trap.data is None
    assert "cannot decode the video" in str(trap.error)


def entry(name: str, question: str, answer: str, level: str = "hard", **more: Any) -> dict[str, Any]:
    options = {"A": "foul", "B": "offside", "C": "handball", "D": "none of the above"}
    return {"id": name, "question": question, "options": options, "answer": answer, "difficulty level": level, **more}


def test_sportu_joins_questions_of_a_clip_and_takes_its_middle_frame(tmp_path: Path) -> None:
    movie(tmp_path / "videos" / "soccer" / "soccer_12.mp4", 21)
    movie(tmp_path / "videos" / "named.mp4", 11)
    rows = [
        entry("soccer_12_1", "What kind of violation?", "D"),
        entry("soccer_12_2", "Is there one?", "A", "medium"),
        entry("hockey_3", "What?", "B", video="named.mp4"),
        entry("american_football_7_1", "What?", "C"),
        {"id": "soccer_12_3", "question": "Explain.", "answer": "A defender ...", "difficulty level": "hard"},
        entry("golf_1", "What?", "A", video="../../x.mp4"),
    ]
    (tmp_path / "mcq.json").write_text(json.dumps(rows))
    found = records(format="sportu", path=str(tmp_path / "mcq.json"), images=str(tmp_path / "videos"))
    soccer, hockey, football, golf = found
    assert [q.question for q in soccer.questions] == ["What kind of violation?", "Is there one?", "Explain."]
    assert [q.question_type for q in soccer.questions] == ["hard", "medium", "hard"]
    assert (level(soccer), level(hockey)) == (10, 5)
    assert soccer.questions[2].options is None
    for question, text in zip(soccer.questions[:2], ("none of the above", "foul"), strict=True):
        assert question.options is not None
        assert question.options["ABCD".index(question.answer)] == text
    assert football.uri.endswith("videos/american_football_7.mp4#t=middle")
    assert "does not exist" in str(football.error)
    assert "outside of the folder" in str(golf.error)
    assert [r.split for r in found[:3]] == [hash_split(n) for n in ("soccer_12", "hockey_3", "american_football_7")]
    both = [records(format="sportu", path=str(tmp_path / "mcq.json"), images=str(tmp_path / "videos"), split=s)
            for s in ("train", "test") if s in {r.split for r in found}]  # fmt: skip
    assert sorted(r.uri for part in both for r in part) == sorted(r.uri for r in found)


def test_sportu_takes_no_clip_for_another(tmp_path: Path) -> None:
    movie(tmp_path / "one" / "soccer_1.mp4", 5)
    movie(tmp_path / "two" / "soccer_1.mp4", 9)
    movie(tmp_path / "two" / "soccer_2.mp4", 9)
    rows = [
        *(
            entry("soccer_1_1", "q0", "A"),
            entry("soccer_2_1", "q1", "A", video="two/soccer_2.mp4"),
            entry("soccer_2_2", "q2", "A"),
        ),
        entry("soccer_2_3", "q3", "A", video="one/soccer_1.mp4"),
    ]
    (tmp_path / "mcq.json").write_text(json.dumps(rows))
    first, second = records(format="sportu", path=str(tmp_path / "mcq.json"))
    assert f"{tmp_path}/one/soccer_1.mp4 and {tmp_path}/two/soccer_1.mp4 have the same name" in str(first.error)
    assert [q.question for q in second.questions] == ["q1", "q2"]
    (row,) = second.refused
    assert row.where == f"{tmp_path}/mcq.json, entry 3"
    assert "'one/soccer_1.mp4', and an entry of the same clip before it names 'two/soccer_2.mp4'" in row.detail


def test_sportu_shuffle_removes_the_letter_bias_and_is_fixed() -> None:
    options = {"A": "a", "B": "b", "C": "c", "D": "none of the above"}
    letters = [shuffled(f"q{n}", options, "D")[1] for n in range(2000)]
    assert all(400 < letters.count(letter) < 600 for letter in "ABCD")
    assert shuffled("q1", options, "D") == shuffled("q1", dict(reversed(options.items())), "D")
    texts, answer = shuffled("several", options, "A, C")
    assert {texts["ABCD".index(letter)] for letter in answer} == {"a", "c"}


def test_sportu_faults_name_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "mcq.json"
    path.write_text(json.dumps([entry("soccer_1", "q", "E")]))
    (found,) = records(format="sportu", path=str(path))
    assert found.questions == ()
    shown = str(found.refused[0])
    assert shown.startswith(f"{path}, entry 0: answer outside its options: 'E' names none of the 4 options")
    path.write_text(json.dumps([{"question": "q", "answer": "a"}]))
    with pytest.raises(DataError, match="needs the text id"):
        records(format="sportu", path=str(path))
