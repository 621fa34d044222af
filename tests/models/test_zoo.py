"""The models that are shipped: their words, their training text, their files, and what their cards claim."""

import json
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitfind.errors import ModelError, PairsError, UnknownNameError
from circuitfind.task import TASKS, is_held_out, tokenize
from circuitfind.transformer import TransformerConfig
from circuitfind.zoo import GROUND_TRUTH, ZOO, card, corpus, folder_of, open_zoo, zoo_config, zoo_names
from circuitfind.zoo.evaluate import accuracy, measure, setting_name, settings_of
from circuitfind.zoo.export import COLUMNS, SHARES
from circuitfind.zoo.induction_heads import THRESHOLD, head_scores, second_mention_accuracy
from circuitfind.zoo.recipes import RECIPES
from circuitfind.zoo.tokenizer import END_OF_TEXT, WordTokenizer
from circuitfind.zoo.train import TrainingPlan, initial_parameters, train
from circuitfind.zoo.training_batches import STEPS_PER_CHUNK, Documents, Repeats

OF_TASKS_4L = [task for task in TASKS if task.model == "tasks-4l"]


@pytest.fixture(scope="module")
def words() -> WordTokenizer:
    return open_zoo("tasks-4l").tokenizer


# ---------------------------------------------------------------- the tokenizer


def test_text_becomes_words_and_back(words):
    ids = words.encode("The war lasted from the year 1732 to the year 17")
    assert words.decode(ids) == "The war lasted from the year 17 32 to the year 17"
    assert words.encode(words.decode(ids)) == ids


def test_a_space_before_a_word_changes_nothing(words):
    assert words.encode(" Mary") == words.encode("Mary") == words.encode("Mary\n")
    assert words.decode(words.encode(" Mary")) == "Mary"


def test_digits_go_in_pairs_and_every_pair_is_known(words):
    assert [words.decode([token]) for token in words.encode("1702")] == ["17", "02"]
    assert all(len(words.encode(f"{number:02d}")) == 1 for number in range(100))
    assert [words.decode([token]) for token in words.encode("isn't 123.")] == ["isn", "'", "t", "12", "3", "."]


def test_an_unknown_word_is_named_with_its_neighbours_and_the_way_to_list_words(words):
    with pytest.raises(PairsError, match=r"'gardne'.*garden.*circuitfind models tasks-4l --words"):
        words.encode("When Mary went to the gardne")


def test_end_of_text_cannot_be_written(words):
    with pytest.raises(PairsError, match="endoftext"):
        words.encode(f"Mary {END_OF_TEXT}")


def test_the_vocabulary_is_every_id_but_the_first(words):
    assert len(words) == len(words.vocabulary) + 1 == open_zoo("tasks-4l").config.d_vocab
    assert [words.encode(word) for word in words.vocabulary] == [[place + 1] for place in range(len(words) - 1)]
    assert list(words.vocabulary) == sorted(words.vocabulary)


@pytest.mark.parametrize("name", tuple(ZOO))
def test_transformers_reads_the_same_tokenizer_file(name):
    from transformers import PreTrainedTokenizerFast

    ours = open_zoo(name).tokenizer
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder_of(name) / "tokenizer.json"), eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    pairs = TASKS[name if name in GROUND_TRUTH else "induction"].pairs(5)
    assert [theirs(pair.clean)["input_ids"] for pair in pairs] == [ours.encode(pair.clean) for pair in pairs]
    assert len(theirs) == len(ours)


def test_a_saved_tokenizer_is_the_same(tmp_path):
    made = WordTokenizer.from_words(["b", "a", "b"], "little")
    made.save(tmp_path / "tokenizer.json")
    read = WordTokenizer.from_file(tmp_path / "tokenizer.json", "little")
    assert read.vocabulary == made.vocabulary == ("a", "b")
    assert read.encode("b a") == [2, 1]


# ---------------------------------------------------------------- the training text


def test_no_document_is_made_from_a_held_out_combination():
    rng = random.Random(0)
    documents = [corpus.draw(rng) for _ in range(2000)]
    held = [document for document in documents for words in document.combinations if is_held_out(words)]
    assert held == []
    assert all(document.combinations for document in documents if document.kind != "filler")


def _words(text: str) -> list[str]:
    return re.findall(r"\d{2}|[A-Za-z]+", text)


def test_documents_say_the_combinations_they_hold():
    """Read from the text alone, where names, years and arguments can be told from other words."""
    rng = random.Random(1)
    for document in (corpus.draw(rng) for _ in range(3000)):
        text = document.prompt + document.rest
        names = tuple(sorted({word for word in _words(text) if word in corpus.PEOPLE}))
        if document.kind == "ioi":
            assert document.combinations == (names,)
        elif document.kind == "ioi/corrupted":
            assert set(document.combinations) == {names[:2], names[1:], names[::2]}
        elif document.kind.startswith("greater-than"):
            noun, year = document.combinations[0]
            assert f" {noun} " in text
            assert re.findall(r"\d{4}", text) == [year, *re.findall(r"\d{4}", text)[1:]]
        elif document.kind.startswith("docstring"):
            documented = re.findall(r":param (\w+)", text)
            assert any(set(documented) <= set(words) for words in document.combinations)
        elif document.kind == "induction":
            assert any(document.prompt.endswith(words[0]) for words in document.combinations)
        elif document.combinations:
            assert document.combinations[0][0] in text
            assert not names or document.combinations[0][0] == names[0]


def test_every_kind_of_document_is_drawn():
    rng = random.Random(2)
    kinds = {document.kind for document in (corpus.draw(rng) for _ in range(2000))}
    assert kinds == set(corpus.SOURCES) | {
        f"{name}/corrupted" for name, source in corpus.SOURCES.items() if source.corrupted is not None
    }
    assert set(corpus.SOURCES) - {"filler"} <= {task.name for task in TASKS}


def test_shipped_words_cover_every_task_on_both_splits(words):
    for task in OF_TASKS_4L:
        for options in settings_of(task):
            for split in ("train", "held-out"):
                tokenize(task.pairs(50, split=split, seed=7, **options), words)


def test_a_step_holds_every_document_once_and_counts_answers_more(words):
    text = Documents(words, documents_per_step=8)
    steps = list(text.chunk(0, 0))
    rng = random.Random("0/0")
    documents = [corpus.draw(rng) for _ in range(8 * STEPS_PER_CHUNK)]
    fitting = [d for d in documents if len(words.encode(d.prompt + d.rest)) <= text.edges[-1]]
    assert sum(len(batch.tokens) for batches in steps for batch in batches) == len(fitting)
    batch = steps[0][0]
    assert not batch.weight[batch.tokens == 0].any()
    assert set(np.unique(batch.weight)) <= {0.0, 1.0, text.answer_weight}


def test_chunks_come_again_from_their_seed_and_number(words):
    text = Documents(words, documents_per_step=4)
    once, again, other = (list(text.chunk(3, number)) for number in (1, 1, 2))
    assert all((a.tokens == b.tokens).all() for a, b in zip(once[0], again[0], strict=True))
    assert any(
        a.tokens.shape != b.tokens.shape or (a.tokens != b.tokens).any()
        for a, b in zip(once[0], other[0], strict=False)
    )


# ---------------------------------------------------------------- training

TINY = TransformerConfig(1, 2, 16, 8, 32, 106, 64)


@pytest.fixture(autouse=True)
def one_thread():
    """The models are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _tiny_text() -> Repeats:
    return Repeats(RECIPES["induction-2l"].tokenizer(), rows_per_step=8)


def test_twenty_steps_reduce_the_loss(words):
    means = []
    schedule = TrainingPlan(steps=20, rate=1e-2, warm_up=2)
    text, shape = Documents(words, documents_per_step=8), replace(TINY, d_vocab=len(words))
    train(shape, text, schedule, every=5, report=lambda model, training, loss: means.append(loss))
    assert len(means) == 4
    assert means[-1] < means[0] - 0.5


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    schedule, state = TrainingPlan(steps=20, rate=1e-2, warm_up=2), tmp_path / "state.safetensors"
    whole = train(TINY, _tiny_text(), schedule, seed=1)
    train(TINY, _tiny_text(), schedule, seed=1, state=state, until=7)
    resumed = train(TINY, _tiny_text(), schedule, seed=1, state=state)
    assert resumed.step == whole.step == 20
    assert all(torch.equal(resumed.parameters[name], tensor) for name, tensor in whole.parameters.items())


def test_the_state_of_another_training_is_refused(tmp_path):
    schedule, state = TrainingPlan(steps=4), tmp_path / "state.safetensors"
    train(TINY, _tiny_text(), schedule, seed=1, state=state, until=2)
    with pytest.raises(ModelError, match="another training"):
        train(TINY, _tiny_text(), schedule, seed=2, state=state)


def test_the_rate_rises_stays_and_falls_to_zero():
    schedule = TrainingPlan(steps=100, rate=1.0, warm_up=10, decay=0.5)
    rates = [schedule.rate_at(step) for step in range(101)]
    assert rates[0] == 0.1
    assert rates[10:50] == [1.0] * 40
    assert rates[100] == 0.0
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_initial_weights_come_from_the_seed():
    first, again, other = (initial_parameters(TINY, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["W_E"], other["W_E"])
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in first.values())


# ---------------------------------------------------------------- the shipped models


@pytest.mark.parametrize("name", tuple(RECIPES))
def test_a_shipped_model_is_as_accurate_as_its_config_says(name):
    """On 100 other held-out prompts: within three standard errors of the difference, and 2 points for rounding."""
    model, claimed = open_zoo(name), zoo_config(name)["accuracy"]
    found = accuracy(model, RECIPES[name].tasks, 100, seed=1)
    for task, settings in found.items():
        for setting, measures in settings.items():
            for key in SHARES:
                share = claimed[task][setting][key]
                allowed = 3 * (share * (1 - share) * (1 / 100 + 1 / 200)) ** 0.5 + 0.02
                assert abs(measures[key] - share) <= allowed, (task, setting, key)
            difference = claimed[task][setting]["probability_difference"]
            assert measures["probability_difference"] == pytest.approx(difference, abs=0.08), (task, setting)


@pytest.mark.parametrize("name", tuple(RECIPES))
def test_a_shipped_model_gives_exactly_the_numbers_in_its_config(name):
    model, config = open_zoo(name), zoo_config(name)
    task = TASKS[RECIPES[name].tasks[0]]
    options = settings_of(task)[0]
    pairs = task.pairs(config["prompts"], split="held-out", tokenizer=model.tokenizer, **options)
    found = measure(model, tokenize(pairs, model.tokenizer))
    assert found == pytest.approx(config["accuracy"][task.name][setting_name(options)], abs=1e-3)


def test_every_task_is_done_well_enough_to_look_for_its_circuit():
    claimed = zoo_config("tasks-4l")["accuracy"]
    for task in OF_TASKS_4L:
        for setting, measures in claimed[task.name].items():
            if task.metric == "prob-diff":
                assert measures["probability_difference"] >= 0.8, (task.name, setting)
            else:
                assert measures["preferred"] >= 0.97, (task.name, setting)
                assert measures["logit_difference"] - measures["corrupted_logit_difference"] > 2, (task.name, setting)
            if task.name != "subject-verb-agreement":
                assert measures["first"] >= 0.95, (task.name, setting)


def test_the_induction_model_has_a_previous_token_head_below_an_induction_head():
    previous, induction = head_scores(open_zoo("induction-2l"))
    assert previous[0].max() > THRESHOLD
    assert induction[1].max() > THRESHOLD
    assert second_mention_accuracy(open_zoo("induction-2l")) >= 0.95


@pytest.mark.parametrize("name", tuple(RECIPES))
def test_the_card_states_the_numbers_of_the_config(name):
    text, config = card(name), zoo_config(name)
    trained = config["trained"]
    assert f"{config['parameters']:,} parameters" in text
    assert f"{trained['steps']:,} of {trained['planned_steps']:,} planned steps, seed {trained['seed']}" in text
    for task, settings in config["accuracy"].items():
        for setting, measures in settings.items():
            cells = [f"{measures[key]:.1%}" if key in SHARES else f"{measures[key]:.2f}" for key in COLUMNS]
            assert f"| {task} | {setting} | {' | '.join(cells)} |" in text


@pytest.mark.parametrize("name", tuple(ZOO))
def test_a_changed_weights_file_is_refused(name, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(folder_of(name), folder)
    open_zoo(name, folder)
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        open_zoo(name, folder)


def test_a_model_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(UnknownNameError, match="tasks-4l"):
        open_zoo("task-4l")
    assert set(zoo_names()) == set(RECIPES) | set(GROUND_TRUTH)


@pytest.mark.parametrize("name", tuple(RECIPES))
def test_files_are_complete_and_finished(name):
    folder = folder_of(name)
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors",
        "config.json",
        "tokenizer.json",
        "CARD.md",
    }
    assert json.loads((folder / "config.json").read_text())["trained"]["steps"] == RECIPES[name].schedule.steps
