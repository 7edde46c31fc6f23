"""Storage that misbehaves: a real S3 server behind a proxy that loses, cuts, delays and refuses requests."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from faulty import TRANSIENT, Plan, Proxy

from leaml import config
from leaml.data import store
from leaml.data.step_rows import StepRows
from leaml.errors import DataError, LeamlError, StepError
from leaml.io import files, s3
from pipelines import run as run_module
from pipelines.run import Run
from pipelines.runtime import quiet_data
from pipelines.shard import make_shards
from pipelines.shards import run_shards
from pipelines.steps import ENGINE_REQUESTS

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))
import scripted
from scripted import MAX_PIXELS, RESOURCES, CaptionLike, ScriptedSpec, calls, images_table

pytestmark = pytest.mark.timeout(240)
CHECK = "check bucket, endpoint and AWS credentials"
BUCKET = "faulty"


@pytest.fixture(scope="module")
def line(server: str) -> Iterator[Proxy]:
    """The proxy, with the environment of this module and of Ray's workers leading through it."""
    proxy = Proxy(server, seed=1)
    settings = {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        yield proxy
    proxy.stop()


@pytest.fixture
def proxy(line: Proxy) -> Iterator[Proxy]:
    line.clear()
    yield line
    line.clear()


class Direct:
    """The bucket as the server has it, not through the proxy."""

    def __init__(self, server: str) -> None:
        self.client = boto3.client(
            "s3", endpoint_url=server, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        self.client.create_bucket(Bucket=BUCKET)

    def keys(self, prefix: str) -> list[str]:
        """Objects below a prefix, without the empty ones that stand for folders."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [o["Key"] for o in found if not o["Key"].endswith("/")]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


@pytest.fixture(scope="module")
def direct(server: str) -> Direct:
    return Direct(server)


@pytest.fixture
def base(direct: Direct, request: pytest.FixtureRequest) -> str:
    """A name for what this test writes; s3://faulty/<base>/..."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that try twice and do not wait, for tests of what is said in the end."""
    monkeypatch.setattr(s3, "_READ_RETRIES", 1)
    monkeypatch.setattr(s3, "_WRITE_RETRIES", 1)
    monkeypatch.setattr(s3, "_SILENT_SECONDS", 1.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "impatient")  # clients are kept by endpoint and key


# --- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRANSIENT)
def test_files_are_right_behind_a_server_with_faults(
    kind: str, proxy: Proxy, direct: Direct, base: str, tmp_path: Path
) -> None:
    uri = f"s3://{BUCKET}/{base}"
    big = tmp_path / "big"
    big.write_bytes(os.urandom(9_000_000))  # above boto3's multi-part threshold
    names = [f"{uri}/{'deep/' * (n % 3)}{n}" for n in range(9)]
    proxy.plan = Plan(0.3, (kind,), most=3)
    with ThreadPoolExecutor(10) as pool:
        published = pool.submit(files.publish_file, str(big), f"{uri}/big")
        assert all(pool.map(lambda name: files.write_bytes(name, name.encode() * 100, if_absent=name[-1] in "02468"), names))
        published.result()
        assert not any(pool.map(lambda name: files.write_bytes(name, b"other", if_absent=True), names[:4]))
        assert list(pool.map(files.read_bytes, names)) == [name.encode() * 100 for name in names]
        assert all(pool.map(files.exists, names))
        assert not any(pool.map(files.exists, [name + "x" for name in names]))
        assert files.read_bytes(f"{uri}/big") == big.read_bytes()
    assert direct.read(f"{base}/big") == big.read_bytes()
    assert files.listing(uri) == sorted([*names, f"{uri}/big"])
    files.delete_tree(f"{uri}/deep")
    files.delete_tree(f"{uri}/big")
    assert files.listing(uri) == sorted(names[::3])
    assert direct.keys(f"{base}/") == sorted(name.removeprefix(f"s3://{BUCKET}/") for name in names[::3])
    assert proxy.faults[kind] >= 3
    assert set(proxy.faults) == {kind}


def test_a_write_cut_half_way_leaves_the_old_object(proxy: Proxy, direct: Direct, base: str, impatient: None) -> None:
    uri = f"s3://{BUCKET}/{base}/x"
    files.write_bytes(uri, b"old")
    proxy.plan = Plan(1.0, ("cut_request",))
    for name in (uri, f"{uri}-new"):
        with pytest.raises(DataError, match=f"cannot write {name}: .*; {CHECK}"):
            files.write_bytes(name, b"new" * 100_000)
    assert proxy.faults["cut_request"] == 4
    assert {key: direct.read(key) for key in direct.keys(base)} == {f"{base}/x": b"old"}


def everything(uri: str, local: Path) -> dict[str, Callable[[], Any]]:
    """One call of every kind; by the verb that the error is to name."""
    local.write_bytes(b"x" * 9_000_000)
    return {
        "write " + uri: lambda: files.write_bytes(uri, b"x"),
        "write " + uri + "-first": lambda: files.write_bytes(uri + "-first", b"x", if_absent=True),
        "write " + uri + "-big": lambda: files.publish_file(str(local), uri + "-big"),
        "read " + uri: lambda: files.read_bytes(uri),
        "read " + uri + "-exists": lambda: files.exists(uri + "-exists"),
        "read " + uri + "-list": lambda: files.listing(uri + "-list"),
        "read " + uri + "-delete": lambda: files.delete_tree(uri + "-delete"),
    }


def failures(uri: str, local: Path) -> float:
    """Make every call at the same time, see that each fails as it should; returns the seconds it took."""

    def fail(call: tuple[str, Callable[[], Any]]) -> str:
        with pytest.raises(DataError) as caught:
            call[1]()
        return f"cannot {call[0]}: " if str(caught.value).startswith(f"cannot {call[0]}: ") else str(caught.value)

    began, all_calls = time.time(), everything(uri, local)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(fail, all_calls.items())) == [f"cannot {what}: " for what in all_calls]
    return time.time() - began


def test_a_server_that_is_gone_for_good_is_an_error_within_a_minute(
    proxy: Proxy, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one retry less than in use, since the last one takes as long as all before it."""
    monkeypatch.setattr(s3, "_READ_RETRIES", s3._READ_RETRIES - 1)
    monkeypatch.setattr(s3, "_WRITE_RETRIES", s3._WRITE_RETRIES - 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hurried")
    proxy.plan = Plan(1.0, ("slow_down", "reset", "lost_reply"))
    assert 5 < failures(f"s3://{BUCKET}/{base}", tmp_path / "big") < 30


def test_a_server_that_comes_back_is_waited_for(
    proxy: Proxy, direct: Direct, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retryhandler.random.random", lambda: 0.5)  # waits 0.5, 1, 2, ... s
    proxy.plan = Plan(1.0, ("reset",))
    with ThreadPoolExecutor(2) as pool:
        read = pool.submit(files.exists, f"s3://{BUCKET}/{base}")
        written = pool.submit(files.write_bytes, f"s3://{BUCKET}/{base}/x", b"x")
        time.sleep(2)
        assert not read.done()
        assert not written.done()
        proxy.plan = Plan()
        assert written.result() is True
        read.result()
    assert direct.keys(base) == [f"{base}/x"]


def test_threads_that_start_together_share_one_client(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more would wait until the first is idle, which may be never."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "together")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: s3.filesystem(), range(32)))
    assert all(one is made[0] for one in made)


def test_a_server_that_hangs_is_given_up(proxy: Proxy, base: str, tmp_path: Path, impatient: None) -> None:
    proxy.plan = Plan(1.0, ("hang",), hang=6)
    assert failures(f"s3://{BUCKET}/{base}", tmp_path / "big") < 20


def test_no_server_at_all(proxy: Proxy, base: str, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Proxy(proxy.endpoint)
    gone.stop()
    monkeypatch.setenv("AWS_ENDPOINT_URL", gone.endpoint)
    assert failures(f"s3://{BUCKET}/{base}", tmp_path / "big") < 20
    with pytest.raises(DataError, match=f"{gone.endpoint}.*; {CHECK}"):
        files.write_bytes(f"s3://{BUCKET}/{base}", b"x")


def test_upload_whose_last_reply_is_lost_on_a_server_that_forgets_uploads(
    proxy: Proxy, direct: Direct, base: str, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(9_000_000))
    proxy.plan = Plan(1.0, ("forgotten",), only=r"POST .*uploadId", times=1)
    files.publish_file(str(big), f"s3://{BUCKET}/{base}/big")
    assert proxy.faults == {"forgotten": 1}
    assert direct.read(f"{base}/big") == big.read_bytes()


# --- conditional writes and the lock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lost_reply", "conflict"])
def test_a_first_write_that_is_sent_twice_wins_once(kind: str, proxy: Proxy, direct: Direct, base: str) -> None:
    """Its second try is refused because of the first one, or because the first one is still under way."""
    uri = f"s3://{BUCKET}/{base}/x"
    proxy.plan = Plan(1.0, (kind,), only="PUT", most=1)
    assert files.write_bytes(uri, b"same", if_absent=True)
    assert proxy.faults == {kind: 1}
    for data in (b"same", b"other"):
        assert not files.write_bytes(uri, data, if_absent=True)
    assert direct.read(f"{base}/x") == b"same"


def test_of_many_writers_behind_faults_exactly_one_wins(proxy: Proxy, direct: Direct, base: str) -> None:
    for number in range(3):
        proxy.clear()
        proxy.plan = Plan(0.5, ("lost_reply", "reset", "conflict"), only="PUT", times=4)  # also if one writer gets all four
        uri = f"s3://{BUCKET}/{base}/{number}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, uri=uri: files.write_bytes(uri, str(n).encode(), if_absent=True), range(8)))
        assert won.count(True) == 1
        assert direct.read(f"{base}/{number}").decode() == str(won.index(True))


def make_run(base: str) -> Run:
    data = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}
    return Run(config.parse({"name": "mine", "storage": f"s3://{BUCKET}/{base}", "data": data}))


def test_a_run_is_not_kept_out_by_its_own_lock(proxy: Proxy, direct: Direct, base: str) -> None:
    proxy.plan = Plan(1.0, ("lost_reply",), most=1)
    with make_run(base) as run:
        assert json.loads(direct.read(f"{base}/mine/lock.json"))["pid"] == os.getpid()
        run.finish()
    assert proxy.faults["lost_reply"] >= 3
    assert sorted(direct.keys(base)) == [f"{base}/mine/config.yaml", f"{base}/mine/status.json"]


def test_the_lock_beats_on_after_an_outage(proxy: Proxy, direct: Direct, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "HEARTBEAT", 0.05)

    def beat() -> float:
        return json.loads(direct.read(f"{base}/mine/lock.json"))["beat"]

    with make_run(base):
        proxy.plan = Plan(1.0, ("forbidden",))
        deadline = time.time() + 20
        while proxy.faults["forbidden"] < 3 and time.time() < deadline:
            time.sleep(0.05)
        last = beat()
        proxy.plan = Plan()
        while beat() == last:
            assert time.time() < deadline
            time.sleep(0.05)
    assert f"{base}/mine/lock.json" not in direct.keys(base)


def test_storage_that_fails_too_does_not_hide_why_a_run_failed(proxy: Proxy, base: str) -> None:
    def work() -> dict[str, Any]:
        proxy.plan = Plan(1.0, ("forbidden",))
        msg = "the reason"
        raise StepError(msg)

    with pytest.raises(StepError, match="the reason"), make_run(base) as run:
        run.execute(run.step("score", {}, []), work)


@pytest.mark.parametrize("kind", ["forbidden", "unknown_key", "wrong_secret"])
def test_refused_credentials_are_said_at_once(kind: str, proxy: Proxy, direct: Direct, base: str) -> None:
    proxy.plan = Plan(1.0, (kind,))
    began = time.time()
    with pytest.raises(DataError, match=rf"cannot write s3://{BUCKET}/{base}/mine/lock\.json: .*; {CHECK}"), make_run(base):
        pytest.fail("entered")
    for function in (files.read_bytes, files.listing, files.delete_tree):
        with pytest.raises(DataError, match=rf"cannot read s3://{BUCKET}/{base}/x: .*; {CHECK}"):
            function(f"s3://{BUCKET}/{base}/x")
    assert time.time() - began < 5
    assert direct.keys(base) == []


def test_a_run_that_may_lock_but_not_write_leaves_no_lock(proxy: Proxy, direct: Direct, base: str) -> None:
    proxy.plan = Plan(1.0, ("forbidden",), only=r"PUT .*config\.yaml")
    with pytest.raises(DataError, match=rf"config\.yaml: .*AccessDenied.*; {CHECK}"), make_run(base):
        pytest.fail("entered")
    assert f"{base}/mine/lock.json" not in direct.keys(base)


# --- a map step --------------------------------------------------------------------------------------------------------

COUNT, SIZE = 32, 4


@pytest.fixture(scope="module")
def workers(line: Proxy, request: pytest.FixtureRequest) -> None:
    """A Ray that is started when the environment leads to the proxy."""
    import ray

    request.getfixturevalue("ray_own")
    ray.cloudpickle.register_pickle_by_value(scripted)
    quiet_data(False)


class MapStep:
    """A map step whose images and rows are behind the proxy; `runs` tells how each attempt ended."""

    def __init__(self, base: str, log: Path, direct: Direct, size: int = SIZE) -> None:
        self.base, self.uri, self.log, self.direct, self.size = base, f"s3://{BUCKET}/{base}", log, direct, size
        log.mkdir()
        images_table(f"{self.uri}/images", COUNT)
        self.ids = [r.image_id for r in store.index(f"{self.uri}/images")]
        self.runs: list[LeamlError | dict[str, Any]] = []

    def run(self) -> bool:
        """Run it; returns whether it finished. What was committed before must not be asked of the engine again."""
        committed, asked = self.committed(), calls(self.log)
        try:
            shards = make_shards(
                "caption", store.index(f"{self.uri}/images"), {i: n for n, i in enumerate(self.ids)}, self.size
            )
            spec = ScriptedSpec("x", log=str(self.log))
            self.runs.append(run_shards("caption", shards, spec, CaptionLike(), f"{self.uri}/out", RESOURCES, MAX_PIXELS))
        except LeamlError as error:
            self.runs.append(error)
        again = calls(self.log)
        assert {i: again[i] for i in committed} == {i: asked[i] for i in committed}
        return isinstance(self.runs[-1], dict)

    def committed(self) -> Counter[str]:
        return Counter(row["image_id"] for row in self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Rows in committed files, read from the server without the code under test."""
        parts = [self.direct.read(key) for key in self.direct.keys(f"{self.base}/out/rows/")]
        return [row for part in parts for row in pq.read_table(io.BytesIO(part)).to_pylist()]


def test_requests_of_a_shard_are_those_that_leaml_plan_counts_with(
    proxy: Proxy, direct: Direct, base: str, tmp_path: Path, workers: None
) -> None:
    step = MapStep(base, tmp_path / "log", direct)
    proxy.clear()
    assert step.run()
    shards = COUNT // SIZE
    # what does not grow with the shards: index, engines and their start, the table's commit; listings, whether they are there
    looked = {"PUT": 8, "GET": 56}
    assert 0 <= proxy.requests["PUT"] - ENGINE_REQUESTS.shard[0] * shards <= looked["PUT"]
    assert 0 <= proxy.requests["GET"] + proxy.requests["HEAD"] - ENGINE_REQUESTS.shard[1] * shards <= looked["GET"]


@pytest.mark.parametrize("size", [SIZE, 1])
def test_a_finished_step_is_read_in_a_few_requests_however_many_shards_it_had(
    size: int, proxy: Proxy, direct: Direct, base: str, tmp_path: Path, workers: None
) -> None:
    step = MapStep(base, tmp_path / "log", direct, size)
    assert step.run()

    def requests(read: Callable[[], object]) -> int:
        proxy.clear()
        read()
        return sum(proxy.requests.values())

    found = StepRows(f"{step.uri}/out")
    assert found.columns(["image_id"])["image_id"].to_pylist() == step.ids
    assert (found.counts["images"], found.part(5, 3)["image_id"].to_pylist()) == (COUNT, step.ids[5:8])
    assert requests(lambda: StepRows(f"{step.uri}/out").counts) <= 3
    assert requests(lambda: StepRows(f"{step.uri}/out").columns(None)) <= 6
    assert requests(lambda: StepRows(f"{step.uri}/out").of(step.ids[7:9])) <= 9
    assert requests(step.run) <= 24  # nothing is to be done: the ids of images, a listing, the counts


def test_a_map_step_ends_right_however_often_the_storage_fails(
    proxy: Proxy, direct: Direct, base: str, tmp_path: Path, workers: None
) -> None:
    step = MapStep(base, tmp_path / "log", direct)
    proxy.plan = Plan(1.0, ("forbidden",), only=r"PUT .*/rows/shard-000002")  # a failure that no retry mends
    assert not step.run()
    message = str(step.runs[-1])
    assert f"cannot write {step.uri}/out/rows/shard-000002-" in message
    assert CHECK in message
    assert {step.ids[n] for n in range(2 * SIZE, 3 * SIZE)}.isdisjoint(step.committed())

    proxy.plan = Plan(0.2)
    while not step.run():
        assert len(step.runs) < 8, step.runs
        assert "s3://" in str(step.runs[-1]) or "AWS" in str(step.runs[-1])
    assert sum(proxy.faults.values()) > 5
    proxy.plan = Plan()
    assert step.committed() == Counter(step.ids)
    expected = {i: f"image {n},0 sample 0 extra {n}" for n, i in enumerate(step.ids)}
    assert {row["image_id"]: row["caption"] for row in step.rows()} == expected
    assert step.runs[-1]["images"] == COUNT
    assert step.run()
    assert calls(step.log).keys() == expected.keys()
