"""The teacher behind a URL, asked through real sockets: what is tried again, what costs one image, what ends the step."""

import math
import socket
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from teacher_server import HANG_UP, Teacher, as_json, completion, refusal, serving

from leaml.config import ClientConfig
from leaml.engine import chat_completion, openai_check, openai_engine
from leaml.engine.interface import Request
from leaml.engine.openai_engine import MOST_IN_A_ROW, OpenAIEngine
from leaml.engine.spec import EngineSpec
from leaml.errors import ModelError, StepError
from leaml.text import replies

GOOD = completion("A red ball.")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again without the server's word for when is tried soon."""
    monkeypatch.setattr(openai_engine, "_PAUSE", 0.05)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.05)


def requests(count: int, side: int = 8) -> list[Request]:
    images = (Image.new("RGB", (side, side), (n % 256, n // 256, 0)) for n in range(count))
    return [Request(image, f"id{n}", "Describe the image.", max_tokens=48) for n, image in enumerate(images)]


def engine(url: str, **client: Any) -> OpenAIEngine:
    return OpenAIEngine(EngineSpec("teacher", url=url, client=ClientConfig(**{"retries": 1, "concurrency": 4} | client)))


def ask(teacher: Teacher, count: int = 1, **client: Any) -> list[Any]:
    return [one for (one,) in engine(teacher.url, **client).generate(requests(count))]


def test_captions_come_in_order_at_most_so_many_at_a_time_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(lambda body, tries: completion(body["messages"][0]["content"][0]["image_url"]["url"][-40:]), 0.05) as teacher:
        found = ask(teacher, 20, concurrency=3)
    urls = {b["messages"][0]["content"][0]["image_url"]["url"][-40:] for b in teacher.bodies}
    assert len({c.text for c in found}) == 20 == len(teacher.bodies)
    assert {c.text for c in found} == urls
    assert teacher.most_running == 3
    assert set(teacher.keys) == {"Bearer sk-secret"}
    body = teacher.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("teacher", 0.0, 48)
    assert found[0].finish_reason == "stop"
    assert math.isnan(found[0].mean_logprob)  # the server tells none: not certainty


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(code: int) -> None:
    busy = refusal(code, "try again in 2 s", **{"Retry-After": "2"})
    with serving(lambda body, tries: busy if tries == 1 else GOOD) as teacher:
        found = ask(teacher, 3)
    assert [c.text for c in found] == ["A red ball."] * 3
    assert set(teacher.tries.values()) == {2}
    assert teacher.times[3] - teacher.times[0] >= 2.0  # without the header it would be half a second


def test_a_rate_limit_slows_requests_down_and_loses_no_image() -> None:
    """One request in 50 ms: eight at a time would meet the limit seven times out of eight, more often than they may."""
    allowed = [0.0]

    def reply(body: dict[str, Any], tries: int) -> Any:
        with teacher.lock:
            now = time.monotonic()
            if now < allowed[0]:
                return refusal(429, "slow down", **{"retry-after-ms": "50", "Retry-After": "0.05"})
            allowed[0] = now + 0.05
        return GOOD

    with serving(reply) as teacher:
        found = ask(teacher, 60, retries=2, concurrency=8)
    assert [c.text for c in found] == ["A red ball."] * 60


def test_a_server_that_stays_busy_ends_the_step_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "SILENCE", 0.1)
    monkeypatch.setattr(openai_engine, "_pause", lambda error: 0.01)
    busy = refusal(503, "loading", **{"retry-after-ms": "10"})
    with (
        serving(lambda body, tries: busy) as teacher,
        pytest.raises(StepError, match=r"4 requests .* one after another, .* 503: "),
    ):
        ask(teacher, 100, concurrency=2)
    assert len(teacher.tries) <= 6


@pytest.mark.parametrize("dated", [False, True])
def test_a_long_pause_that_the_server_asks_for_is_waited_for(dated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("threading.Event.wait", lambda self, timeout=None: bool(waited.append(timeout or 0.0)))
    when = formatdate(time.time() + 600, usegmt=True) if dated else "600"
    busy = refusal(429, "come back in ten minutes", **{"Retry-After": when})
    with serving(lambda body, tries: busy if tries == 1 else GOOD) as teacher:
        one = engine(teacher.url)
        assert one._one(requests(1)[0])[0].text == "A red ball."
    assert any(590 < seconds <= 600 for seconds in waited)


def test_a_server_that_never_recovers_for_one_image_costs_that_image_alone() -> None:
    bad: list[str] = []

    def reply(body: dict[str, Any], tries: int) -> Any:
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        bad.extend([url] if not bad else [])
        return refusal(500, "internal error") if url == bad[0] else GOOD

    with serving(reply) as teacher:
        found = ask(teacher, 8)
    assert sum(not c.error for c in found) == 7
    (failed,) = (c for c in found if c.error)
    assert (failed.text, failed.failed, failed.error.startswith("server: 500: ")) == ("", True, True)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (HANG_UP, "RemoteProtocolError"),
        ((200, {"Content-Type": "text/html"}, b"<html>sign in</html>"), "no JSON: '<html>sign in</html>'"),
        ((200, {}, b"<html>sign in</html>"), "no JSON"),
        (as_json(200, {"error": {"message": "overloaded"}}), "no chat completion"),
        (as_json(200, {"choices": []}), "no chat completion"),
        (as_json(200, ["x"]), "no chat completion"),
        (refusal(403, "moderation: this image is flagged"), "403: "),
        (refusal(413, "too large"), "413: "),
    ],
)
def test_replies_that_are_none_cost_one_image_and_end_the_step_when_all_are(broken: Any, reason: str) -> None:
    with serving(lambda body, tries: broken if len(teacher.tries) == 1 else GOOD) as teacher:
        found = ask(teacher, 6, concurrency=1)
    assert [bool(c.error) for c in found] == [True] + [False] * 5
    assert reason in found[0].error
    with serving(lambda body, tries: broken) as teacher, pytest.raises(StepError, match="failed one after another") as raised:
        ask(teacher, 200, retries=0, concurrency=8)
    assert reason in str(raised.value)
    assert len(teacher.tries) < MOST_IN_A_ROW + 8  # not the 200


@pytest.mark.parametrize("broken", [HANG_UP, (200, {}, b"<html>starting</html>")])
def test_a_reply_that_breaks_off_once_is_asked_for_again(broken: Any) -> None:
    with serving(lambda body, tries: broken if tries == 1 else GOOD) as teacher:
        assert [c.text for c in ask(teacher, 2)] == ["A red ball."] * 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(401, "Incorrect API key provided"), "answered 401: .*Incorrect API key.*OPENAI_API_KEY"),
        (refusal(404, "The model `teacher` does not exist"), "answered 404: .*does not exist.*caption.teacher.name"),
        (refusal(402, "no credit"), "answered 402"),
        (refusal(429, "insufficient_quota: check your plan"), "answered 429.*insufficient_quota"),
        (refusal(403, "insufficient_user_quota"), "answered 403.*insufficient_user_quota"),
    ],
)
def test_what_is_wrong_for_every_image_ends_the_step_at_once(answer: Any, words: str) -> None:
    with serving(lambda body, tries: answer) as teacher, pytest.raises(StepError, match=words):
        ask(teacher, 100, retries=0)
    assert len(teacher.tries) <= 8


def test_a_server_that_is_not_there_ends_the_step() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(
        StepError, match=rf"127.0.0.1:{port}/v1 cannot be reached .*Connection refused.*the same command goes on"
    ):
        engine(f"http://127.0.0.1:{port}/v1").generate(requests(100))
    assert time.monotonic() - began < 10


def test_what_was_answered_before_the_end_is_handed_over() -> None:
    with serving(lambda body, tries: GOOD if len(teacher.tries) <= 3 else refusal(401, "key expired")) as teacher:
        one, found = engine(teacher.url, concurrency=1), []
        with pytest.raises(StepError, match="key expired"):
            for batch in one.as_answered(requests(6)):
                found += batch
        assert found == [0, 1, 2]
        with pytest.raises(StepError, match="key expired"):  # another thread's requests are not sent any more
            one.generate(requests(3))
    assert len(teacher.bodies) == 4


@pytest.mark.parametrize("named", ["param", "message"])
@pytest.mark.parametrize(
    ("parameter", "other"),
    [("max_tokens", "max_completion_tokens"), ("logprobs", None), ("temperature", None)],
)
def test_a_refused_parameter_is_renamed_or_left_out_for_good(parameter: str, other: str | None, named: str) -> None:
    def reply(body: dict[str, Any], tries: int) -> Any:
        if parameter not in body:
            return GOOD
        text = f"Unsupported parameter: '{parameter}' is not supported with this model." + (f" Use '{other}'." if other else "")
        return refusal(400, text if named == "message" else "not supported", parameter if named == "param" else None)

    with serving(reply) as teacher:
        assert [c.text for c in ask(teacher, 10, concurrency=1)] == ["A red ball."] * 10
    assert len(teacher.bodies) == 11  # found out once
    assert teacher.bodies[-1].get(other or "", 48) == 48


def test_an_image_that_is_too_large_for_the_context_changes_nothing_for_others() -> None:
    refused = refusal(400, "max_tokens is too large: 48. This model's maximum context length is 4096 tokens")
    with serving(lambda body, tries: refused if len(teacher.tries) == 1 else GOOD) as teacher:
        found = ask(teacher, 4, concurrency=1)
    assert [bool(c.error) for c in found] == [True, False, False, False]
    assert all("max_tokens" in body for body in teacher.bodies)


@pytest.mark.parametrize(
    ("message", "text", "error"),
    [
        ({"content": [{"type": "text", "text": "A red "}, {"type": "text", "text": "ball."}]}, "A red ball.", ""),
        ({"content": ["A red ball."]}, "A red ball.", ""),
        ({"content": {"type": "text", "text": "A red ball."}}, "A red ball.", ""),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "A ball."}]}, "A ball.", ""),
        ({"content": "A ball.", "reasoning_content": "The user wants"}, "A ball.", ""),
        ({"content": None, "reasoning": "Okay, the user wants"}, "", "a thought without an answer"),
        ({"content": "", "reasoning_content": "Okay"}, "", "a thought without an answer"),
        ({"content": None}, "", "empty reply"),
        ({"content": "  \n"}, "", "empty reply"),
        ({"content": []}, "", "empty reply"),
        ({"content": None, "refusal": "I can't help with that."}, "", "refusal: I can't help with that."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "", "refusal: No."),
        ({"content": [{"type": "image_url", "image_url": {}}]}, "", "content that is no text: {'type': 'image_url'"),
        ({"content": 7}, "", "content that is no text: 7"),
        ({}, "", "empty reply"),
    ],
)
def test_the_text_of_a_message(message: dict[str, Any], text: str, error: str) -> None:
    content = {"content": None, **message}
    with serving(lambda body, tries: completion(**content)) as teacher:
        (found,) = ask(teacher)
    assert found.text == text
    assert found.error.startswith(error) if error else not found.error
    assert len(teacher.bodies) == 1  # it was answered; asking again would be paid for again


@pytest.mark.parametrize(
    ("said", "used", "cut"),
    [
        ("length", None, True),
        ("MAX_TOKENS", None, True),
        ("stop", 48, False),
        (None, 48, True),
        (None, 20, False),
        ("eos", 3, False),
    ],
)
def test_a_reply_that_ended_at_the_limit_is_known(said: str | None, used: int | None, cut: bool) -> None:
    status, headers, data = completion("A red ball", said)
    data = data[:-1] + (f', "usage": {{"completion_tokens": {used}}}}}'.encode() if used else b"}")
    with serving(lambda body, tries: (status, headers, data)) as teacher:
        (found,) = ask(teacher)
    assert (found.text, found.cut) == ("A red ball", cut)


@pytest.mark.parametrize(("told", "counted"), [(700, 700), (None, 0), (True, 0), (-3, 0), ("700", 0)])
def test_tokens_of_a_request_are_those_that_the_server_counted(told: Any, counted: int) -> None:
    choices = [{"message": {"content": "A red ball."}}] * 3
    reply = as_json(200, {"choices": choices, "usage": {"prompt_tokens": told, "completion_tokens": 9}})
    with serving(lambda body, tries: reply) as teacher:
        (found,) = engine(teacher.url).generate([Request(Image.new("RGB", (8, 8)), "a", "?", n=3)])
    assert [c.prompt_tokens for c in found] == [counted, 0, 0]  # one request, however many replies it has


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [
        ({}, "png", (2048, 1024)),
        ({"image_format": "jpeg", "image_max_side": 100}, "jpeg", (100, 50)),
        ({"image_max_side": None}, "png", (3000, 1500)),
    ],
)
def test_images_are_sent_as_configured(options: dict[str, Any], kind: str, size: tuple[int, int]) -> None:
    import base64
    import io

    with serving(lambda body, tries: GOOD) as teacher:
        engine(teacher.url, **options).generate([Request(Image.new("RGB", (3000, 1500), "red"), "i", "?")])
    head, _, data = teacher.bodies[0]["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert (sent.format, sent.size) == (kind.upper(), size)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "logprob", "completion_tokens", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, JSON, JSON, JSON)
def test_odd_fields_of_a_reply_are_one_completion_or_one_failed_request(
    usage: Any, logprobs: Any, finished: Any, content: Any
) -> None:
    choice = {"message": {"role": "assistant", "content": content}, "logprobs": logprobs, "finish_reason": finished}
    (found,) = chat_completion.completions({"choices": [choice], "usage": usage}, Request(Image.new("RGB", (8, 8)), "a", "?"))
    assert bool(found.text) != bool(found.error)
    assert (found.text + found.error).encode()  # can be stored
    assert found.tokens >= 0 and not math.isinf(found.mean_logprob)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "A red ball."}}] * 3},
        {"choices": 5},
        {"choices": {"message": {}}},
        {"choices": [{"message": "A red ball."}]},
        {"choices": [{"message": {"content": "caf\ud83d"}, "logprobs": [7], "finish_reason": ["stop"]}], "usage": [3]},
        {"choices": [{"message": {"content": None}, "logprobs": {"content": [{"logprob": None}, None]}}], "usage": "none"},
    ],
)
def test_a_reply_that_is_odd_costs_its_image_alone(body: Any) -> None:
    def reply(asked: dict[str, Any], tries: int) -> Any:
        return as_json(200, body) if asked["messages"][0]["content"][0]["image_url"]["url"] == bad[0] else GOOD

    bad = [openai_engine.data_url(requests(1)[0].image, EngineSpec("teacher"))]
    with serving(reply) as teacher:
        found = ask(teacher, 5, concurrency=1)
    assert [c.text for c in found[1:]] == ["A red ball."] * 4
    assert replies.caption(found[0].text, found[0].finish_reason)[0] == ""


def test_logprobs_that_are_no_numbers_are_unknown() -> None:
    told = {"content": [{"logprob": -0.5}, {"logprob": None}]}
    choice = {"message": {"content": "A red ball."}, "logprobs": told, "finish_reason": "stop"}
    with serving(lambda body, tries: as_json(200, {"choices": [choice], "usage": [1]})) as teacher:
        (found,) = ask(teacher)
    assert (found.text, math.isnan(found.mean_logprob), found.finish_reason) == ("A red ball.", True, "stop")


@pytest.mark.parametrize("code", [400, 403, 404, 405, 422, 501])
@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("logprobs", "log probs are not available for this model"),
        ("logprobs", "You are not allowed to request logprobs from this model"),
        ("logprobs", "Log-probabilities are disabled"),
        ("logprobs", "unknown field: logProbs"),
        ("max_tokens", "max tokens is not supported"),
        ("max_tokens", "Unknown name maxTokens"),
        ("max_tokens", "max_tokens exceeds the limit of 32"),
        ("max_tokens", "'max_tokens' (48) is too large, at most 32"),
        ("temperature", "Temperature is fixed for this model"),
    ],
)
def test_a_parameter_is_left_out_whatever_the_status_and_the_words_of_its_refusal(code: int, parameter: str, text: str) -> None:
    with serving(lambda body, tries: refusal(code, text) if parameter in body else GOOD) as teacher:
        assert [c.text for c in ask(teacher, 3, concurrency=1)] == ["A red ball."] * 3
    assert len(teacher.bodies) == 4 + (code == 501)  # which the client tries again


def test_a_model_that_is_not_there_ends_the_step_though_its_name_is_that_of_a_parameter() -> None:
    with serving(lambda body, tries: refusal(404, "The model `temperature` does not exist")) as teacher:
        with pytest.raises(StepError, match=r"answered 404: .*does not exist.*caption.teacher.name"):
            ask(teacher, 100, concurrency=1)
        assert len(teacher.bodies) <= 3


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["chat/completions", "models"])
def test_no_redirect_is_followed_and_the_error_says_where_it_points_to(code: int, path: str) -> None:
    with serving(lambda body, tries: GOOD) as other:
        away = (code, {"Location": f"{other.url}/{path}"}, b"")
        with serving(lambda body, tries: away, models=away) as teacher:
            words = rf"redirects to '{other.url}', where no image is sent; .* set caption\.url to that address"
            if path == "models":
                with pytest.raises(ModelError, match=words):
                    openai_check.check(teacher.url, "teacher")
            else:
                with pytest.raises(StepError, match=words):
                    ask(teacher)
    assert not other.bodies
    assert len(teacher.bodies) == (path != "models")  # nor is it asked again


def test_a_list_of_models_that_is_elsewhere_is_a_doubt_alone() -> None:
    with serving(lambda body, tries: GOOD, models=(302, {"Location": "/login"}, b"")) as teacher:
        assert "answered 302" in str(openai_check.check(teacher.url, "teacher"))
        assert ask(teacher)[0].text == "A red ball."


def test_a_redirect_to_a_path_of_the_same_server_is_shown_whole() -> None:
    away = (308, {"Location": "/api/v1/chat/completions"}, b"")
    said = r"redirects to 'http://.*/api/v1', where"
    with serving(lambda body, tries: away) as teacher, pytest.raises(StepError, match=said):
        ask(teacher)
