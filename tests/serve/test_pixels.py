"""The budget of pixels: order, fairness between small and large, and waits that are given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from leaml.errors import ConfigError
from serve.pixels import PixelBudget
from serve.settings import load_settings


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await work

    asyncio.run(bounded())


async def hold(budget: PixelBudget, pixels: int, until: asyncio.Event, order: list[int]) -> None:
    async with budget.taken(pixels):
        order.append(pixels)
        await until.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_sum_is_bounded_and_requests_are_served_in_order() -> None:
    async def work() -> None:
        budget, until, order = PixelBudget(1600), asyncio.Event(), []  # type: ignore[var-annotated]
        first = asyncio.ensure_future(hold(budget, 1000, until, order))
        await settle()
        others = [asyncio.ensure_future(hold(budget, n, until, order)) for n in (900, 300, 301)]
        await settle()
        assert order == [1000]  # 300 fits, but would keep 900 waiting
        assert budget.free == 600
        until.set()
        await asyncio.gather(first, *others)
        assert order == [1000, 900, 300, 301]
        assert budget.free == 1600

    run(work())


def test_small_requests_do_not_wait_for_large_ones_nor_keep_them_waiting() -> None:
    async def work() -> None:
        budget, until, order = PixelBudget(1600), asyncio.Event(), []  # type: ignore[var-annotated]
        small = [asyncio.ensure_future(hold(budget, 25, until, order)) for _ in range(12)]
        large = [asyncio.ensure_future(hold(budget, 1400, until, order)) for _ in range(3)]
        await settle()
        assert order == [25] * 8 + [1400]
        until.set()
        await asyncio.gather(*small, *large)
        assert budget.free == 1600

    run(work())


@pytest.mark.parametrize("granted", [False, True])
def test_a_wait_that_is_given_up_takes_nothing_and_lets_the_next_one_in(granted: bool) -> None:
    async def work() -> None:
        budget, until, order = PixelBudget(1600), asyncio.Event(), []  # type: ignore[var-annotated]
        first = asyncio.ensure_future(hold(budget, 1000, until, order))
        await settle()
        gone = asyncio.ensure_future(hold(budget, 1400, until, order))
        behind = asyncio.ensure_future(hold(budget, 400, until, order))
        await settle()
        if granted:  # in the same turn in which it gets its pixels
            first.cancel()
            await asyncio.sleep(0)
        gone.cancel()
        await settle()
        assert order == [1000, 400]
        until.set()
        await asyncio.gather(first, gone, behind, return_exceptions=True)
        assert budget.free == 1600

    run(work())


def test_an_image_larger_than_the_budget_is_a_fault_of_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"limits\.pixels"):
        load_settings({"model": "tiny", "limits": {"pixels": 36_000_000}})
    load_settings({"model": "tiny", "limits": {"pixels": 35_000_000}})
