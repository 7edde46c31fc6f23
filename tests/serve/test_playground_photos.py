"""Photos in the page at /, in a real headless Chromium: scaled to the server's limits before they are sent."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from playground import PICTURE, Script, app_of, ask, choose, chromium, said, serving

from serve.settings import ServeSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def script() -> Script:
    return Script()


def photo(width: int, height: int, kind: str = "JPEG", orientation: int = 1, grain: int = 60) -> bytes:
    """A grainy picture whose first row of pixels is red and whose last is blue, before it is turned by its EXIF."""
    values = np.random.default_rng(0).integers(0, grain, (height, width, 3), dtype=np.uint8)
    values[: height // 2, :, 0] += 180
    values[height // 2 :, :, 2] += 180
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **{"quality": 95, "exif": exif} if kind == "JPEG" else {"compress_level": 1})
    return buffer.getvalue()


def received(script: Script) -> Image.Image:
    """The picture that reached the model last."""
    return Image.open(io.BytesIO(script.heard()[-1][0]))


def test_a_photo_of_48_megapixels_is_scaled_to_the_servers_limits(browser: Browser, script: Script) -> None:
    page = browser.new_page()
    with serving(app_of(script, pixels=16_000_000)) as address:  # as every server has them
        page.goto(address)
        page.get_by_text("Model card: demo").wait_for()
        data = photo(8064, 5952, orientation=6, grain=24)
        assert len(data) > ServeSettings.model_validate({"model": "demo"}).limits.body_bytes
        choose(page, data, "JPEG")
        ask(page, "what is it?")
        page.wait_for_selector(".answer", timeout=90_000)
        assert page.locator("#error").is_hidden()
        found = received(script)
        assert 15_900_000 < found.width * found.height <= 16_000_000
        assert found.height / found.width == pytest.approx(8064 / 5952, abs=0.001)  # upright, as its EXIF says
        right, left = (found.getpixel((found.width * x // 10, found.height // 2)) for x in (9, 1))
        assert right[0] > 150 > right[2] and left[2] > 150 > left[0]  # type: ignore[index,operator]
        assert f"sent as {found.width} × {found.height}" in page.locator("#file-note").inner_text()
    page.close()


@pytest.mark.parametrize(
    ("kind", "size", "limits", "scaled"),
    [
        ("JPEG", (600, 400), {"image_side": 300}, (300, 200)),
        ("PNG", (600, 400), {"pixels": 60_000}, (300, 200)),
        ("JPEG", (600, 400), {"image_bytes": 40_000}, None),
        ("PNG", (600, 400), {"image_bytes": 40_000}, None),
        ("JPEG", (600, 400), {"body_bytes": 40_000}, None),
        ("WEBP", (600, 400), {"image_side": 300}, (300, 200)),
    ],
)
def test_every_limit_of_an_image_is_kept_by_scaling(
    browser: Browser, script: Script, kind: str, size: tuple[int, int], limits: dict[str, int], scaled: tuple[int, int] | None
) -> None:
    page = browser.new_page()
    with serving(app_of(script, **limits)) as address:
        page.goto(address)
        page.get_by_text("Model card: demo").wait_for()
        choose(page, photo(*size, kind, grain=70), kind)
        ask(page, "what is it? " + "x" * 3000)
        assert said(page).startswith("what is it?")
        found = received(script)
        assert scaled is None or found.size == scaled
        assert found.format == ("PNG" if kind == "PNG" and "pixels" in limits else "JPEG")
        assert found.width / found.height == pytest.approx(1.5, abs=0.01)
        assert len(script.heard()[-1][0]) <= limits.get("image_bytes", 8 << 20)
    page.close()


def test_what_is_clear_becomes_white_as_on_the_server_and_what_fits_is_sent_as_it_is(browser: Browser, script: Script) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (400, 400), (0, 0, 0, 0)).save(buffer, "PNG")
    page = browser.new_page()
    with serving(app_of(script, image_side=200)) as address:
        page.goto(address)
        page.get_by_text("Model card: demo").wait_for()
        choose(page, buffer.getvalue())
        ask(page, "what?")
        said(page)
        assert received(script).convert("RGB").getpixel((100, 100)) == (255, 255, 255)
        choose(page, PICTURE)
        ask(page, "and this?")
        page.get_by_text("and this?").wait_for()
        assert script.heard()[-1][0] == PICTURE
    page.close()
