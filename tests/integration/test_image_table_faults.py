"""Images tables in storage that misbehaves: commits whose reply is lost, two at once, faults of any request, an outage."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from faulty import Plan, Proxy
from PIL import Image
from test_s3_faults import BUCKET, CHECK, Direct, base, direct, line, proxy  # noqa: F401  # fixtures

from leaml.config import SourceConfig
from leaml.data import image_table, parts, tables
from leaml.data.image_table import ImageTable
from leaml.data.ingest import ingest
from leaml.errors import DataError
from leaml.io import files, lance_tables, s3

COUNT = 60


def rows(mark: str = "a") -> list[dict[str, Any]]:
    return [{"image_id": f"{n:032x}", "uri": f"{mark}{n}", "bytes": f"{mark} {n} ".encode() * 500} for n in range(COUNT)]


def check(uri: str, mark: str = "a") -> None:
    wanted = [7, 3, COUNT - 1, 30]
    table = ImageTable(uri)
    assert [image["bytes"] for image in table.read(wanted)] == [rows(mark)[n]["bytes"] for n in wanted]
    assert table.columns(["uri"])["uri"].to_pylist() == [row["uri"] for row in rows(mark)]


@pytest.fixture
def uri(base: str, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    monkeypatch.setattr(image_table, "PART_IMAGES", 16)
    return f"s3://{BUCKET}/{base}/images"


def test_a_commit_whose_reply_is_lost_is_a_commit(proxy: Proxy, uri: str) -> None:  # noqa: F811
    proxy.plan = Plan(1.0, ("lost_reply",), only=r"PUT .*/_versions/", most=1)
    image_table.write(uri, rows())
    assert proxy.faults["lost_reply"] >= 1
    check(uri)


def test_a_table_is_written_and_read_however_often_requests_fail(proxy: Proxy, uri: str) -> None:  # noqa: F811
    proxy.plan = Plan(0.2, most=3)
    image_table.write(uri, rows())
    check(uri)
    assert sum(proxy.faults.values()) > 3


def test_an_ingest_in_parts_is_whole_however_often_requests_fail(
    proxy: Proxy,  # noqa: F811
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "PART_RECORDS", 3)
    buffers = [io.BytesIO() for _ in range(12)]
    for number, buffer in enumerate(buffers):
        Image.new("RGB", (8, 8), (number % 10, 0, 0)).save(buffer, "PNG")  # the last two are the first two
        files.write_bytes(f"{uri}-frames/{number:02d}.png", buffer.getvalue())
    proxy.plan = Plan(0.2, most=3)
    result = ingest(SourceConfig(format="folder", path=f"{uri}-frames"), uri, None)
    assert (result.images, result.seen, result.copies) == (10, 12, 2)
    assert [image["bytes"] for image in ImageTable(uri).read(list(range(10)))] == [b.getvalue() for b in buffers[:10]]
    assert sum(proxy.faults.values()) > 3


def test_of_commits_at_once_readers_see_one_whole_and_the_others_are_told(proxy: Proxy, uri: str) -> None:  # noqa: F811
    fragments = {mark: [lance_tables.write_fragment(uri, tables.table(rows(mark), tables.IMAGES))] for mark in "abcd"}

    def commit(mark: str) -> str | None:
        try:
            lance_tables.commit(uri, tables.IMAGES, fragments[mark])
        except DataError as error:
            assert "another process has made a table there at the same time" in str(error)
            return None
        return mark

    with ThreadPoolExecutor(4) as pool:
        committed = [mark for mark in pool.map(commit, "abcd") if mark]
    assert committed
    found = ImageTable(uri).columns(["uri"], first=1)["uri"][0].as_py()[0]
    assert found in committed
    check(uri, found)


def test_a_table_without_its_commit_is_none(proxy: Proxy, direct: Direct, uri: str) -> None:  # noqa: F811
    lance_tables.write_fragment(uri, tables.table(rows(), tables.IMAGES))
    assert direct.keys(uri.removeprefix(f"s3://{BUCKET}/"))
    with pytest.raises(DataError, match=rf"^{uri} holds no table; check the path"):
        ImageTable(uri)


def test_an_outage_is_waited_for(proxy: Proxy, uri: str) -> None:  # noqa: F811
    image_table.write(uri, rows())
    proxy.plan = Plan(1.0, ("reset",))
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(check, uri)
        time.sleep(3)
        assert not read.done()
        proxy.plan = Plan()
        read.result()


def test_storage_that_is_gone_is_an_error_that_says_so(
    proxy: Proxy,  # noqa: F811
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3, "_READ_RETRIES", 1)
    monkeypatch.setattr(s3, "_LANCE_SECONDS", 2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "impatient")
    gone = Proxy(proxy.endpoint)
    gone.stop()
    monkeypatch.setenv("AWS_ENDPOINT_URL", gone.endpoint)
    began = time.time()
    with pytest.raises(DataError, match=CHECK):
        ImageTable(uri)
    assert time.time() - began < 60
