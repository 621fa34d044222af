"""What a run says: notes before it, refusals that need the prompts, and the sentences of its summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import PairsError
from circuitfind.evaluation import CHANCE, FEW_PROMPTS, Evaluation, clean_share, verdict
from circuitfind.graph import prunes_from_input, rule_of
from circuitfind.scores import EdgeScores
from circuitfind.selection import SizeCurve
from circuitfind.setting.value import Setting
from circuitfind.task import spans_of
from circuitfind.task.groups import about_split
from circuitfind.task.spans import about_positions, lengths_in_words, pair_lengths

Evaluated = tuple[Circuit, Evaluation]
"""A circuit and its evaluation."""
MOST_ROWS = 100_000
"""The most rows in ``edges.csv``; of a larger circuit, it holds the edges with the largest scores. Only ``scores.safetensors``
has a score for every edge of the graph: as text, the scores of a large model would take gigabytes."""


def notes_on(setting: Setting, parts: str) -> list[str]:
    """What should be known about how the prompts were read, and what is ablated where they have no corrupted ones."""
    task = setting.behaviour
    bare = rule_of(setting.ablated_by).carries == "mean" and setting.lacks_corrupted
    means = f"{setting.ablated_by} ablation over the clean prompts, since there are no corrupted ones"
    of_file = [] if task.fixed is None or setting.pairs is not None else [about_split(task.fixed), *task.fixed.notes]
    by_position = setting.ablated_by == "mean-positional" and parts != "length"
    positions = about_positions(setting.train, "position" if by_position else parts)
    alone = f"prompts of {setting.length} tokens alone"
    lengths = f"prompts by length: {lengths_in_words(pair_lengths(setting.train).tolist())}"
    said = [
        *[alone] * bool(setting.length),
        *[lengths] * (parts == "length"),
        *[f"Weak: {positions}"] * bool(positions),
    ]
    return [*of_file, *[means] * bare, *said]


def rows_of(pairs: Any) -> str:
    """How many rows pairs are whose answers have several tokens."""
    if pairs.steps is None:
        return ""
    return (
        f"; answers have several tokens, so the {pairs.n_pairs} train pairs are {len(pairs)} rows, one for each token"
    )


def refuse_failing(setting: Setting, anyway: bool, say: Callable[[str], None]) -> None:
    """Stop before discovery if the model is no better than chance on the prompts; say so where few prompts leave it open."""
    model, train = setting.transformer, setting.train
    share, (low, high) = clean_share(model, train, setting.batch_size)
    if not low <= CHANCE:  # NaN if no incorrect answers are given: nothing to compare with
        return
    found = (
        f"model {model.name!r} prefers the correct answer on only {share:.0%} of the {train.n_pairs} train prompts "
        f"(95 % interval {low:.0%} to {high:.0%})"
    )
    advice = "'circuitfind check-pairs' shows it pair by pair"
    if high > CHANCE and (share > CHANCE or train.n_pairs < FEW_PROMPTS):
        say(f"Weak: {found}, which may be chance; {advice}.")
        return
    message = f"{found}, which is no better than chance; there is no behaviour to find. {advice}"
    if not anyway:
        raise PairsError(message + "; --anyway continues regardless")
    say(f"Weak: {message}.")


def refuse_unknown_parts(setting: Setting, parts: str) -> None:
    """Stop before discovery if other prompts have parts that the scores cannot cover, or if labels are missing."""
    model, train = setting.transformer, setting.train
    found = Layout.of(spans_of(train, parts, model.tokenizer), train, model.config.causal)
    for pairs in (*setting.with_fresh(setting.n), setting.held_out):
        found.places(spans_of(pairs, parts, model.tokenizer))


def sentences_of(
    setting: Setting,
    scores: EdgeScores,
    circuit: Circuit,
    evaluation: Evaluation,
    by_part: Evaluated | None,
    curve: SizeCurve | None,
) -> list[str]:
    """The verdict."""
    train, held_out = setting.train, setting.held_out
    sentences = verdict(circuit, evaluation)
    if train.checksum() == held_out.checksum():
        there, own = ("is one prompt", "prompt") if train.n_pairs == 1 else ("are no other prompts", "prompts")
        sentences.append(f"Weak: there {there}, so the circuit was measured on the {own} it was found on.")
    elif train.n_pairs < FEW_PROMPTS:
        sentences.append(f"Weak: found on only {train.n_pairs} train prompts; use {FEW_PROMPTS} or more.")
    sentences += [curve.sentence] if curve else []
    sentences += about_decisions(scores, circuit) + _about_table(circuit)
    return sentences + (verdict(*by_part, without_parts=circuit.n_edges) if by_part else [])


def _about_table(circuit: Circuit) -> list[str]:
    """A sentence if the table of edges is not complete."""
    if circuit.n_edges <= MOST_ROWS:
        return []
    return [
        f"edges.csv holds the {MOST_ROWS:,} strongest of the {circuit.n_edges:,} kept edges; circuit.json holds all."
    ]


def about_decisions(scores: EdgeScores, circuit: Circuit) -> list[str]:
    """Sentences about an algorithm's own decisions and their pruning; none if it only ranks."""
    sentences = [line for log in scores.decisions for line in log.summary()]
    if "remarks" not in circuit.selection:  # the scores' circuit brings its own
        sentences += [f"Weak: {remark[0].lower()}{remark[1:]}" for remark in scores.remarks]
    chosen = circuit.selection
    dropped = chosen["asked"] - chosen["kept"] if chosen["rule"] == "decided" else 0
    if dropped and prunes_from_input(circuit.provenance.ablation):
        edges, were, carry = ("edges are", "were", "they carry") if dropped > 1 else ("edge is", "was", "it carries")
        sentences.append(
            f"{dropped:,} kept {edges} on no path from the input and {were} pruned: under corrupted ablation {carry} nothing."
        )
    return sentences
