"""The decoder of images: whose pixels are held, for how long, and that one request does not hold up others."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from PIL import Image
from scripted_service import png

from leaml.vlm.shrink import Shrink
from serve import media
from serve.errors import ApiError
from serve.settings import LimitSettings, MediaSettings


def unchanged(image: Image.Image) -> Image.Image:
    return image


def opened(
    decoder: media.Decoder, *sizes: tuple[int, int], shrink: Shrink = unchanged
) -> contextlib.AbstractAsyncContextManager[list[media.Picture]]:
    """A request with images of these sizes."""
    encoded = [media.Encoded(png(*size), "id", size[0] * size[1]) for size in sizes]
    return decoder.opened(encoded, shrink)


def test_pixels_are_held_from_decoding_to_the_end_and_then_only_the_share_of_those_that_are_left() -> None:
    decoder = media.Decoder(LimitSettings(pixels=7000, pixels_in_flight=8000))

    async def work() -> None:
        free = []

        def half(image: Image.Image) -> Image.Image:
            free.append(decoder.budget.free)
            return image.resize((10, 10))

        async with opened(decoder, (60, 100), shrink=half) as (picture,):
            assert picture.image.size == (10, 10)
            free.append(decoder.budget.free)
        assert [*free, decoder.budget.free] == [2000, 7987, 8000]  # an eighth of 10 x 10, rounded up

    asyncio.run(work())


def test_images_of_one_request_get_their_pixels_together() -> None:
    decoder = media.Decoder(LimitSettings(pixels=7000, pixels_in_flight=8000))

    async def two() -> int:
        async with opened(decoder, (50, 60), (50, 70)) as pictures:
            await asyncio.sleep(0.01)
            return len(pictures)

    async def work() -> None:
        async with asyncio.timeout(5):  # each with one image, waiting for the other's pixels, would hang
            assert await asyncio.gather(two(), two(), two()) == [2, 2, 2]
        with pytest.raises(ApiError) as raised:
            await opened(decoder, (60, 100), (60, 100)).__aenter__()
        assert (raised.value.status, raised.value.code) == (413, "pixels_in_flight")

    asyncio.run(work())


def test_a_request_that_is_given_up_keeps_its_pixels_until_its_thread_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, go, began = media.Decoder(LimitSettings(pixels=7000, pixels_in_flight=8000)), threading.Event(), threading.Event()
    decode = media.images.decode

    def slow(*arguments: object, **keywords: object) -> Image.Image:
        began.set()
        go.wait(5)
        return decode(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(media.images, "decode", slow)

    async def work() -> None:
        task = asyncio.ensure_future(opened(decoder, (60, 100)).__aenter__())
        waits = asyncio.ensure_future(opened(decoder, (60, 100)).__aenter__())
        await asyncio.to_thread(began.wait, 5)
        task.cancel()
        waits.cancel()
        await asyncio.gather(task, waits, return_exceptions=True)
        assert decoder.budget.free == 2000
        go.set()
        async with asyncio.timeout(5):
            while decoder.budget.free != 8000:
                await asyncio.sleep(0.01)

    asyncio.run(work())


def test_pixels_come_back_from_an_image_that_cannot_be_read() -> None:
    decoder = media.Decoder(LimitSettings())
    free = decoder.budget.free

    async def work() -> None:
        with pytest.raises(ApiError):
            await decoder.opened([media.Encoded(png(64, 64)[:-40], "id", 4096)], unchanged).__aenter__()
        assert decoder.budget.free == free

    asyncio.run(work())


def test_headers_are_checked_while_all_decoders_are_busy() -> None:
    go = threading.Event()
    busy = [pool.submit(go.wait, 10) for pool in (media._DECODERS, media._LARGE) for _ in range(8)]

    async def work() -> None:
        async with asyncio.timeout(5):
            assert (await media.from_bytes(png(), MediaSettings(), LimitSettings())).pixels == 64

    try:
        asyncio.run(work())
    finally:
        go.set()
        for each in busy:
            each.result()
