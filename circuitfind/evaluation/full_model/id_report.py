"""Can these prompts, given as token ids, be used, and can the model do them? Pair by pair, as for prompts that are text."""

from __future__ import annotations

import numpy as np

from circuitfind.evaluation.full_model.pair_report import CHANCE, PairReport, PairRow, judge_rows, row_read
from circuitfind.task import TokenPairs
from circuitfind.task.tokens import TokenizedPair
from circuitfind.transformer import Transformer


def report_ids(pairs: TokenPairs, model: Transformer) -> PairReport:
    """Check ids and lengths first, then run the model on what is left."""
    faults = [_fault(pairs, row, model) for row in range(len(pairs))]
    rows = [
        PairRow(row + 1, _shown(pairs, row), fault[0], f"{pairs.called(row)}: {fault[1]}", place=pairs.called(row))
        if fault
        else row_read(row, _shown(pairs, row), _reading(pairs, row), model, pairs.called(row))
        for row, fault in enumerate(faults)
    ]
    if usable := [row for row, fault in enumerate(faults) if not fault]:
        judge_rows(rows, usable, pairs.take(usable), model)
    good = pairs.take([row.pair - 1 for row in rows if row.verdict == "good"])
    return PairReport(tuple(rows), good, CHANCE if (pairs.incorrect >= 0).any() else 0.0)


def _reading(pairs: TokenPairs, row: int) -> TokenizedPair:
    length = int(pairs.length[row])
    clean, corrupted = (tuple(side[row, :length].tolist()) for side in (pairs.clean, pairs.corrupted))
    right, wrong = (
        tuple((one,) for one in side[row].tolist() if one >= 0) for side in (pairs.correct, pairs.incorrect)
    )
    return TokenizedPair(clean, corrupted, int(pairs.answer_position[row]), right, wrong)


def _shown(pairs: TokenPairs, row: int) -> str:
    return " ".join(map(str, pairs.clean[row, : pairs.length[row]].tolist()))


def _fault(pairs: TokenPairs, row: int, model: Transformer) -> tuple[str, str] | None:
    """Why a pair cannot be used: the name of the fault and a sentence."""
    config, length = model.config, int(pairs.length[row])
    if length > config.n_ctx:
        return "too-long", f"it has {length} tokens, but the model reads at most {config.n_ctx}"
    clean, corrupted = (side[row, :length] for side in (pairs.clean, pairs.corrupted))
    for what, ids, n, does in (
        ("prompts have", np.concatenate([clean, corrupted]), config.d_vocab, "reads ids"),
        ("answers have", np.concatenate([pairs.correct[row], pairs.incorrect[row]]), config.n_outputs, "has outputs"),
    ):
        if outside := [int(one) for one in ids if one >= n or (one < 0 and "prompts" in what)]:
            return "no-such-id", f"the {what} the id {outside[0]}, but the model {does} from 0 to {n - 1}"
    if not (pairs.correct[row] >= 0).any():
        return "no-answer", "no correct answer is given"
    if pairs.has_corrupted and (clean == corrupted).all():
        return "same-prompt", "clean and corrupted prompt are the same, so nothing can be cut"
    return None
