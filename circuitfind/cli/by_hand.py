"""Commands that patch components or paths of a model and measure the effect: activation-patch, ablate, path-patch, path-map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Json, Split, app, print_result, warned
from circuitfind.cli.settings import Setting, setting_options
from circuitfind.errors import OptionError
from circuitfind.setting.defaults import N_HELD_OUT, N_PATCHED

Top = Annotated[int, typer.Option(help="Print the N largest effects.")]
Out = Annotated[Path | None, typer.Option(help="A heat map: .svg, .png or .pdf.")]
Direction = Annotated[
    str,
    typer.Option(help="noising (ablated values in the clean run) or denoising (clean values in the ablated run)."),
]


@app.command("activation-patch")
@setting_options(task="ioi", prompts=N_PATCHED)
def activation_patch(
    setting: Setting,
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="residual, head, mlp, attention or node; or components such as a3.h5, patched together (default: head)."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="position; span; length (positions, for each length of prompt); or nothing for all at once."),
    ] = "",
    direction: Annotated[
        str, typer.Option(help="denoising (clean values into the corrupted run) or noising.")
    ] = "denoising",
    split: Split = "train",
    share: Annotated[bool, typer.Option("--share", help="Draw shares of metric(clean) - metric(corrupted).")] = False,
    top: Top = 12,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Patch values of one run into another, component by component, and measure how much of the behaviour comes or goes."""
    from circuitfind import patching

    _check_picture(out)
    chosen = what or ["head"]
    components = chosen[0] if len(chosen) == 1 else chosen
    with warned():
        effects = patching.activation_patch(setting, components, by=by, direction=direction, split=split)
    picture = effects.render(out, share=share) if out else None
    print_result(effects.to_json() | _drawn(picture), as_json, _patching_lines(effects, top, picture))


@app.command()
@setting_options(prompts=N_HELD_OUT)
def ablate(
    setting: Setting,
    nodes: Annotated[
        list[str],
        typer.Argument(help="Components: a3.h5, m1, a2 (all its heads), m3.n17; or head, mlp, attention, node."),
    ],
    each: Annotated[bool, typer.Option("--each/--together", help="One at a time, or all together.")] = False,
    neurons: Annotated[
        str | None, typer.Option(help="Neurons of the one named MLP: 3,17,40 or all (with --each: a ranking).")
    ] = None,
    split: Split = "held-out",
    top: Top = 12,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Knock out heads, MLPs or single neurons of the full model, and measure what is lost."""
    from circuitfind import patching

    _check_picture(out)
    numbers = _numbers(neurons)
    components = nodes[0] if len(nodes) == 1 else nodes
    effects = patching.ablate(setting, components, neurons=numbers, each=each, split=split)
    picture = effects.render(out) if out else None
    print_result(effects.to_json() | _drawn(picture), as_json, _ablation_lines(effects, top, picture))


@app.command("path-patch")
@setting_options()
def path_patch(
    setting: Setting,
    path: Annotated[
        list[str],
        typer.Argument(
            help="One path or several patched together, each in quotes: 'a0.h1 -> a5.h5<k> -> * -> logits'. * is every way "
            "through any nodes, mlps any chain of MLPs."
        ),
    ],
    direction: Direction = "noising",
    split: Split = "train",
    as_json: Json = False,
) -> None:
    """Measure the effect of a path, or of a set of paths."""
    from circuitfind import patching

    effect = patching.path_patch(setting, path, direction=direction, split=split)
    print_result(effect.to_json(), as_json, [str(effect)])


@app.command("path-map")
@setting_options()
def path_map(
    setting: Setting,
    receiver: Annotated[str, typer.Argument(help="A port 'a8.h6<q>', a head a8.h6, an MLP m3, or logits.")],
    through: Annotated[
        str, typer.Option(help="What lies between a sender and the receiver: direct (nothing) or mlps.")
    ] = "direct",
    direction: Direction = "noising",
    split: Split = "train",
    out: Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.")] = None,
    top: Annotated[int, typer.Option(help="How many senders to print.")] = 15,
    as_json: Json = False,
) -> None:
    """Measure the effect of every sender through one receiver: sender -> RECEIVER -> * -> logits."""
    from circuitfind import patching

    found = patching.path_heat_map(setting, receiver, through=through, direction=direction, split=split)
    picture = None if out is None else str(found.render(out))
    lines = [found.text(top), *([picture] if picture else [])]
    print_result({**found.to_json(), "picture": picture}, as_json, lines)


def _check_picture(out: Path | None) -> None:
    """Refuse a picture with an unknown suffix, before the model runs."""
    from circuitfind.rendering.image import IMAGE_SUFFIXES, known_suffix

    if out is not None:
        known_suffix(out, IMAGE_SUFFIXES)


def _numbers(neurons: str | None) -> list[int] | str | None:
    """``"3,17"`` as numbers; ``"all"`` and None stay as they are."""
    if neurons is None or neurons == "all":
        return neurons
    parts = [part.strip() for part in neurons.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"--neurons {neurons!r}: write numbers separated by commas, such as 3,17,40, or all")
    return [int(part) for part in parts]


def _drawn(picture: Path | None) -> dict[str, str]:
    return {} if picture is None else {"picture": str(picture)}


def _patching_lines(effects: Any, top: int, picture: Path | None) -> Iterable[str]:
    from circuitfind.task.spans import lengths_in_words

    about = effects.provenance
    yield (
        f"{about.model}, {about.task}: {about.n_prompts} {about.split} prompts, {effects.direction}, {about.ablation} "
        f"ablation; {about.unit} {effects.clean.mean():.3f} clean, {effects.corrupted.mean():.3f} corrupted"
    )
    if lengths := Counter(effects.prompts_by_length):
        yield f"prompts by length: {lengths_in_words(lengths.elements())}; L:P is position P (from 0) in prompts of L tokens"
    yield f"{effects.meaning}; with its 95 % interval, its share of clean - corrupted, and how many prompts have the part"
    for row in effects.top(top).to_dict("records"):
        at = f" at {row['part']}" if effects.by else ""
        yield f"  {_measured(row)}  {row['component']}{at} ({row['prompts']})"
    if picture:
        yield str(picture)


def _ablation_lines(effects: Any, top: int, picture: Path | None) -> Iterable[str]:
    about = effects.provenance
    yield (
        f"{about.model}, {about.task}: {about.n_prompts} {about.split} prompts, {about.ablation} ablation; {about.unit} "
        f"{effects.before.mean():.3f} before, {effects.everything.mean():.3f} with everything ablated"
    )
    yield "effect > 0: the component helps; with its 95 % interval, its share of what full ablation costs, and the metric after"
    for row in effects.top(top).to_dict("records"):
        yield f"  {_measured(row)}  {row['after']:9.3f}  {row['component']}"
    if picture:
        yield str(picture)


def _measured(row: dict[str, Any]) -> str:
    return f"{row['effect']:+9.4f}  ({row['low']:+.3f} to {row['high']:+.3f})  {row['share']:+7.1%}"
