"""Commands that check before anything is computed: check-model, check-pairs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Bos, Device, Dtype, Json, KvPorts, Model, app, print_result


@app.command("check-model")
def check_model(
    spec: Annotated[str, typer.Argument(help="Zoo name, hub id or directory.")] = "tasks-4l",
    device: Device = None,
    dtype: Dtype = "float32",
    kv_ports: KvPorts = "head",
    tokens: Annotated[int, typer.Option(help="Length of the prompt whose memory is estimated.")] = 64,
    as_json: Json = False,
) -> None:
    """What a model is, that it is read right (logits, decomposition of the stream, all edges cut), and what it takes."""
    from circuitfind import models
    from circuitfind.run.estimate import memory_per_prompt

    model, source = models.open_model(spec, device=device, dtype=dtype, kv_ports=kv_ports)
    if source is None and model.config.causal:  # no bridge reads in both directions
        source = models.open_bridge(spec)
    checks = models.check_model(model, source)
    passed = all(check.passed for check in checks)
    what, memory = models.architecture(model.config), memory_per_prompt(model, tokens)
    lines = [repr(model), what, *map(str, checks)]
    lines.append(f"weights {model.n_bytes / 2**20:,.0f} MB; beside them, one prompt of {tokens} tokens takes")
    lines += [f"  {megabytes:10,.1f} MB  {use}" for use, megabytes in memory.items()]
    rows = [{"claim": c.claim, "error": c.error, "tolerance": c.tolerance, "passed": c.passed} for c in checks]
    values = {
        "model": repr(model),
        "architecture": what,
        "edges": model.graph.n_edges,
        "passed": passed,
        "checks": rows,
    }
    values |= {"weight_bytes": model.n_bytes, "megabytes_per_prompt": memory, "tokens": tokens}
    print_result(values, as_json, lines)
    if not passed:
        raise typer.Exit(2)


@app.command("check-pairs")
def check_pairs(
    data: Annotated[Path, typer.Argument(help="CSV, JSONL or JSON of pairs.")],
    model: Model = None,
    keep_good: Annotated[Path | None, typer.Option(help="Write the good pairs to this CSV.")] = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Say, pair by pair, whether prompts can be used and whether the model can do them."""
    from circuitfind.run import calls
    from circuitfind.setting.value import Setting
    from circuitfind.task import TokenPairs, write_id_pairs
    from circuitfind.task.write_pairs import write_pairs

    report = calls.check_pairs(data, Setting(data, model, bos=bos).transformer)
    if keep_good is not None:
        good = report.good
        write_id_pairs(good, keep_good) if isinstance(good, TokenPairs) else write_pairs(good, keep_good)
    print_result(report.to_json(), as_json, _pair_lines(report, keep_good))
    if not report.can_do_it:
        raise typer.Exit(2)


def _pair_lines(report: Any, keep_good: Path | None) -> Iterable[str]:
    for row in report.rows:
        if row.tokens:
            yield (
                f"{row.pair:4} {row.verdict:12} {row.tokens:3} tokens  logit difference {row.logit_diff:+7.2f} clean, "
                f"{row.corrupted_logit_diff:+7.2f} corrupted  {row.clean!r}"
            )
        else:
            yield f"{row.pair:4} {row.verdict:12} {row.reason}"
    usable = len(report.usable)
    yield f"{len(report.rows)} pairs: {usable} can be used, {len(report.good)} are good"
    if usable:
        yield f"the correct answer wins on {report.accuracy:.0%} of the usable clean prompts"
    if not report.can_do_it:
        yield "the model cannot do this task: it is no better than chance; a circuit found on it would mean nothing"
    if keep_good is not None:
        yield f"{len(report.good)} good pairs are in {keep_good}"
