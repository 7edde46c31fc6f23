"""Where Gloo listens."""

from __future__ import annotations

import os

import psutil
import pytest

from pipelines import local_ray, process_group


def test_the_interface_of_an_address() -> None:
    assert local_ray.interface("127.0.0.1") == "lo"
    assert local_ray.interface("203.0.113.9") is None  # an address for documentation


def test_it_is_the_node_s_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            monkeypatch.setattr("ray.util.get_node_ip_address", lambda entry=entry: entry.address)
            monkeypatch.delenv(local_ray.GLOO, raising=False)
            process_group.listen_on_node_address()
            assert entry.address in {e.address for e in psutil.net_if_addrs()[os.environ[local_ray.GLOO]]}, name
    monkeypatch.setenv(local_ray.GLOO, "ib0")
    process_group.listen_on_node_address()
    assert os.environ[local_ray.GLOO] == "ib0"
