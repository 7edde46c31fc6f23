"""Local paths and a real S3 server over HTTP must behave alike."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from leaml.data import changes
from leaml.errors import DataError
from leaml.io import files, s3, stored


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place, on disk or in a bucket."""
    if request.param == "local":
        return str(tmp_path / "base")
    endpoint = request.getfixturevalue("server")
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in {**settings, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/base"


def test_write_read_list_delete(base: str) -> None:
    names = ["a.txt", "deep/er/b.TXT", "deep/ü %20#?.png"]
    for name in names:
        assert files.write_bytes(files.join(base, name), name.encode())
    assert [files.read_bytes(files.join(base, name)).decode() for name in names] == names
    assert files.listing(base) == sorted(files.join(base, name) for name in names)
    assert files.listing(base, [".txt"]) == [files.join(base, name) for name in names[:2]]
    assert files.listing(base, recursive=False) == [files.join(base, "a.txt")]
    assert files.exists(files.join(base, "deep"))
    assert not files.is_file(files.join(base, "deep"))
    with files.open_read(files.join(base, "a.txt")) as stream:
        stream.seek(2)
        assert stream.read() == b"txt"
    files.delete_tree(files.join(base, "deep"))
    assert files.listing(base) == [files.join(base, "a.txt")]
    files.delete_tree(files.join(base, "a.txt"))
    assert not files.exists(files.join(base, "a.txt"))
    files.delete_tree(files.join(base, "never"))


def test_overwrite_replaces_and_if_absent_does_not(base: str) -> None:
    uri = files.join(base, "x")
    assert files.write_bytes(uri, b"first", if_absent=True)
    assert not files.write_bytes(uri, b"second", if_absent=True)
    assert files.read_bytes(uri) == b"first"
    assert files.write_bytes(uri, b"third")
    assert files.read_bytes(uri) == b"third"


def test_of_many_writers_exactly_one_wins(base: str) -> None:
    uri = files.join(base, "lock")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: files.write_bytes(uri, str(n).encode(), if_absent=True), range(16)))
    assert won.count(True) == 1
    assert files.read_bytes(uri).decode() == str(won.index(True))


def test_trees_travel_both_ways(base: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    (start / "sub").mkdir(parents=True)
    (start / "one").write_bytes(b"1")
    (start / "sub" / "two").write_bytes(b"2" * 3_000_000)
    files.upload_tree(str(start), files.join(base, "tree"))
    files.download_tree(files.join(base, "tree").replace("s3://", "S3://"), str(tmp_path / "back"))
    back = {
        p.relative_to(tmp_path / "back").as_posix(): p.stat().st_size for p in (tmp_path / "back").rglob("*") if p.is_file()
    }
    assert back == {"one": 1, "sub/two": 3_000_000}


def test_missing_things_name_path_and_fix(base: str) -> None:
    gone = files.join(base, "gone.txt")
    for function in (files.read_bytes, files.listing, files.open_native, files.is_file):
        with pytest.raises(DataError, match=r"gone\.txt does not exist; check the path"):
            function(gone)
    with pytest.raises(DataError, match=r"braces are not expanded, give the folder"):
        files.is_file(files.join(base, "s-{000..001}.tar"))
    files.write_bytes(gone, b"12345")
    with pytest.raises(DataError, match="5 bytes, over the limit of 4"):
        files.read_bytes(gone, max_bytes=4)
    with pytest.raises(DataError, match="is a file; give the folder"):
        files.listing(gone)


def test_local_copy_has_the_content_and_suffix(base: str) -> None:
    uri = files.join(base, "clip.mp4")
    files.write_bytes(uri, b"movie")
    with files.local_copy(uri) as path:
        assert path.endswith(".mp4")
        assert Path(path).read_bytes() == b"movie"
    assert Path(path).exists() == (not files.is_remote(uri))


def test_large_files_are_published_whole(base: str, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(9_000_000))  # above boto3's multi-part threshold
    files.publish_file(str(big), files.join(base, "out", "big"))
    assert files.read_bytes(files.join(base, "out", "big")) == big.read_bytes()


def test_a_fingerprint_follows_size_and_content(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, content = files.join(base, "big.bin"), bytearray(b"head....middle....tail")
    files.write_bytes(uri, bytes(content))
    whole = files.fingerprint(uri)
    files.write_bytes(files.join(base, "copy.bin"), bytes(content))
    assert files.fingerprint(files.join(base, "copy.bin")) == whole
    monkeypatch.setattr(files, "_WHOLE", 10)
    monkeypatch.setattr(files, "_PART", 2)
    monkeypatch.setattr(files, "_PARTS", 3)
    seen = {whole, files.fingerprint(uri)}
    # of a large file parts at equal distances are read
    for place, new in ((0, True), (len(content) - 1, True), (len(content) // 2 - 1, True), (6, False), (15, False)):
        content[place] ^= 1
        files.write_bytes(uri, bytes(content))
        assert (files.fingerprint(uri) not in seen) == new
        seen.add(files.fingerprint(uri))
    files.write_bytes(uri, bytes(content) + b"tail")
    assert files.fingerprint(uri) not in seen
    with pytest.raises(DataError, match="nothing"):
        files.fingerprint(files.join(base, "nothing"))


def test_a_large_file_that_is_mended_between_the_parts_has_another_fingerprint_where_people_edit_it(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights keep theirs, so that their folder may be copied; small files are read whole, so their time says nothing."""
    uri, content = files.join(base, "folder", "rows.jsonl"), b"head.red........tail"
    files.write_bytes(uri, content)
    small = files.fingerprint(uri, edited=True)
    assert small == files.fingerprint(uri)
    monkeypatch.setattr(files, "_WHOLE", 10)
    monkeypatch.setattr(files, "_PART", 2)
    monkeypatch.setattr(files, "_PARTS", 3)

    def seen(edited: bool) -> list[str]:
        return [files.fingerprint(files.join(base, name), edited) for name in ("folder/rows.jsonl", "folder")]

    before, weights = seen(edited=True), seen(edited=False)
    assert seen(edited=True) == before
    files.write_bytes(uri, content.replace(b"red", b"tan"))
    assert not set(seen(edited=True)) & {*before, small}
    assert seen(edited=False) == weights


def test_the_state_of_files_changes_when_one_is_mended_gone_or_new(base: str) -> None:
    names = ["a//1.png", "a/2.png", "2.png"] if base.startswith("s3://") else ["a/1.png", "a/2.png", "2.png"]
    for name in names:
        files.write_bytes(files.join(base, name), b"1")
    uris = [files.join(base, name) for name in (*names[:2], "none.png", "2.png#row", "hf://x/y#3")]

    def now() -> tuple[str, str]:
        return changes.state(uris), changes.state([], files.join(base, "a"), without=files.join(base, "a", "runs"))

    seen = [now()]
    assert now() == seen[0]
    files.write_bytes(files.join(base, "a", "runs", "x.json"), b"of a run")
    assert now() == seen[0]
    for name, data, of_files, of_folder in (
        ("a/2.png", b"2", True, True),
        ("2.png", b"other", True, False),
        ("none.png", b"found", True, False),
        ("a/new.png", b"new", False, True),
        (names[0], None, True, True),
    ):
        if data is None:
            files.delete_tree(files.join(base, name))
        else:
            files.write_bytes(files.join(base, name), data)
        found = now()
        assert [a != b for a, b in zip(found, seen[-1], strict=True)] == [of_files, of_folder], name
        seen.append(found)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "x")
    files.write_bytes(uri, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*No space left"):
        files.write_bytes(uri, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert Path(uri).read_bytes() == b"old"


def test_temporary_files_of_other_writers_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".part.parquet.abc.tmp").write_bytes(b"half")
    (tmp_path / "part.parquet").write_bytes(b"whole")
    assert files.listing(str(tmp_path)) == [str(tmp_path / "part.parquet")]


ADDRESSES = ["gs://bucket/x", "http://host/x", "s3://", "s3:///x", "s3:////x", "S3:///bucket/key", "file:///x"]
SLASHES = ["s3:", "s3:x", "s3:/bucket/key", "S3:/bucket/key", "http:/x", "https:x", "file:/x", "gs:/b/x", "hf:a/b"]


@pytest.mark.parametrize("uri", [*ADDRESSES, *SLASHES])
@pytest.mark.parametrize("function", [files.read_bytes, files.exists, files.is_file, files.listing, files.absolute])
def test_unusable_addresses_are_refused_in_one_message(uri: str, function: Callable[[str], object]) -> None:
    if function is files.absolute and uri.lower().startswith("s3://"):
        return  # it looks at no bucket
    with pytest.raises(DataError, match="s3://bucket/key"):
        function(uri)


def test_a_nul_in_an_address_is_refused_wherever_it_is() -> None:
    for uri in ("a\0b", "s3://bucket/a\0b"):
        with pytest.raises(DataError, match="holds a NUL"):
            files.read_bytes(uri)


@pytest.mark.parametrize("name", ["x" * 304, "y/" * 3000 + "a", "a\0b" + "z" * 400, "loop", "loop/a", "\ud83d"])
def test_what_names_no_file_is_refused_in_a_short_message(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    uri = f"{tmp_path}/{name}"
    for function in (files.read_bytes, files.is_file, files.listing, files.open_native):
        with pytest.raises(DataError) as refused:
            function(uri)
        assert len(str(refused.value)) < 700
    if "\0" not in name and "\ud83d" not in name:
        assert not files.exists(uri)


@pytest.mark.parametrize("name", ["x" * 304, "y" * 5000, "y/" * 3000, "\u00e9" * 200])
def test_a_text_that_is_too_long_is_no_name_of_an_image(name: str) -> None:
    with pytest.raises(DataError, match=rf"a text of {len(name)} characters, neither a path nor an image in base64"):
        files.resolve("images", name)
    if len(name) <= 304:  # keys in S3 have no limit between slashes
        assert files.resolve("s3://bucket/images", name).endswith(name)


@pytest.mark.parametrize("name", ["a:b.png", "12:30.png", "x:/y.png", "./s3:x"])
def test_a_local_file_may_have_a_colon(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_bytes(name, b"1")
    assert files.read_bytes(name) == b"1"
    assert files.is_file(name)
    files.delete_tree(name)
    assert not files.exists(name)


def test_an_unreachable_bucket_names_what_to_check(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match="s3://no-such-bucket/x"):
        files.write_bytes("s3://no-such-bucket/x", b"")
    with pytest.raises(DataError, match="s3://no-such-bucket/x"):
        files.read_bytes("s3://no-such-bucket/x")


@pytest.mark.parametrize("folder", ["data/images", "/data/images", "s3://bucket/images", "."])
def test_resolve_keeps_inside_the_folder(folder: str) -> None:
    inside = files.resolve(folder, "a/../b.png")
    assert posixpath.basename(inside) == "b.png"
    if folder != ".":
        assert files.resolve(folder, files.join(folder, "c.png") if folder[0] in "/s" else "c.png").endswith("images/c.png")
    for bad in ("../secret", "a/../../secret", "/etc/passwd", "s3://other/key", "x\0.png"):
        with pytest.raises(DataError, match="outside of the folder"):
            files.resolve(folder, bad)


def test_listing_follows_links_once_and_shows_dangling_ones(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"x")
    base = tmp_path / "base"
    base.mkdir()
    (base / "link").symlink_to(tmp_path / "real")
    (base / "loop").symlink_to(base)
    (base / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(base / "pipe")  # reading it would hang
    assert files.listing(str(base)) == [str(base / "dangling"), str(base / "link" / "x")]


def test_published_files_follow_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    files.write_bytes(str(tmp_path / "published"), b"x")
    assert (tmp_path / "published").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("key", ["frames//double.png", "frames/a b+c%20d.png", "frames/é中😀.png", "frames/sub//x//y.png"])
def test_13_every_key_that_is_listed_is_read(bucket: str, key: str) -> None:
    import boto3

    client = boto3.client("s3")
    name = bucket.removeprefix("s3://")
    client.put_object(Bucket=name, Key="frames/", Body=b"")  # a folder, as consoles make them
    client.put_object(Bucket=name, Key="frames/plain.png", Body=b"1")
    client.put_object(Bucket=name, Key=key, Body=b"22")
    assert sorted(files.listing(f"{bucket}/frames", [".png"])) == sorted([f"{bucket}/{key}", f"{bucket}/frames/plain.png"])
    assert files.read_bytes(f"{bucket}/{key}") == b"22"
    assert files.is_file(f"{bucket}/{key}")
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        files.read_bytes(f"{bucket}/frames//gone.png")
    with pytest.raises(DataError, match="over the limit of 1"):
        files.read_bytes(f"{bucket}/{key}", 1)


def test_13_a_folder_with_an_empty_part_in_its_path_is_one(bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    folder = f"{bucket}/frames//day"
    for key in ("frames//day/1.png", "frames//day/sub/2.png", "frames//day/", "frames//days/3.png"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"1" if key.endswith("png") else b"")
    assert files.exists(folder)
    assert not files.is_file(folder)
    assert files.listing(f"{folder}/") == files.listing(folder) == [f"{folder}/1.png", f"{folder}/sub/2.png"]
    assert files.listing(folder, recursive=False) == [f"{folder}/1.png"]
    assert [file.uri for file in stored.image_files(folder, [".png"])] == [f"{folder}/1.png", f"{folder}/sub/2.png"]
    with pytest.raises(DataError, match="does not exist"):
        files.listing(f"{bucket}/frames//da")
    files.delete_tree(folder)
    assert not files.exists(folder)
    assert files.listing(f"{bucket}/frames") == [f"{bucket}/frames//days/3.png"]


def test_13_an_object_with_an_empty_part_in_its_key_is_read_in_parts(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, content = f"{bucket}/a//big.bin", os.urandom(300_000)
    files.write_bytes(uri, content)
    asked: list[int] = []
    original = s3.Object.readinto

    def spy(self: s3.Object, buffer: bytearray) -> int:
        asked.append(len(buffer))
        return original(self, buffer)

    monkeypatch.setattr(s3.Object, "readinto", spy)
    with pytest.raises(DataError, match="300000 bytes, over the limit of 1000"):
        files.read_bytes(uri, 1000)
    assert asked == []  # the limit is looked at before anything is read
    with files.open_native(uri) as stream:
        stream.seek(299_990)
        assert stream.read(100) == content[299_990:]
    assert sum(asked) <= 100
    assert files.read_bytes(uri) == content
    with files.open_read(uri) as buffered:
        assert (buffered.read(5), buffered.seek(-5, 2), buffered.read()) == (content[:5], 299_995, content[-5:])
