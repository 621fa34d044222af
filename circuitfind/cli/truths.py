"""The command that verifies the known circuits of ground-truth models: verify."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Json, app, print_result


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Ground-truth models (default: all).")] = None,
    prompts: Annotated[int, typer.Option(help="Held-out pairs, or all there are.")] = 1000,
    seed: Annotated[int, typer.Option(help="Which pairs.")] = 0,
    as_json: Json = False,
) -> None:
    """Check known circuits by cutting every edge of their models (exit code 1 if a circuit is wrong)."""
    from circuitfind import zoo
    from circuitfind.truth.verification import verify_model

    found = [one for name in names or zoo.GROUND_TRUTH for one in verify_model(name, prompts, seed=seed)]
    print_result([one.to_json() for one in found], as_json, _lines(found))
    if not all(one.passed for one in found):
        raise typer.Exit(1)


def _lines(found: list[Any]) -> Iterator[str]:
    yield (
        f"{'model':18}{'ablation':11}{'prompts':>8}{'edges':>7}{'of':>6}{'KL':>10}{'agree':>8}{'faithful':>10}"
        f"{'needed, least':>15}{'others, most':>14}"
    )
    for one in found:
        least = min(effect.kl for effect in one.needed)
        most = max([0.0, *(effect.kl for effect in (*one.idle, *one.alone))])
        total = one.n_edges + len(one.idle)
        yield (
            f"{one.model:18}{one.ablation:11}{one.n_prompts:8}{one.n_edges:7}{total:6}{max(0.0, one.circuit.kl):10.1e}"
            f"{one.agreement:8.1%}{one.faithfulness:10.4f}{least:15.3g}{most:14.1e}  {'ok' if one.passed else 'FAIL'}"
        )
        yield from (f"  {problem}" for problem in one.problems)
    yield "KL: of the circuit to the full model, in nats; in the last two columns, mean KL when an edge is cut alone"
