"""The page at /, in a real headless Chromium: asking by keyboard, answers, cards, refusals in words, and its looks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from playground import KEY, PICTURE, Script, app_of, ask, choose, chromium, said, serving
from starlette.responses import HTMLResponse

from leaml.report.content import ReportData
from leaml.report.page import write_report
from serve.auth import digest
from serve.service import ImageQuestion

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--host-resolver-rules=MAP rebound.example 127.0.0.1") as found:
        yield found


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def app(script: Script) -> FastAPI:
    return app_of(script)


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    with serving(app) as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    faults: list[str] = []
    own = (address, "blob:", "data:")
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    opened.on("request", lambda request: None if request.url.startswith(own) else faults.append(request.url))
    opened.goto(address)
    opened.get_by_text("Model card: demo").wait_for()
    yield opened
    assert faults == []  # no script error, nothing that the policy refused, nothing from elsewhere
    context.close()


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for something on the server's side."""
    for _ in range(400):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail("waited 20 s")


def test_a_question_by_keyboard_alone(page: Page, script: Script) -> None:
    order = []
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        shown = "getComputedStyle(document.activeElement.closest('.drop') || document.activeElement).outlineStyle"
        assert page.evaluate(shown) == "solid", order
    assert order == ["model", "key", "file", "question", "ask", "SUMMARY", "DIV"]  # the last: the table, which can be scrolled
    choose(page)
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("What colour is the circle?")
    page.keyboard.press("Enter")
    words = said(page)
    assert words.startswith("What colour is the circle? red confidence 87.4 % Alternatives blue 8.1 % <b>green</b> 1.2 %")
    assert all(fact in words for fact in (" ms", "model demo", "run demo", "id "))
    assert "Not calibrated" not in words
    assert script.heard() == [(PICTURE, ImageQuestion("What colour is the circle?"), "demo")]
    result = page.locator("#result")
    assert (result.get_attribute("aria-live"), result.get_attribute("aria-busy")) == ("polite", "false")
    bar, whole = (page.locator(f"#result .level.main{part}").bounding_box() for part in (" i", ""))
    assert bar is not None and whole is not None
    assert bar["width"] / whole["width"] == pytest.approx(0.874, abs=0.01)


def test_options_and_the_model_are_sent(page: Page, script: Script) -> None:
    choose(page)
    page.get_by_label("Model", exact=True).select_option("demo:other")
    page.get_by_text("Options to choose from").click()
    page.get_by_label("One option a line").fill("red\n\n  blue \n")
    ask(page, "which?")
    assert "Not calibrated" in said(page)
    assert script.heard() == [(PICTURE, ImageQuestion("which?", ("red", "blue")), "demo:other")]
    names = page.get_by_label("Model", exact=True).locator("option").all_inner_texts()
    assert names == ["demo", "demo:other", "demo:lost (not loaded)"]
    page.get_by_label("Model", exact=True).select_option("demo:lost")
    ask(page, "and you?")
    page.get_by_text("It says (503): the model 'demo:lost' could not be loaded: no such folder.").wait_for()


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped_anywhere(page: Page, script: Script, way: str) -> None:
    event = {
        "paste": "new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})",
        "drop": "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})",
    }[way]
    page.evaluate(
        f"""encoded => {{
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(encoded), c => c.charCodeAt(0));
            data.items.add(new File([bytes], 'frame.png', {{type: 'image/png'}}));
            document.querySelector('#card').dispatchEvent({event});
        }}""",
        base64.b64encode(PICTURE).decode(),
    )
    page.get_by_alt_text("The chosen image, frame.png").wait_for()
    page.locator("#preview.small").wait_for()  # it was loaded, and found to be small
    ask(page, "what is it?")
    said(page)
    assert [data for data, _, _ in script.heard()] == [PICTURE]


def test_what_is_missing_is_said_and_focused(page: Page, script: Script) -> None:
    ask(page, "what?")
    assert page.get_by_role("alert").inner_text() == "Choose an image first."
    assert page.evaluate("document.activeElement.id") == "file"
    page.get_by_label("Choose an image").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"no"})
    assert page.get_by_role("alert").inner_text() == "a.txt is not an image."
    choose(page)
    assert page.locator("#error").is_hidden()
    ask(page, "  ")
    assert page.get_by_role("alert").inner_text() == "Write a question first."
    assert script.heard() == []


@pytest.mark.parametrize(
    ("data", "question", "words"),
    [
        (bytes(200_000), "x", "The image is too large for this server; use a smaller one. It says (413): the body has more"),
        (b"no image at all", "x", "The server cannot use this. It says (422): "),
        (PICTURE, "broken", "The server failed. It says (500): the server failed; its log has the request id "),
    ],
)
def test_refusals_are_told_in_words(page: Page, data: bytes, question: str, words: str) -> None:
    choose(page, data)
    ask(page, question)
    page.get_by_text(words).wait_for()
    assert page.get_by_role("alert").inner_text().startswith(words)
    assert page.locator(".answer").count() == 0
    choose(page)
    ask(page, "and now?")
    said(page)
    assert page.locator("#error").is_hidden()


def test_a_picture_that_no_scaling_makes_wide_enough_is_not_sent(page: Page, script: Script) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 2)).save(buffer, "PNG")
    choose(page, buffer.getvalue())
    ask(page, "what?")
    page.get_by_text("The image is too narrow for this server: 4000 × 2, at most").wait_for()
    assert script.heard() == []
    assert page.get_by_role("button", name="Ask").is_visible()


def test_a_full_server_says_when_to_come_back(page: Page) -> None:
    choose(page)
    page.evaluate(
        """() => {
            const box = document.querySelector('#error');
            window.seen = [];
            new MutationObserver(() => window.seen.push(box.textContent)).observe(box, {childList: true});
        }"""
    )
    ask(page, "busy")
    page.get_by_text("The server should have room now. Ask again.").wait_for()
    seen = [text for text in page.evaluate("window.seen") if text]
    assert seen == [
        "The server is full. Try again in 2 s.",
        "The server is full. Try again in 1 s.",
        "The server should have room now. Ask again.",
    ]


def test_a_page_opened_with_a_password_asks_with_it_and_a_typed_key_goes_before_it(
    browser: Browser, app: FastAPI, address: str
) -> None:
    app.state.context.digests = [digest(KEY)]
    assert httpx.get(address).status_code == 401
    context = browser.new_context(http_credentials={"username": "any", "password": KEY})
    page = context.new_page()
    sent: list[str | None] = []
    page.on("request", lambda request: sent.append(request.headers.get("authorization")) if "/v1/" in request.url else None)
    page.goto(address)
    page.get_by_text("Model card: demo").wait_for()
    assert not any((value or "").startswith("Bearer") for value in sent)
    page.get_by_label("API key").fill("wrong-key-of-some-length")
    page.keyboard.press("Enter")
    page.get_by_text("The server does not take this API key.").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator("#error").wait_for(state="hidden")
    choose(page)
    ask(page, "what?")
    said(page)
    assert sent[-1] == f"Bearer {KEY}"
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert KEY not in kept
    page.reload()
    assert page.get_by_label("API key").input_value() == ""
    context.close()


def test_a_server_that_is_gone(browser: Browser, script: Script) -> None:
    page = browser.new_page()
    with serving(app_of(script)) as address:
        page.goto(address)
        page.get_by_text("Model card: demo").wait_for()
    choose(page)
    ask(page, "still there?")
    page.get_by_text("The server cannot be reached. Is it still running?").wait_for()
    page.close()


def test_escape_and_the_button_stop_a_question_and_free_the_server(page: Page, script: Script, app: FastAPI) -> None:
    choose(page)
    for stop in (lambda: page.keyboard.press("Escape"), lambda: page.get_by_role("button", name="Stop").click()):
        ask(page, "slow")
        page.get_by_role("button", name="Stop").wait_for()
        assert page.locator("#result").get_attribute("aria-busy") == "true"
        until(page, lambda: script.running == 1)  # the question has reached the model
        stop()
        page.get_by_role("button", name="Ask").wait_for()
        assert page.locator("#error").is_hidden()
        assert page.locator("#result").inner_text() == ""
    until(page, lambda: script.cancelled == 2 and not app.state.context.limiter.admitted)


def test_replies_are_text_and_never_markup(page: Page) -> None:
    choose(page)
    ask(page, "evil")
    assert "<img src=x onerror=alert(1)>" in said(page)
    assert page.locator("#result img, #result b").count() == 0


def test_the_card_has_run_labels_and_intervals_and_follows_the_model(page: Page) -> None:
    words = " ".join(page.locator("#card").inner_text().replace("\u00a0", " ").split())
    for part in (
        "Model card: demo",
        "labels 40 images, 371 questions",
        "labeled data easy_vqa, split train",
        "adapted from leaml-tiny",
        "off by 2.1 points on average (ECE over 1500 answers)",
        "accuracy 95 % interval questions color shape LEAML 94.1 % 92.8 – 95.3 1500 95.0 90.0",
        "Zero-shot 50.0 % 48.0 – 52.0 1500 10.0 –",
        "1 validation question cannot show a difference.",
    ):
        assert part in words
    page.get_by_label("Model", exact=True).select_option("demo:other")
    page.get_by_text("A bare model folder: no run, no evaluation.").wait_for()
    assert page.locator("#card table").count() == 0
    assert "model leaml-tiny" in " ".join(page.locator("#card").inner_text().split())


def test_it_fits_a_phone_and_follows_the_colour_scheme(page: Page) -> None:
    choose(page)
    ask(page, "What colour is the circle?")
    said(page)
    backgrounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for width in (1200, 360):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (scheme, width)
    assert backgrounds == ["rgb(251, 250, 247)", "rgb(20, 24, 26)"]


ELSEWHERE = """async (target) => {
    const form = () => { const made = new FormData(); made.append("question", "a"); return made; };
    const ways = [
        fetch(`${target}/v1/vqa`, { method: "POST", mode: "no-cors", body: form() }),
        fetch(`${target}/v1/vqa`, { method: "POST", body: form() }),
        fetch(`${target}/v1/models`),
        fetch(`${target}/v1/models`, { mode: "no-cors" }),
        fetch(`${target}/v1/vqa`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" }),
    ];
    return (await Promise.allSettled(ways)).map((way) => (way.status === "fulfilled" ? way.value.type : "refused"));
}"""


def test_a_page_elsewhere_reaches_nothing_but_may_link_here(browser: Browser, app: FastAPI, address: str) -> None:
    with serving(HTMLResponse("<a href='x'>a</a>")) as elsewhere:
        context = browser.new_context()
        page = context.new_page()
        page.goto(elsewhere)
        assert page.evaluate(ELSEWHERE, address) == ["refused"] * 5
        refusals = app.state.context.metrics.text().decode().partition('reason="cross_site",replica=""} ')[2]
        assert refusals.startswith("5.0")  # one of them when the browser asked whether it may
        page.evaluate("(target) => document.querySelector('a').setAttribute('href', target)", address)
        page.get_by_role("link").click()
        page.get_by_text("Model card: demo").wait_for()
        context.close()


def test_a_name_that_is_pointed_to_this_machine_is_not_answered(browser: Browser, address: str) -> None:
    page = browser.new_page()
    answered = page.goto(address.replace("127.0.0.1", "rebound.example"))
    assert answered is not None
    assert answered.status == 421
    page.close()


@pytest.mark.parametrize("width", [360, 1200])
def test_the_charts_of_a_report_are_whole_and_legible_on_a_phone(browser: Browser, width: int) -> None:
    row = {
        "accuracy": 0.9,
        "ci95": [0.88, 0.92],
        "n": 1500,
        "images": 300,
        "by_type": {"colour": 0.8},
        "n_by_type": {"colour": 9},
    }
    curve = [(step, 3.0 - step / 100) for step in range(0, 200, 10)]
    report = ReportData(
        "demo",
        "easy-vqa",
        40,
        {"rows": {"zero_shot": row, "finetune_labels": row, "leaml": row}},
        losses={"warmup": curve, "finetune leaml": curve},
        calibration={
            "temperature": 1.0,
            "ece": 0.1,
            "ece_uncalibrated": 0.2,
            "n": 9,
            "bins": [{"confidence": 1, "accuracy": 1, "n": 9}],
        },
    )
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_content(write_report(report))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = [chart for chart in page.locator("svg.plot").all() if chart.is_visible()]
    assert len(shown) == 3
    for chart in shown:
        box = chart.bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        texts = [text.bounding_box() for text in chart.locator("text").all()]
        assert texts
        for text in texts:
            assert text is not None
            assert text["height"] >= 10  # pixels of a line of text
            assert box["x"] - 1 <= text["x"] and text["x"] + text["width"] <= box["x"] + box["width"] + 1
    page.close()
