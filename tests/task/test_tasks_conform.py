"""What every registered task must do; a new task file is tested here without a line of test code."""

import itertools
import random
import re
from collections.abc import Iterator

import pytest
from gpt2_text import gpt2_text

import circuitfind as cf
from circuitfind import zoo
from circuitfind.evaluation.full_model.pair_report import clean_accuracy
from circuitfind.graph import ComputationGraph
from circuitfind.task import TASKS, PromptPair, PromptPairs, Task, find_problems, is_held_out, tokenize
from circuitfind.task.metrics import METRICS

WORD = re.compile(r"\d{2}|[A-Za-z]+|[^\sA-Za-z\d]|\d")
SHAPES = {"gpt2": ComputationGraph(12, 12), "attn-only-4l": ComputationGraph(4, 8, has_mlp=False)}

every_task = pytest.mark.parametrize("task", [pytest.param(task, id=task.name) for task in TASKS])
every_canonical = pytest.mark.parametrize(
    "canonical", [pytest.param(item, id=f"{task.name}-{item.model}") for task in TASKS for item in task.canonical]
)


def _settings(task: Task) -> Iterator[dict[str, str]]:
    """Every combination of option values."""
    for values in itertools.product(*task.options.values()):
        yield dict(zip(task.options, values, strict=True))


def _proposals(task: Task, n: int) -> list[PromptPair]:
    """``n`` proposals of every option value."""
    rng = random.Random(7)
    assert task.propose is not None
    return [task.propose(rng, **settings) for settings in _settings(task) for _ in range(n)]


def _combinations(pairs: PromptPairs) -> set[tuple[str, ...]]:
    return {pair.combination or (pair.clean,) for pair in pairs}


@every_task
@pytest.mark.parametrize(("split", "n"), [("train", 200), ("held-out", 100)])
def test_a_task_gives_as_many_different_pairs_as_asked_for(task: Task, split: str, n: int) -> None:
    for settings in _settings(task):
        pairs = task.pairs(n, split=split, **settings)
        assert len({(pair.clean, pair.corrupted, pair.answer_at) for pair in pairs}) == n


@every_task
def test_the_splits_share_no_combination_of_words_whatever_the_seeds(task: Task) -> None:
    train = set().union(*(_combinations(task.pairs(200, seed=seed)) for seed in (0, 1)))
    held_out = set().union(*(_combinations(task.pairs(100, split="held-out", seed=seed)) for seed in (0, 1)))
    assert not train & held_out


@every_task
def test_the_held_out_split_is_about_a_fifth(task: Task) -> None:
    combinations = _combinations(PromptPairs(tuple(_proposals(task, 1000))))
    assert 0.1 < sum(is_held_out(words) for words in combinations) / len(combinations) < 0.3


@every_task
def test_a_seed_decides_the_pairs(task: Task) -> None:
    assert task.pairs(50, seed=3).fingerprint == task.pairs(50, seed=3).fingerprint
    assert task.pairs(50, seed=3).fingerprint != task.pairs(50, seed=4).fingerprint


@every_task
def test_clean_and_corrupted_differ_and_so_do_their_answers(task: Task) -> None:
    for pair in _proposals(task, 300):
        assert pair.clean != pair.corrupted
        assert pair.correct
        assert not set(pair.correct) & set(pair.incorrect)


@every_task
def test_word_by_word_clean_and_corrupted_are_equally_long_and_answers_are_one_word(task: Task) -> None:
    for pair in _proposals(task, 300):
        assert len(WORD.findall(pair.clean)) == len(WORD.findall(pair.corrupted)) <= 48
        assert all(len(WORD.findall(answer)) == 1 for answer in (*pair.correct, *pair.incorrect))


@every_task
def test_gpt2s_tokenizer_takes_every_pair(task: Task) -> None:
    assert find_problems(PromptPairs(tuple(_proposals(task, 300))), gpt2_text()) == []


@every_task
def test_every_label_is_explained_and_ends_with_a_word(task: Task) -> None:
    for pair in _proposals(task, 50):
        assert set(pair.labels) == set(task.position_labels)
        assert pair.labels["END"] == (pair.answer_at or len(pair.clean))
        assert set(pair.labels.values()) <= {match.end() for match in WORD.finditer(pair.clean)}


@every_task
def test_every_label_ends_with_a_token_of_gpt2(task: Task) -> None:
    tokenizer = gpt2_text()
    for pair in _proposals(task, 50):
        assert set(pair.labels.values()) <= tokenizer.ends(pair.clean)


@every_task
def test_its_own_model_is_right_on_both_splits(task: Task) -> None:
    """In each setting; tasks-4l, which is trained, nearly always (its card says how often)."""
    model = cf.load_model(task.model)
    for settings in _settings(task):
        for split in ("train", "held-out"):
            pairs = task.pairs(40, split=split, seed=5, tokenizer=model.tokenizer, **settings)
            assert find_problems(pairs, model.tokenizer) == []
            right = clean_accuracy(model, tokenize(pairs, model.tokenizer))
            assert right == 1 if task.model in zoo.COMPILED else right > 0.9


@every_task
def test_a_task_describes_itself_in_full(task: Task) -> None:
    assert all((task.description, task.source, task.clean_rule, task.corrupted_rule, task.metric))
    assert task.metric in METRICS
    assert task.name == task.name.lower().replace("_", "-")


@every_canonical
def test_a_published_circuit_has_real_edges_once_each(canonical) -> None:
    graph = SHAPES[canonical.model]
    names = canonical.edges(graph)
    assert len({graph.edge_index(name) for name in names}) == len(names)


@every_canonical
def test_a_published_circuits_roles_cover_exactly_its_heads(canonical) -> None:
    names = canonical.edges(SHAPES[canonical.model])
    heads = set(re.findall(r"a\d+\.h\d+", " ".join(names)))
    assert heads == set(canonical.roles)
