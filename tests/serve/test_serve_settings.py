"""Settings of the endpoint: unknown keys and impossible values are refused by name; the shipped file is what it claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from leaml.errors import ConfigError
from serve.settings import ServeSettings, load_settings, merged, read_settings


@pytest.mark.parametrize(
    ("tree", "word"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "a", "modle": 1}, "modle"),
        ({"model": "a", "name": "a b"}, "name"),
        ({"model": "a", "name": "../a"}, "name"),
        ({"model": "a", "domains": [{"name": "x/y", "source": "b"}]}, "domains"),
        ({"model": "a", "domains": [{"name": "x", "source": "b"}] * 2}, "more than once"),
        ({"model": "a", "limits": {"body_bytes": 0}}, "limits.body_bytes"),
        ({"model": "a", "scaling": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas"),
        ({"model": "a", "media": {"s3_prefixes": ["s3://bucket"]}}, "s3_prefixes"),
        ({"model": "a", "media": {"s3_prefixes": ["file:///etc/"]}}, "s3_prefixes"),
        ({"model": "a", "media": {"hosts": ["http://a.example"]}}, "hosts"),
        ({"model": "a", "media": {"hosts": ["A.example"]}}, "hosts"),
        ({"model": "a", "limits": {"body_bytes": 1000, "bodies_bytes": 999}}, "bodies_bytes"),
        ({"model": "a", "http": {"allowed_hosts": ["https://a.example"]}}, "allowed_hosts"),
        ({"model": "a", "http": {"allowed_hosts": ["*"]}}, "allowed_hosts"),
        ({"model": "a", "http": {"allowed_hosts": ["::1"]}}, "allowed_hosts"),
        ({"model": "a", "http": {"cors_origins": ["https://a.example/"]}}, "cors_origins"),
        ({"model": "a", "http": {"cors_origins": ["a.example"]}}, "cors_origins"),
        ({"model": "a", "http": {"cors_origins": ["null"]}}, "cors_origins"),
        *[
            ({"model": "a", "http": {key: [prefix + host]}}, key)
            for key, prefix in (("cors_origins", "http://"), ("allowed_hosts", ""))
            for host in (
                "a:0",
                "a:65536",
                "a:99999",
                "[abcd]",
                "[1::2::3]",
                "[127.0.0.1]",
                "127.1",
                "0x7f.1",
                "1.2.3.256",
                "a..b",
            )
        ],
    ],
)
def test_bad_settings_are_refused_by_name(tree: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        load_settings(tree)


def test_hosts_and_origins_are_kept_as_browsers_write_them() -> None:
    origins = {
        "https://A.Example": "https://a.example",
        "HTTPS://c.d:443": "https://c.d",
        "http://x:80": "http://x",
        "http://x:080": "http://x",
        "http://x:": "http://x",
        "http://x:443": "http://x:443",
        "https://x:80": "https://x:80",
        "https://x.:443": "https://x.",
        "http://[0:0:0:0:0:0:0:1]:80": "http://[::1]",
        "http://[2001:DB8:0::1]:8080": "http://[2001:db8::1]:8080",
        "http://[::ffff:127.0.0.1]": "http://[::ffff:7f00:1]",
        "app://localhost": "app://localhost",
        "*": "*",
    }
    hosts = {
        "A.Example.": "a.example",
        "a:443": "a:443",
        "a:": "a",
        "[2001:DB8:0::1]:08": "[2001:db8::1]:8",
        "10.0.0.9": "10.0.0.9",
    }
    http = load_settings({"model": "a", "http": {"cors_origins": list(origins), "allowed_hosts": list(hosts)}}).http
    assert http.cors_origins == list(origins.values())
    assert http.allowed_hosts == list(hosts.values())


def test_no_number_is_endless() -> None:
    def floats(model: type[BaseModel]) -> list[tuple[str, str]]:
        return [(model.__name__, name) for name, field in model.model_fields.items() if field.annotation is float]

    sections = {name: field.annotation for name, field in ServeSettings.model_fields.items()}
    found = 0
    for section, model in sections.items():
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for _, name in floats(model):
            found += 1
            for value in (float("inf"), float("nan")):
                with pytest.raises(ConfigError, match=f"{section}.{name}: .*finite"):
                    load_settings({"model": "a", section: {name: value}})
    assert found > 8


def test_every_field_says_what_it_is() -> None:
    def missing(model: type[BaseModel]) -> list[str]:
        found = [f"{model.__name__}.{n}" for n, f in model.model_fields.items() if not f.description]
        nested = [a for f in model.model_fields.values() if isinstance(a := f.annotation, type) and issubclass(a, BaseModel)]
        return found + [name for each in nested for name in missing(each)]

    assert missing(ServeSettings) == []


def test_a_stopped_replica_outlives_its_longest_answer() -> None:
    settings = load_settings({"model": "a", "limits": {"deadline_seconds": 300, "body_seconds": 20}})
    assert settings.drain_seconds > 320


def test_settings_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    plain, deployed = tmp_path / "plain.yaml", tmp_path / "deployed.yaml"
    plain.write_text("model: a\n")
    deployed.write_text(yaml.safe_dump({"applications": [{"name": "x", "import_path": "y", "args": {"model": "a"}}]}))
    assert read_settings(plain) == read_settings(deployed) == {"model": "a"}
    for content in ("[1]", "a: [", "applications: [{name: x}]", "model: a\nmodel: b\n"):
        plain.write_text(content)
        with pytest.raises(ConfigError):
            read_settings(plain)


def test_paths_of_a_file_are_those_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "adapters").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "there" / "serve.yaml"
    domains = [{"name": name, "source": source} for name, source in (("x", "adapters"), ("y", "s3://b/c"), ("z", "org/model"))]
    file.write_text(yaml.safe_dump({"model": "./run", "domains": domains, "auth": {"keys_file": "keys"}}))
    settings = load_settings(merged(file, {}, []))
    there = str(tmp_path / "there")
    assert (settings.model, settings.auth.keys_file) == (f"{there}/run", f"{there}/keys")
    assert [domain.source for domain in settings.domains] == [f"{there}/adapters", "s3://b/c", "org/model"]
    assert load_settings(merged("../there/serve.yaml", {"model": "leaml-tiny"}, [])).model == "leaml-tiny"


def test_the_documentation_lists_every_setting_as_it_is() -> None:
    def lines(model: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += lines(kind, f"{prefix}{name}.")
            else:
                default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
                found.append(f"| `{prefix}{name}` | {default} | {field.description} |")
        return found

    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert [line for line in lines(ServeSettings) if line not in text] == []
