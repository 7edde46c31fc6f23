"""A command whose own Ray ends, by whatever: it ends too, with all that Ray has started, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

DRIVER = """\
import os, signal, sys, time
import ray
from pipelines import local_ray, ray_watch
ray_watch._GRACE = 1.0

local_ray.start(num_cpus=1, log_to_driver=False)
ray.shutdown()
local_ray.start(num_cpus=1, log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: ray_watch.told_to_stop(0))  # Ray has put in its own

@ray.remote
class Holder:
    def process(self):
        return os.getpid()

holder = Holder.remote()
time.sleep(2.5)  # the Ray that was shut down is not taken for this one
print(ray.get(holder.process.remote()), flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("killed", "code", "words"),
    [("raylet", 1, "was it killed"), ("gcs_server", 1, "was it killed"), ("all of its group", 0, "at the same time")],
)
def test_it_ends_within_seconds_with_all_that_ray_has_started(tmp_path: Path, killed: str, code: int, words: str) -> None:
    given = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", DRIVER]
    out = subprocess.PIPE
    with subprocess.Popen(command, env=given, stdout=out, stderr=out, text=True, start_new_session=True) as driver:
        assert driver.stdout is not None and driver.stderr is not None
        try:
            worker = psutil.Process(int(driver.stdout.readline()))
            if killed == "all of its group":
                os.killpg(driver.pid, signal.SIGTERM)
            else:
                next(child for child in psutil.Process(driver.pid).children() if child.name() == killed).kill()
            assert driver.wait(60) == code
        finally:
            driver.kill()
        assert words in driver.stderr.read()
    end = time.monotonic() + 10
    while (alive := worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive
