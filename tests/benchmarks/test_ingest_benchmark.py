"""The benchmark of ingest runs through and says the figures of every arm."""

from __future__ import annotations

from pathlib import Path

from benchmarks import ingest


def test_every_arm_has_its_rate_and_its_ratio(tmp_path: Path, ray_local: None) -> None:
    ingest.photographs(tmp_path / "frames", 12, 64)
    found = ingest.measure(tmp_path, 12, [1], rounds=1)
    assert list(found) == [f"{arm}, copy: {copy}" for copy in ("true", "false") for arm in ("one process", "1 worker")]
    assert all(figures["images_per_s"] > 0 for figures in found.values())
    assert found["one process, copy: true"]["times_one_process"] == 1
