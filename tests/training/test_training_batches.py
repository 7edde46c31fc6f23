"""What a training step draws, and its learning rate: functions of seed and step alone."""

import itertools
import math
from collections import Counter

import pytest

from leaml.config import TrainConfig
from leaml.errors import ConfigError
from leaml.training.batches import Example, Task, batch_counts, draw
from leaml.training.loop import learning_rate


def task(name: str, size: int, share: float = 1.0, weight: float = 1.0) -> Task:
    return Task(name, [Example(f"{name}{n}", "q", "a") for n in range(size)], share, weight)


def test_batch_is_a_function_of_seed_and_step() -> None:
    tasks = [task("a", 7), task("b", 5, 0.5)]
    forward = [draw(tasks, 6, 3, step) for step in range(40)]
    backward = [draw([task("a", 7), task("b", 5, 0.5)], 6, 3, step) for step in reversed(range(40))]
    assert forward == backward[::-1]
    assert forward != [draw(tasks, 6, 4, step) for step in range(40)]
    assert len({tuple(e.image_id for _, e in batch) for batch in forward}) > 20


def test_every_epoch_covers_every_example_once_in_its_own_order() -> None:
    tasks = [task("a", 7), task("b", 5)]
    drawn = [pair for step in range(35) for pair in draw(tasks, 6, 0, step)]
    for number, size in ((0, 7), (1, 5)):
        stream = [e.image_id for n, e in drawn if n == number]
        epochs = [tuple(stream[i : i + size]) for i in range(0, len(stream), size)]
        assert len(epochs) == 105 // size
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert len(set(epochs)) > 5


@pytest.mark.parametrize(
    ("shares", "batch_size", "counts"),
    [
        ([1.0], 8, [8]),
        ([1.0, 1.0], 8, [4, 4]),
        ([0.8, 0.2], 10, [8, 2]),
        ([0.8, 0.2], 64, [51, 13]),
        ([0.999, 0.001], 8, [7, 1]),
        ([1.0, 0.0], 8, [8, 0]),
        ([1.0, 1.0, 1.0], 8, [2, 3, 3]),
        ([3.0, 1.0, 1.0], 3, [1, 1, 1]),
    ],
)
def test_batch_counts(shares: list[float], batch_size: int, counts: list[int]) -> None:
    assert batch_counts([task(str(n), 3, s) for n, s in enumerate(shares)], batch_size) == counts
    tasks = [task(str(n), 3, s) for n, s in enumerate(shares)]
    drawn = Counter(number for number, _ in draw(tasks, batch_size, 0, 2))
    assert [drawn[n] for n in range(len(shares))] == counts


def test_batch_smaller_than_the_number_of_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 1 has no slot .*captions.*labels"):
        batch_counts([task("captions", 3), task("labels", 3)], 1)


def test_learning_rate_rises_linearly_to_the_peak_then_falls_as_a_cosine_to_a_tenth() -> None:
    config = TrainConfig(steps=100, warmup_ratio=0.1)
    rates = [learning_rate(step, config, 2.0) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(1.1)  # half-way: the mean of peak and a tenth of it
    assert rates[100] == pytest.approx(0.2)
    assert rates[32] == pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * 22 / 90)))
    assert learning_rate(0, TrainConfig(steps=1), 2.0) == 2.0
