"""Commands that check a model or prompts before a run: check-model, check-pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Bos, Corrupt, Device, Dtype, GroupBy, Json, KvPorts, Model, app, print_result


@app.command("check-model")
def check_model(
    spec: Annotated[str, typer.Argument(help="Zoo name, hub id or directory.")] = "tasks-4l",
    device: Device = None,
    dtype: Dtype = "float32",
    kv_ports: KvPorts = "head",
    tokens: Annotated[int, typer.Option(help="Length of the prompt whose memory is estimated.")] = 64,
    as_json: Json = False,
) -> None:
    """Show a model's architecture and memory, and check that it is read right (logits, residual stream, all edges cut)."""
    from circuitfind import models
    from circuitfind.run.estimate import memory_per_prompt

    model, source = models.open_model(spec, device=device, dtype=dtype, kv_ports=kv_ports)
    if source is None and model.config.causal:  # no bridge supports bidirectional attention
        source = models.open_bridge(spec)
    checks = models.check_model(model, source)
    passed = all(check.passed for check in checks)
    what, memory = models.architecture(model.config), memory_per_prompt(model, tokens)
    lines = [repr(model), what, *map(str, checks)]
    lines.append(f"weights {model.n_bytes / 2**20:,.0f} MB; in addition, one prompt of {tokens} tokens takes")
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
    every: Annotated[bool, typer.Option("--all", help="List every pair, not only the first of each verdict.")] = False,
    corrupt: Corrupt = "",
    group_by: GroupBy = "",
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Report, pair by pair, whether prompts can be used and whether the model can do them."""
    from circuitfind.run import calls
    from circuitfind.setting.value import Setting
    from circuitfind.task import TokenPairs, write_id_pairs
    from circuitfind.task.write_pairs import write_pairs

    report = calls.check_pairs(data, Setting(data, model, bos=bos).transformer, corrupt=corrupt, group_by=group_by)
    if keep_good is not None and len(good := report.good):
        write_id_pairs(good, keep_good) if isinstance(good, TokenPairs) else write_pairs(good, keep_good)
    print_result(report.to_json(), as_json, [*_pair_lines(report, keep_good, every), *report.notes])
    if not report.can_do_it:
        raise typer.Exit(2)


LISTED = 5
"""How many pairs of one verdict are listed, unless all are."""


def _pair_lines(report: Any, keep_good: Path | None, every: bool) -> Iterable[str]:
    """First the counts, then some pairs of each verdict, then what follows from it."""
    from circuitfind.task.spans import lengths_in_words

    usable = len(report.usable)
    yield f"{len(report.rows)} pairs: {usable} can be used, {len(report.good)} are good"
    verdicts = Counter(row.verdict for row in report.rows)
    for verdict, count in verdicts.most_common():
        yield f"  {count:6} {verdict}"
    for verdict, count in verdicts.most_common():
        rows = [row for row in report.rows if row.verdict == verdict]
        for row in rows if every else rows[:LISTED]:
            yield from _row_lines(row)
        if not every and count > LISTED:
            yield f"     ... and {count - LISTED} more that are {verdict} (--all lists every pair)"
    if len({row.tokens for row in report.usable}) > 1:
        yield f"prompts by length: {lengths_in_words(row.tokens for row in report.usable)}"
    if not usable:
        yield "no pair can be used, so nothing was measured"
    else:
        yield from _what_follows(report)
    if keep_good is not None:
        kept = f"{len(report.good)} good pairs are in {keep_good}"
        yield kept if report.good else f"no pair is good, so {keep_good} was not written"


def _what_follows(report: Any) -> Iterable[str]:
    """How often the model is right, and what its corrupted prompts change."""
    low, high = report.interval
    wins = f"the correct answer wins on {report.accuracy:.0%} of the usable clean prompts"
    wins += f" (95 % interval {low:.0%} to {high:.0%})"
    if not report.can_do_it:
        yield f"{wins}, which is no better than chance"
        yield "the model cannot do this task; a circuit found on it would mean nothing"
    else:
        yield wins + ", which may be chance" * (low <= report.chance)
    yield f"it is the model's first choice of all words on {report.first_choice:.0%}"
    if report.change is not None:
        change, low, high = report.change
        moved = f"{-change:+.2f} (95 % interval {-high:+.2f} to {-low:+.2f})"
        nothing = ", so they may take nothing of it away, and then there is no behaviour to find" * (low <= 0)
        yield f"corrupted prompts change the mean logit difference by {moved}{nothing}"


def _row_lines(row: Any) -> Iterable[str]:
    if not row.tokens:
        yield f"{row.pair:4} {row.verdict:12} {row.reason}"
        return
    measured = [
        f"{name} {clean:+.2f} clean, {corrupted:+.2f} corrupted"
        for name, clean, corrupted in (
            ("logit difference", row.logit_diff, row.corrupted_logit_diff),
            ("log-probability", row.log_prob, row.corrupted_log_prob),
        )
        if clean == clean
    ]
    yield f"{row.pair:4} {row.verdict:12} {row.tokens:3} tokens  {measured[0] if measured else 'not measured'}  {row.clean!r}"
    wrong = f"; incorrect {_answers(row.incorrect)}" if row.incorrect else ""
    yield f"       after ...{row.read_after} at position {row.read_at}: correct {_answers(row.correct)}{wrong}"


def _answers(answers: Any) -> str:
    more = f" and {len(answers) - 3} more" if len(answers) > 3 else ""
    return ", ".join(map(str, answers[:3])) + more
