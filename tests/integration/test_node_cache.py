"""Copies of models on a node: several processes at once, one download; killed downloaders, full disks, changed folders."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import hub_of
from faulty import Plan, Proxy

from leaml.config import resolve_model
from leaml.errors import DataError, ResourceError
from leaml.io import files, node_cache

ENGINES = 4
COPY = "import sys; from leaml.io.node_cache import local_model; print(local_model(sys.argv[1]))"
SMALL = {"config.json": b"{}", "model.safetensors": os.urandom(300_000), "sub/tokenizer.json": b"[1]"}


@pytest.fixture(scope="module")
def proxy(server: str) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.stop()


@pytest.fixture
def model(bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of S3 with a model, seen through the proxy; copies go below `tmp_path`."""
    for name, content in SMALL.items():
        files.write_bytes(f"{bucket}/model/{name}", content)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv(node_cache.FOLDER, str(tmp_path / "cache"))
    proxy.clear()
    return f"{bucket}/model"


def started(count: int, code: str, *arguments: str) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(count)]


def said(processes: list[subprocess.Popen[str]]) -> list[str]:
    found = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), found
    return [out.strip() for out, _ in found]


def is_whole(folder: str | Path) -> bool:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()} == SMALL


def test_engines_of_a_node_download_a_model_once(model: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.plan = Plan(rate=1.0, kinds=("delay",))  # long enough for all of them to be there
    (folder,) = set(said(started(ENGINES, COPY, model)))
    assert is_whole(folder)
    assert Path(folder).parent == tmp_path / "cache"
    # each process lists the folder once; one asks whether it is a folder (2), lists it, has each object's size and content, and
    # lists the folder again
    assert dict(proxy.requests) == {"GET": ENGINES + 1 + 1 + len(SMALL) + 1, "HEAD": 1 + len(SMALL)}

    proxy.clear()
    assert node_cache.local_model(model) == folder
    assert dict(proxy.requests) == {"GET": 1}


def test_a_killed_download_is_neither_taken_for_whole_nor_waited_for(model: str, proxy: Proxy, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    proxy.plan = Plan(rate=1.0, kinds=("hang",), only="GET .*safetensors", hang=60)
    (first,) = started(1, COPY, model)
    end = time.monotonic() + 60
    while not (list(cache.glob("*.part/config.json")) and proxy.faults):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.05)
    waiting = started(2, COPY, model)
    time.sleep(0.5)
    assert not [p for p in cache.iterdir() if p.is_dir() and p.suffix != ".part"]

    proxy.plan = Plan()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    (folder,) = set(said(waiting))
    assert is_whole(folder)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == [Path(folder).name]


def test_a_download_that_fails_leaves_nothing_and_the_next_one_works(model: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.plan = Plan(rate=1.0, kinds=("forbidden",), only="GET .*safetensors")
    with pytest.raises(DataError, match=r"cannot read .*model\.safetensors.*check bucket, endpoint and AWS credentials"):
        node_cache.local_model(model)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []
    proxy.plan = Plan()
    assert is_whole(node_cache.local_model(model))


def test_another_content_under_the_same_name_is_another_copy(model: str) -> None:
    before = node_cache.local_model(model)
    files.write_bytes(f"{model}/config.json", b'{"new": 1}')
    after = node_cache.local_model(model)
    assert before != after
    assert Path(after, "config.json").read_bytes() == b'{"new": 1}'
    assert is_whole(before)  # an engine may still read it


def test_a_folder_that_changes_while_it_is_copied_is_not_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = files.download_tree

    def slow(uri: str, folder: str) -> None:
        download(uri, folder)
        files.write_bytes(f"{uri}/model.safetensors", b"new weights")

    monkeypatch.setattr(files, "download_tree", slow)
    with pytest.raises(DataError, match="changed while it was copied; run the same command again"):
        node_cache.local_model(model)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_nothing_there_is_an_error(model: str) -> None:
    with pytest.raises(DataError, match=r"model-2 does not exist; check the path and the endpoint"):
        node_cache.local_model(f"{model}-2")


# --- a disk that is full -------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk with room for two folders of a gigabyte."""
    found = tmp_path / "cache"
    monkeypatch.setenv(node_cache.FOLDER, str(found))

    def usage(folder: Path) -> Any:
        made = sum(p.is_dir() for p in found.iterdir() if p.name.startswith("leaml-"))
        return SimpleNamespace(free=node_cache._BESIDE + (2 - made) * 2**30)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return found


def made(name: str, size: int = 2**30) -> str:
    return node_cache.made_once(name, lambda where: Path(where).mkdir(), size)


def let_go(folder: str) -> None:
    """As the end of this process does."""
    os.close(node_cache._HELD.pop(folder))


def test_the_longest_unused_copy_gives_way_where_the_disk_is_full(cache: Path) -> None:
    first, second = made("leaml-a"), made("leaml-b")
    os.utime(first, (1, 1))
    made("leaml-a")  # used again, so `second` is the longest unused
    os.utime(second, (2, 2))
    let_go(first)
    let_go(second)
    made("leaml-c")
    assert sorted(p.name for p in cache.iterdir() if p.is_dir()) == ["leaml-a", "leaml-c"]


def test_copies_in_use_stay_and_a_full_disk_is_said(cache: Path) -> None:
    holds = "from leaml.io.node_cache import made_once; made_once('leaml-a', lambda p: None); print(flush=True); input()"
    made("leaml-a")
    let_go(str(cache / "leaml-a"))
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "\n"
        made("leaml-b")
        with pytest.raises(ResourceError, match=r"leaml-c needs 1\.0 GiB, and .* has 0\.0 GiB beside .*resources\.model_cache"):
            made("leaml-c")
        other.kill()
    made("leaml-c")  # whoever used the first one is gone
    assert sorted(p.name for p in cache.iterdir() if p.is_dir()) == ["leaml-b", "leaml-c"]


def test_a_folder_that_is_being_made_does_not_give_way(cache: Path) -> None:
    made("leaml-b")
    let_go(str(cache / "leaml-b"))
    (cache / "leaml-a.part").mkdir()
    with (cache / "leaml-a.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(cache / "leaml-a.part", (1, 1))
        made("leaml-c")
        assert (cache / "leaml-a.part").is_dir() and not (cache / "leaml-b").exists()
    made("leaml-d")
    assert not (cache / "leaml-a.part").exists()  # nobody makes it any more


def test_a_folder_may_be_made_from_another_one(cache: Path) -> None:
    """A merged model from its base."""
    name = node_cache.made_once("leaml-merged", lambda where: shutil.copytree(made("leaml-base"), where))
    assert Path(name).is_dir() and (cache / "leaml-base").is_dir()


def test_threads_of_a_process_make_a_folder_once(cache: Path) -> None:
    calls = list[str]()

    def make(where: str) -> None:
        calls.append(where)
        time.sleep(0.1)
        Path(where).mkdir()

    threads = [threading.Thread(target=lambda: node_cache.made_once("leaml-x", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(node_cache.FOLDER, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "leaml-models-12345").mkdir()
    with pytest.raises(ResourceError, match=r"leaml-models-12345 .* belongs to another user; set resources\.model_cache"):
        made("leaml-x")


# --- the hub -------------------------------------------------------------------------------------------------------------

FETCH = """
import sys
from huggingface_hub import hf_hub_download
print({hf_hub_download("owner/name", name).rpartition("/")[0] for name in sys.argv[1:]}.pop())
"""


def test_a_hub_is_asked_once_for_all_processes_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hub's own library and its own locks, in the folder that the configuration names."""
    asked = list[str]()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in (node_cache.FOLDER, "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "elsewhere")
    node_cache.use(str(tmp_path))
    from huggingface_hub import constants

    # of this process, which had read the environment before
    assert f"{tmp_path}/hub" == constants.HF_HUB_CACHE
    with hub_of(Path(resolve_model("leaml-tiny")), asked) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        names = sorted(file.name for file in Path(resolve_model("leaml-tiny")).iterdir())
        (folder,) = set(said(started(ENGINES, FETCH, *names)))
    assert folder.startswith(f"{tmp_path}/hub/")
    assert sorted(asked) == names
