"""What all commands share: the application, common options, and how results are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.errors import OptionError

app = typer.Typer(
    name="circuitfind",
    help="Automated circuit discovery for transformers: from a behaviour to a drawn, measured circuit.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"circuitfind {version('circuitfind')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, metavar="", help="Print the version.")
    ] = False,
) -> None:
    pass


Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Zoo name, hub id, or Hugging Face directory; see 'circuitfind models' (default: the task's, else tasks-4l).",
    ),
]
TaskName = Annotated[str, typer.Argument(help="A task's name (see 'circuitfind tasks') or a file of pairs.")]
TaskOption = Annotated[list[str] | None, typer.Option(help="An option of the task, NAME=VALUE; repeatable.")]
AlgorithmOption = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="An option of the algorithm, NAME=VALUE; repeatable.")
]
Metric = Annotated[
    str | None,
    typer.Option(help="One of 'circuitfind metrics', or your own as FILE.py:NAME (default: the task's)."),
]
Ablation = Annotated[
    str | None,
    typer.Option(
        help="corrupted, zero, mean, mean-positional, mean-clean, mean-reference or optimal (default: corrupted; "
        "mean-reference with --reference-prompts)."
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        help="Prompts whose mean outputs cut edges carry: a .txt file with one a line, or a table with a column 'prompt'."
    ),
]
Corrupt = Annotated[
    str, typer.Option(help="Make the corrupted prompts of your pairs: swap:LABEL,LABEL, resample, or replace:WORDS.")
]
GroupBy = Annotated[str, typer.Option(help="A column of your pairs; rows with the same text in it stay in one split.")]
Length = Annotated[int, typer.Option(help="Only prompts of this many tokens; 0 for any (check-pairs shows lengths).")]
Split = Annotated[str, typer.Option(help="train or held-out.")]
Prompts = Annotated[int, typer.Option("--prompts", "-n", help="How many pairs.")]
Seed = Annotated[int, typer.Option(help="Seed of the prompts and of everything else drawn at random.")]
BatchSize = Annotated[int | None, typer.Option(help="Prompts at a time (default: what memory allows).")]
Signed = Annotated[bool, typer.Option("--signed/--absolute", help="Rank by score, or by its size.")]
Bos = Annotated[
    bool | None,
    typer.Option("--bos/--no-bos", help="Begin prompts with the BOS token (default: as the tokenizer does)."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps (default: cuda where there is one).")]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory limit of a run in addition to the weights, such as 8GB (default: as the device allows)."),
]
Dtype = Annotated[str, typer.Option(help="float32, float64 or bfloat16.")]
Answers = Annotated[str, typer.Option(help="Of answers with several tokens, 'all' tokens count, or the 'first' alone.")]
KvPorts = Annotated[
    str, typer.Option(help="A k and a v port for each 'head', or each 'group' of heads that share keys and values.")
]


def about(
    path: Path, circuit: Any, settings: Mapping[str, Any], model: str | None, task: str | None, otherwise: str = ""
) -> tuple[str, str]:
    """The model and the task of an opened circuit: those given as options, or else those of its run or its file.

    Raises:
        OptionError: neither names them.
    """
    spec = model or settings.get("model") or circuit.provenance.model
    chosen = task or settings.get("task") or circuit.provenance.task
    if not spec or not chosen:
        raise OptionError(f"{path} does not say its model and task; give --model and --task{otherwise}")
    return spec, chosen


RESULT_ALONE = "CIRCUITFIND_RESULT_ALONE"
"""The environment variable that ``-q`` sets, beside the one that hides progress bars."""


def sayer(as_json: bool) -> Callable[[str], None]:
    """What prints lines before a result; nothing with ``--json`` or ``-q``, where the result stands alone."""
    return (lambda line: None) if as_json or os.environ.get(RESULT_ALONE) else typer.echo


@contextmanager
def warned() -> Iterator[list[str]]:
    """Print what is warned of inside the block, one line each, and give it as a list afterwards."""
    import warnings

    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [str(one.message) for one in caught]
    for text in said:
        typer.echo(f"warning: {text}", err=True)


def print_result(value: Any, as_json: bool, lines: Iterable[str]) -> None:
    """Print ``value`` as JSON, or the lines that say the same for people."""
    if as_json:
        typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(line)


def read_settings(pairs: list[str] | None, flag: str) -> dict[str, str]:
    """``["steps=10"]`` as ``{"steps": "10"}``."""
    settings = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise OptionError(f"{flag} {pair!r}: write NAME=VALUE, such as {flag} steps=10")
        settings[name] = value
    return settings
