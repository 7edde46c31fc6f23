"""The `leaml` command. Exit code 0: done; 2: bad input or configuration (one message, no traceback); 1: failure."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from leaml import __version__
from leaml.errors import ConfigError, InterruptedCommandError, LeamlError
from pipelines import ray_watch
from pipelines.steps import COMMANDS, LAST


def _terminate(*_: object) -> None:
    """SIGTERM, as batch systems and containers send it: to the code that runs, what Ctrl-C is."""
    Commands.terminated = True
    ray_watch.told_to_stop(128 + signal.SIGTERM)
    raise KeyboardInterrupt


class Commands(typer.core.TyperGroup):
    """Typer would end an interrupted command without a word."""

    terminated = False  # by SIGTERM; what the handler raises does not tell: Ray's calls raise their own KeyboardInterrupt

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command. Raises InterruptedCommandError on Ctrl-C and SIGTERM."""
        main = threading.current_thread() is threading.main_thread()  # no other thread may have a handler
        Commands.terminated = False
        before = signal.signal(signal.SIGTERM, _terminate) if main else None
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            kept = "; ".join(getattr(error, "__notes__", []))
            msg = f"interrupted{f'; {kept}' if kept else ''}; the same command goes on"
            by = signal.SIGTERM if Commands.terminated else signal.SIGINT
            raise InterruptedCommandError(msg, 128 + by) from None
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)


app = typer.Typer(
    cls=Commands,
    help="Label-efficient adaptation of vision-language models (LEAML).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ConfigFile = Annotated[Path, typer.Argument(help="YAML file, or a shipped one by its name, such as demo.")]
RunFolder = Annotated[str, typer.Argument(help="Run folder, local or s3://, or its config file or name.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="a.b=value overrides.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Ray and vLLM.")]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"leaml {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def _run(config_file: Path, overrides: list[str] | None, until: str, verbose: bool) -> None:
    from pipelines.recipes import load

    config = load(config_file, overrides)
    from pipelines.adapt import adapt  # imported after the configuration is known to be good: it takes seconds

    adapt(config, until, verbose)


@app.command(help=f"Run every step: {', '.join(spec.name for spec in COMMANDS)}. Finished steps are reused.")
def adapt(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check as a run does, print steps, rows and estimated GPU-hours; run nothing.")
    ] = False,
    submit: Annotated[
        str | None, typer.Option(help="Run as a job of the Ray cluster at this address, http://host:8265.")
    ] = None,
    from_image: Annotated[bool, typer.Option("--from-image", help="--submit: run the image's LEAML, not this tree's.")] = False,
    shared_storage: Annotated[bool, typer.Option("--shared-storage", help="--submit: all nodes mount the storage.")] = False,
    verbose: Verbose = False,
) -> None:
    if not dry_run and submit is None:
        _run(config, overrides, LAST, verbose)
        return
    from pipelines.recipes import load

    found = load(config, overrides)
    if submit is not None and not dry_run:
        from pipelines.submit import submit as submit_run

        submit_run(found, submit, from_image, shared_storage, verbose)
        return
    from pipelines import plan

    if submit is not None:  # the job looks at data and models, which need not be on this machine
        plan.show(found)
        return
    from pipelines.trial import refuse, refuse_machine

    tried = refuse(found)
    plan.show(found, tried.amounts)
    for note in tried.notes:
        plan.print_line(f"  {note}")
    refuse_machine(found)


def _step_command(name: str) -> Callable[..., None]:
    def command(config: ConfigFile, overrides: Overrides = None, verbose: Verbose = False) -> None:
        _run(config, overrides, name, verbose)

    return command


def _select(
    config: ConfigFile,
    overrides: Overrides = None,
    plot: Annotated[str | None, typer.Option(help="Draw the selection by layer and module to this .svg or .png file.")] = None,
    verbose: Verbose = False,
) -> None:
    """The command of the step, which can draw what was selected."""
    if plot is None:
        _run(config, overrides, "select", verbose)
        return
    from leaml.neurons.plots import check_format
    from pipelines.recipes import load

    run_folder = load(config, overrides).run_folder
    check_format(plot)
    _run(config, overrides, "select", verbose)
    from pipelines.selection import draw

    draw(run_folder, plot)


for _number, _spec in enumerate(COMMANDS):
    app.command(_spec.name, help=f"Step {_number}: {_spec.what}. Earlier steps are run first unless finished.")(
        _select if _spec.name == "select" else _step_command(_spec.name)
    )


@app.command()
def tune(config: ConfigFile, overrides: Overrides = None, verbose: Verbose = False) -> None:
    """Search over the ranges in tune.space; ends with the best configuration as YAML, a table and a plot."""
    from pipelines.recipes import load

    loaded = load(config, overrides)
    from pipelines.tune import tune as search

    search(loaded, verbose)


@app.command()
def predict(
    run: Annotated[
        str, typer.Argument(help="Run with a finished model, local or s3://, a model folder, shipped name or hub id.")
    ],
    images: Annotated[str, typer.Option(help="Folder of images, local or s3://.")],
    questions: Annotated[
        str, typer.Option(help="JSONL or CSV, also of labels: image, question, options; without image: about each.")
    ],
    output: Annotated[str, typer.Option(help="Table to write, Parquet, or CSV if it ends in .csv.")] = "predictions.parquet",
    overrides: Annotated[list[str] | None, typer.Argument(help="resources.key=value overrides.")] = None,
    verbose: Verbose = False,
) -> None:
    """Answer questions about a folder of images in batches; killed, the same command goes on."""
    from pipelines.predict import predict as answer

    answer(run, images, questions, output, overrides, verbose)


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    frames: Annotated[
        list[int] | None, typer.Option(help="Plan for so many unlabeled images instead; may be given several times.")
    ] = None,
    deadline: Annotated[float, typer.Option(min=0.1, help="Hours in which the run should be done.")] = 24.0,
    node_gpus: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 8,
    gpu_hour: Annotated[float, typer.Option(min=0, help="Price of a GPU-hour.")] = 2.5,
    puts: Annotated[float, typer.Option(min=0, help="Price of a thousand PUT requests.")] = 0.005,
    gets: Annotated[float, typer.Option(min=0, help="Price of a thousand GET requests.")] = 0.0004,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What each step takes, makes, costs and needs, what is reused, and the total: hours, GPU-hours, requests, money."""
    from pipelines.recipes import load

    found = load(config, overrides)
    from pipelines.plan import show
    from pipelines.plan_totals import Prices

    show(found, None, frames or [], Prices(gpu_hour, puts, gets, node_gpus, deadline), as_json)


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Run folder, local or s3://, its config file or name, or a local folder of runs.")],
    overrides: Overrides = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every 2 s until the run has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch one line each time.")] = False,
) -> None:
    """Which steps of a run are done, how far the running one is, and whether a process works on it."""
    from pipelines.status import folder_of, show

    show(folder_of(run, overrides), as_json, watch)


@app.command()
def inspect(
    run: RunFolder,
    overrides: Overrides = None,
    *,
    image: Annotated[str, typer.Option(help="An image_id, its beginning, or a file name.")],
) -> None:
    """The story of one image: labels, caption, every pseudo pair with its scores and verdict, every model's answers."""
    from pipelines.inspect_image import show
    from pipelines.status import folder_of

    show(folder_of(run, overrides), image)


@app.command()
def report(run: RunFolder, overrides: Overrides = None) -> None:
    """Print the accuracy table of a finished run and where its report page is."""
    from leaml.errors import DataError
    from leaml.io import files
    from pipelines.progress import say
    from pipelines.report import print_table
    from pipelines.status import folder_of

    run = folder_of(run, overrides)
    file = files.join(run, "evaluation", "metrics.json")
    if not files.exists(file):
        msg = f"{run} has no evaluation/metrics.json yet; run `leaml adapt` to its end first"
        raise DataError(msg)
    print_table(json.loads(files.read_bytes(file)))
    say(f"report: {files.join(run, 'report', 'index.html')}")


@app.command()
def doctor(storage: Annotated[str | None, typer.Option(help="Storage to try, for example s3://bucket/prefix.")] = None) -> None:
    """Check Python, packages, disk, memory, GPU and storage; print what works, what does not, and the fix."""
    from leaml.doctor import run

    raise typer.Exit(run(storage))


@app.command()
def config(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file, or a shipped one by its name, to validate and print resolved.")
    ] = None,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="List every key with default and meaning.")] = False,
    source: Annotated[
        bool, typer.Option("--source", help="Print the file as it is, with its comments: to copy and edit.")
    ] = False,
) -> None:
    """Explain all keys, or print a file as it resolves."""
    import yaml

    from leaml.config import explain as explained
    from pipelines import recipes

    if explain or file is None:
        for key, default, description in explained():
            typer.echo(f"{key} = {default}\n    {description}")
        return
    if source and overrides:
        msg = f"--source prints the file as it is and takes no overrides; leave out {overrides[0]!r} or --source"
        raise ConfigError(msg)
    found = recipes.load(file, overrides)
    if source:
        typer.echo(recipes.find(file).read_text(encoding="utf-8"), nl=False)
        return
    typer.echo(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False))


for _entry in entry_points(group="leaml.commands"):  # of other packages: `serve` is one
    app.command(_entry.name)(_entry.load())


def main() -> None:
    """Entry point: turns errors into messages and exit codes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except InterruptedCommandError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except LeamlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="leaml-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        print(
            f"failed: {type(error).__name__}: {error}\nlog: {log.name}\nresume: run the same command again to go on",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
