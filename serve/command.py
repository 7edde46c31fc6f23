"""The command `leaml serve`, which pipelines/cli.py finds by its entry point."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from leaml.errors import InputError


def serve(
    model: Annotated[str | None, typer.Argument(help="Run folder, model folder, shipped name or hub id.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="a.b=value overrides.")] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of settings; see serve/config.yaml.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; any but loopback needs API keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0: any that is free, which is printed.")] = None,
    keys_file: Annotated[str | None, typer.Option(help="File with one API key a line; also LEAML_API_KEYS.")] = None,
    add: Annotated[str | None, typer.Option(help="NAME=SOURCE: add a domain to the server at --address.")] = None,
    remove: Annotated[str | None, typer.Option(help="NAME: remove a domain from the server at --address.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to serve on, host:port; none: start one here.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Ray and vLLM.")] = False,
) -> None:
    """Serve a model over HTTP: OpenAI-compatible chat, questions about images with confidences, a page to try it."""
    from serve.settings import load_settings, merged

    if add is not None or remove is not None:
        _change_domains(add, remove, address, [model, *(overrides or []), settings, host, port, keys_file])
        return
    given = {"model": model, "http.host": host, "http.port": port, "auth.keys_file": keys_file}
    tree = merged(settings, given, overrides or [])
    _refuse_no_model(tree.get("model"))
    found = load_settings(tree)
    if not found.http.port:
        found = found.model_copy(update={"http": found.http.model_copy(update={"port": _free_port(found.http.host, address)})})
    from serve.launch import serve_until_stopped  # imported after the settings are known to be good: it takes seconds

    serve_until_stopped(found, address, verbose)


def _refuse_no_model(model: object) -> None:
    if not model or (isinstance(model, str) and "=" in model and not Path(model).exists()):
        instead = f", and {model!r} is a setting, which goes behind it" if model else ""
        msg = (
            f"no model is given{instead}; name a run folder, model folder, shipped name or hub id, such as `leaml serve "
            "runs/mine`, or write `model:` into the file of --settings"
        )
        raise InputError(msg)


def _free_port(host: str, address: str | None) -> int:
    """A port of `host` that nothing listens on; 0 where the host is none of this machine's, which the server will say."""
    if address is not None:
        msg = f"--port 0 takes any port that is free here, not on the cluster at {address}; give the number of one"
        raise InputError(msg)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.create_server(where[:2], family=family) as server:
            return int(server.getsockname()[1])
    except OSError:
        return 0


def _change_domains(add: str | None, remove: str | None, address: str | None, others: Sequence[object]) -> None:
    """`leaml serve --add` and `--remove`: nothing else of the server that runs is changed, so nothing else may be given."""
    if any(other is not None for other in others) or (add is not None and remove is not None):
        msg = "--add and --remove change one domain of the server at --address; give one of them and nothing else beside it"
        raise InputError(msg)
    from serve import launch

    if add is None:
        assert remove is not None
        launch.remove_domain(remove, address)
        typer.echo(f"{remove} is not served any more")
        return
    name, separator, source = add.partition("=")
    if not separator or not source:
        msg = f"--add {add}: give NAME=SOURCE, for example sports=adapters/sports"
        raise InputError(msg)
    typer.echo(f"{launch.add_domain(name, source, address).id} is served")
