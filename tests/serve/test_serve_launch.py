"""`leaml serve` and `--add` refuse what cannot work before anything is started or connected to."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leaml.errors import ConfigError, InputError
from serve import launch
from serve.deploy import plan
from serve.settings import Domain, load_settings


@pytest.mark.parametrize(
    "address", [None, "", "auto", "local", "127.0.0.1", "http://127.0.0.1:8265", "ray://127.0.0.1:10001", "127.0.0.1:x", ":1"]
)
@pytest.mark.parametrize("change", [lambda a: launch.add_domain("x", "leaml-tiny", a), lambda a: launch.remove_domain("x", a)])
def test_the_server_to_change_is_named_by_its_ray(change: Callable[[str | None], object], address: str | None) -> None:
    with pytest.raises(InputError, match="--address HOST:PORT"):
        change(address)


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(InputError, match="no `leaml serve` answers"):
            launch.add_domain("x", "leaml-tiny", f"127.0.0.1:{free.getsockname()[1]}")
        assert time.monotonic() - began < 6


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a/b", "x" * 65])
def test_a_domain_has_a_name_that_clients_can_write(name: str) -> None:
    with pytest.raises(ConfigError, match="--add NAME=SOURCE: name"):
        launch.add_domain(name, "leaml-tiny", "127.0.0.1:1")


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use"):
            launch.start(load_settings({"model": "leaml-tiny", "http": {"port": port}}))


def test_other_domains_stay_as_they_were_deployed_where_their_files_cannot_be_read(tmp_path: Path) -> None:
    """Another shell may run in another folder, or as a process that does not see the others' files."""
    domains = [{"name": "medical", "source": "leaml-tiny-teacher"}]
    deployed = plan(load_settings({"model": "leaml-tiny", "domains": domains}), ["digest"])
    (model, config, adapter) = deployed.merged[0]
    gone = deployed.settings.model_copy(update={"domains": [Domain(name="medical", source=str(tmp_path / "unmounted"))]})
    deployed = type(deployed)(**(vars(deployed) | {"settings": gone}))

    changed = deployed.with_domain(Domain(name="sports", source="leaml-tiny-teacher"))
    assert [entry[0].id for entry in changed.merged] == ["leaml-tiny:medical", "leaml-tiny:sports"]
    assert changed.merged[0] == (model, config, adapter)
    assert changed.digests == ["digest"]
    assert deployed.merged == [(model, config, adapter)]  # what it goes back to is untouched

    back = changed.without("sports")
    assert back.merged == deployed.merged
    assert back.adapters == [] and set(back.cards) == set(deployed.cards)
    assert back.version == deployed.version  # no replica is replaced
    assert changed.without("medical").merged[0][0].id == "leaml-tiny:sports"
