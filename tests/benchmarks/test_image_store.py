"""The images benchmark asks all layouts for the same rows and counts what they read."""

from pathlib import Path

from benchmarks import image_store
from benchmarks.image_store import ARMS, Place


def test_every_layout_reads_the_same_rows_on_a_disk(tmp_path: Path) -> None:
    place = Place(str(tmp_path), image_store.forget, image_store.kernel)
    found = image_store.measure(place, count=150, size=20_000, ids=2000, rounds=2)
    assert found.keys() == ARMS.keys()
    for numbers in found.values():
        assert min(numbers[key] for key in ("ms_per_row_64", "ms_one_row", "open_s_per_million")) > 0
    # all 150 rows are in three groups of 64, of which every one is read for 64 random rows
    assert found["lance"]["bytes_read_per_byte"] < 1.3 < 2 < found["parquet"]["bytes_read_per_byte"]


def test_the_table_has_a_line_for_each_layout() -> None:
    keys = ("ms_per_row_64", "ms_one_row", "open_s_per_million", "bytes_read_per_byte", "write_s")
    lines = image_store.markdown(
        {"disk": {"lance": dict.fromkeys(keys, 1.0), "parquet": dict.fromkeys(keys, 2.5)}}
    ).splitlines()
    assert lines[2:] == [
        "| disk | lance | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |",
        "| disk | parquet | 2.50 | 2.50 | 2.50 | 2.50 | 2.50 |",
    ]
