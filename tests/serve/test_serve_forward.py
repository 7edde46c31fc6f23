"""HAProxy of a local server: what Ray writes for it is made safe, and two servers share nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from serve import forward

WRITTEN = """global
    maxconn 4096
defaults
    mode http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
  stats enable
"""


def test_statistics_stay_on_this_machine_headers_are_timed_and_it_alone_listens_at_the_host(tmp_path: Path) -> None:
    written, fake = tmp_path / "haproxy.cfg", tmp_path / "binary with space"
    written.write_text(WRITTEN)
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o700)
    script = tmp_path / "script"
    script.write_text(forward.SCRIPT.replace("BINARY", f"'{fake}'").replace("HEADERS", "7").replace("HOST", "10.1.2.3"))
    script.chmod(0o700)
    command = [str(script), "-db", "-f", str(written), "-sf", "123", "-x", "a b"]
    got = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert got == ["-db", "-f", f"{written}.own", "-sf", "123", "-x", "a b"]
    changed = (tmp_path / "haproxy.cfg.own").read_text().splitlines()
    assert [line.strip() for line in changed if "bind" in line] == [
        "bind 127.0.0.1:9101",
        "bind 10.1.2.3:8000",
        "bind 127.0.0.1:8404",
    ]
    assert changed[changed.index("defaults") + 1].strip() == "timeout http-request 7s"
    assert len(changed) == len(WRITTEN.splitlines()) + 1


def test_two_servers_share_no_file() -> None:
    one, other = forward.environment(10, "127.0.0.1"), forward.environment(10, "0.0.0.0")
    assert one[forward.SWITCH] == "1"
    own = [name for name in one if name.endswith(("_PATH", "_LOC", "_FILE", "_BASE"))]
    assert len(own) >= 6
    assert all(one[name] != other[name] for name in own)
    assert one["RAY_SERVE_HAPROXY_STATS_PORT"] != one["RAY_SERVE_HAPROXY_METRICS_PORT"]
    binary = Path(one["RAY_SERVE_HAPROXY_BINARY_PATH"])
    version = subprocess.run([str(binary), "-v"], capture_output=True, text=True, check=True).stdout
    assert "HAProxy" in version
