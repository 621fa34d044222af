"""The help pages: commands grouped by use, two examples each, options grouped, and the flags that every command has."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, get_args

import typer
from typer.models import OptionInfo

from circuitfind.cli.options import RESULT_ALONE

QUIET, VERBOSE = ("CIRCUITFIND_QUIET", RESULT_ALONE), ("CIRCUITFIND_VERBOSE",)
"""Environment variables that the flags set."""

EXAMPLES: dict[str, dict[str, tuple[str, str]]] = {
    "Find a circuit": {
        "discover": ("discover ioi", "discover pairs.csv --edges 60 --out runs/mine"),
        "evaluate": ("evaluate runs/mine", "evaluate runs/mine --ablation mean"),
        "check-pairs": ("check-pairs pairs.csv", "check-pairs pairs.csv --model gpt2 --keep-good good.csv"),
        "check-model": ("check-model tasks-4l", "check-model ./my_model --json"),
        "replay": ("replay runs/acdc", "replay runs/acdc --threshold 0.01"),
    },
    "Look at it": {
        "render": (
            "render runs/mine circuit.pdf",
            "render runs/mine figure.pdf --size column --no-caption --title ''",
        ),
        "tree": ("tree runs/mine", "tree runs/mine --no-roles"),
        "roles": ("roles ioi", "roles induction --model induction-2l --threshold 0.5"),
        "activation-patch": ("activation-patch ioi --by span --out heads.svg", "activation-patch ioi --by length"),
        "ablate": ("ablate ioi a0.h6 m0", "ablate ioi a0.h6 --ablation zero"),
        "path-patch": ('path-patch ioi "a0.h6 -> m0 -> logits"', 'path-patch ioi "a0.h6 -> logits" --prompts 64'),
        "path-map": ("path-map ioi logits", 'path-map ioi "a3.h0<q>" --out map.svg'),
    },
    "Compare, and ask whether it is certain": {
        "compare": ("compare runs/a runs/b", "compare runs/a runs/b runs/c --edges 50 --out difference"),
        "compare-algorithms": (
            "compare-algorithms ioi --algorithms eap,eap-ig-inputs,acdc",
            "compare-algorithms pairs.csv --algorithms eap,refine --prompts 64 --out runs/methods",
        ),
        "hypotheses": ("hypotheses runs/mine", "hypotheses runs/mine --alpha 0.01"),
        "stability": ("stability ioi", "stability pairs.csv --edges 60 --resamples 20"),
        "certify": ("certify ioi", "certify pairs.csv --edges 60"),
    },
    "Files of other tools": {
        "export": ("export runs/mine circuit.graphml", "export runs/ioi runs/mcqa --to mib --out submission"),
        "check-submission": ("check-submission submission", "check-submission submission --level node"),
        "formats": ("formats", "formats --json"),
    },
    "Benchmark": {
        "bench": ("bench --list", "bench --algorithm eap --task ioi --out runs/bench"),
        "leaderboard": ("leaderboard runs/bench", "leaderboard runs/bench --json"),
        "verify": ("verify tracr-hist", "verify wired-and --prompts 300"),
    },
    "Lists": {
        "tasks": ("tasks", "tasks ioi"),
        "models": ("models", "models tasks-4l --words"),
        "algorithms": ("algorithms", "algorithms --json"),
        "metrics": ("metrics", "metrics --json"),
    },
}
"""What each command is for, with two examples."""

OPTIONS = {
    "The circuit": ("algorithm", "option", "faithfulness", "edges", "threshold", "greedy", "nodes", "signed", "parts"),
    "Model and prompts": (
        *("model", "data", "task", "metric", "ablation", "reference_prompts", "prompts", "held_out", "split", "seed"),
        *("task_option", "corrupt", "group_by", "length", "answers", "bos"),
    ),
    "The machine": ("device", "dtype", "memory", "batch_size", "workers", "kv_ports"),
}
"""Options that many commands have, by what they are about; all others stand first."""


Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No progress, and no lines before the result.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", metavar="", help="Show where in the code an error was raised.")
]


def arrange(app: typer.Typer) -> None:
    """Give every command of an application its group, its examples and its flags, in the order of :data:`EXAMPLES`."""
    groups = {name: (group, examples) for group, found in EXAMPLES.items() for name, examples in found.items()}
    order = list(groups)
    for info in app.registered_commands:
        assert info.callback is not None
        info.name = info.name or info.callback.__name__.replace("_", "-")
        info.rich_help_panel, examples = groups[info.name]
        info.epilog = "Examples:\n\n" + "\n\n".join(f"circuitfind {example}" for example in examples)
        info.callback = _with_flags(info.callback)
    app.registered_commands.sort(key=lambda info: order.index(info.name or ""))


def _with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with ``-q`` and ``-v``, whose help groups its options and shows no type beside flags."""

    @functools.wraps(command)
    def called(quiet: bool = False, verbose: bool = False, **given: Any) -> Any:
        for names, wanted in ((QUIET, quiet), (VERBOSE, verbose)):
            os.environ.update(dict.fromkeys(names, "1") if wanted else {})
        return command(**given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_in_group(one)) for one in own]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("quiet", Quiet), ("verbose", Verbose))
    ]
    called.__signature__ = inspect.Signature([*parameters, *flags])  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in (*parameters, *flags)}
    return called


def _in_group(parameter: inspect.Parameter) -> Any:
    """A parameter's annotation, with the group that its option stands in on the help page."""
    kind, *metadata = get_args(parameter.annotation)
    option = copy(metadata[0])
    if isinstance(option, OptionInfo):
        group = next((group for group, names in OPTIONS.items() if parameter.name in names), None)
        option.rich_help_panel = option.rich_help_panel or group
        if bool in (kind, *get_args(kind)):
            option.metavar = ""
    return Annotated[kind, option]
