"""The scoring benchmark compares like with like, on a few rows of the shipped model."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks import scoring_cost


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the benchmark runs; operations this small wait for a second thread longer than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_kind_is_measured_and_both_ways_of_scoring_agree() -> None:
    setting = scoring_cost.tiny(rows=4, batch_size=2)
    found, naive = scoring_cost.scoring(setting), scoring_cost.one_by_one(setting)
    for name, expected in naive.items():
        torch.testing.assert_close(found[name] * len(setting.batches), expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    result = scoring_cost.measure(setting, rounds=2)
    assert (result["rows"], result["batch_size"]) == (4, 2)
    assert result["ratio"].keys() == scoring_cost.KINDS.keys()
    assert all(low <= result["ratio"][kind] <= high for kind, (low, high) in result["range"].items())
    assert min(result["ratio"].values()) > 0
