"""Commands that say what a circuit's nodes do: tree, roles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Json, app, print_result
from circuitfind.cli.settings import Setting, setting_of_circuit, setting_options
from circuitfind.setting.defaults import N_PATCHED

Threshold = Annotated[
    float,
    typer.Option(
        help="Share of attention below which a head has no role; it must also be twice that of even attention."
    ),
]


@app.command()
@setting_options(setting_of_circuit, without=("metric", "ablation", "reference_prompts"), prompts=N_PATCHED)
def tree(
    setting_of: Any,
    circuit: Annotated[Path, typer.Argument(help="circuit.json, a run folder, or an EAP-IG graph JSON.")],
    roles: Annotated[
        bool, typer.Option("--roles/--no-roles", help="Write next to each head what it attends to, and its checks.")
    ] = True,
    threshold: Threshold = 0.3,
    as_json: Json = False,
) -> None:
    """Print a circuit as a tree from the logits down, with effects and heads' roles."""
    from circuitfind.circuit.tree import tree_text
    from circuitfind.formats import open_run
    from circuitfind.run import calls

    loaded, run = open_run(circuit)
    labels: dict[str, str] = {}
    about: list[str] = []
    if roles:
        setting = setting_of(circuit, loaded, run, " (or --no-roles)").like(loaded.provenance)
        found = calls.head_roles(setting, threshold=threshold, heads=loaded.nodes)
        labels, about = found.texts(), [f"roles: on {found.n_prompts} train prompts"]
    text = tree_text(loaded, labels)
    print_result({"tree": text, "roles": labels}, as_json, [text.rstrip("\n"), *about])


@app.command("roles")
@setting_options(prompts=N_PATCHED)
def head_roles(setting: Setting, threshold: Threshold = 0.3, as_json: Json = False) -> None:
    """Say what heads attend to on a task's prompts, whether they copy, and what is lost when they are cut."""
    from circuitfind.run import calls

    found = calls.head_roles(setting, threshold=threshold)
    print_result(found.to_json(), as_json, _role_lines(found))


def _role_lines(found: Any) -> Iterable[str]:
    rows = found.by_head()
    for name, head in sorted(rows.items(), key=lambda row: -abs(row[1].effect[0])):
        yield f"{name:10} {head.text()}"
    least = ", ".join(f"{label} {share:.2f}" for label, share in zip(found.labels, found.least, strict=True))
    yield f"{len(rows)} heads, on {found.n_prompts} train prompts; a class needs a share of attention of {least}"
    if not any(" -> " in label for label in found.labels):
        yield "no token of these prompts has a name: a column 'labels' would show which named token attends to which"
    yield f"copying: 1 ranks what it reads first of all outputs, -1 last; effect: lost without the head ({found.unit})"
