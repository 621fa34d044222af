"""An answer is read as the token that follows its prompt, or the pair is refused."""

import json
import random
from dataclasses import replace

import pytest
from gpt2_text import gpt2_text
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from circuitfind.errors import PairsError
from circuitfind.models.text import HuggingFaceTokenizer
from circuitfind.task import PromptPair, PromptPairs, find_problems, load_pairs, tokenize
from circuitfind.task.tokenization import following, read_pair, token_texts

WORDS = ["<unk>", "<s>", "▁Ann", "▁Bob", "▁said", "▁", '"', "yes", "no", "▁yes", "▁no", *"AnbosyeaidB"]
TEXT = 'Ann said yes and Bob said no, so Ann went to the store; 17 men, 1733 women (and "nobody") saw her there. don\'t 3+4=7'


def sentence_piece(normalize: bool = False) -> HuggingFaceTokenizer:
    """Like SentencePiece: a space is the sign in front of a word, and a text begins with one."""
    inner = Tokenizer(models.Unigram([(word, -1.0 - (word == "▁") - (len(word) == 1)) for word in WORDS], unk_id=0))
    if normalize:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace()
    return HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"))


def byte_level() -> HuggingFaceTokenizer:
    """Byte pairs learned from a few sentences."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([TEXT] * 20, BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    return HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner))


TOKENIZERS = {
    "sentence-piece": sentence_piece,
    "normalizer": lambda: sentence_piece(normalize=True),
    "byte-level": byte_level,
    "gpt2": gpt2_text,
}


@pytest.mark.parametrize("normalize", [False, True])
def test_an_answer_after_a_quote_is_the_piece_without_a_space(normalize):
    tokenizer = sentence_piece(normalize)
    tokens = tokenize(PromptPairs((PromptPair('Ann said "', 'Bob said "', "yes", "no"),)), tokenizer)
    assert (tokens.correct.tolist(), tokens.incorrect.tolist()) == ([[WORDS.index("yes")]], [[WORDS.index("no")]])
    tokens = tokenize(PromptPairs((PromptPair("Ann said", "Bob said", " yes", " no"),)), tokenizer)
    assert (tokens.correct.tolist(), tokens.incorrect.tolist()) == ([[WORDS.index("▁yes")]], [[WORDS.index("▁no")]])


def test_ids_are_taken_as_they_are():
    tokenizer = sentence_piece()
    pair = PromptPair('Ann said "', 'Bob said "', WORDS.index("▁yes"), ((6, 7),))
    assert read_pair(pair, tokenizer).correct == ((9,),)
    assert read_pair(pair, tokenizer).incorrect == ((6, 7),)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tokens_of_200_random_prompts_and_answers_are_those_of_the_whole_text(name):
    tokenizer, rng = TOKENIZERS[name](), random.Random(0)
    text = TEXT if name in ("byte-level", "gpt2") else 'Ann said "yes Bob said no Ann "no'
    read = 0
    for _ in range(200):
        start = rng.randrange(len(text) - 8)
        border, end = sorted(rng.sample(range(start + 1, min(len(text), start + 30)), 2))
        prompt, answer = text[start:border], text[border:end]
        pair = PromptPair(prompt, prompt, answer)
        whole, own = tokenizer.encode(prompt + answer), tokenizer.encode(prompt)
        problems = find_problems(PromptPairs((pair,)), tokenizer)
        if problems:
            assert problems[0].fault in ("border", "empty-prompt")
            assert not prompt.strip() or whole[: len(own)] != own or len(whole) == len(own)
        else:
            assert [*own, *read_pair(pair, tokenizer).correct[0]] == whole
            read += 1
    assert read >= 20


@pytest.mark.parametrize(
    ("prompt", "answer", "fault", "words"),
    [
        (
            "Ann went to ",
            "the",
            "border",
            "end the clean prompt before its white space, and write the answer as ' the'",
        ),
        (
            "Ann went to ",
            " the",
            "two-spaces",
            "the clean prompt ends in a space and the answer ' the' begins with one",
        ),
        ("Ann sai", "d yes", "border", "the tokens of the clean prompt change when the answer 'd yes' follows"),
    ],
)
def test_a_prompt_that_changes_when_the_answer_follows_is_refused_with_the_repair(prompt, answer, fault, words):
    (problem,) = find_problems(PromptPairs((PromptPair(prompt, prompt, answer),)), byte_level())
    assert problem.fault == fault
    assert words in problem.message


def test_both_prompts_are_held_to_the_rule():
    tokenizer = byte_level()
    clean, corrupted = 'Ann said yes "', "Bob said no, "
    assert len(tokenizer.encode(clean)) != 0
    pair = PromptPair("Ann said", "Bob sai", " yes")
    assert {p.fault for p in find_problems(PromptPairs((pair,)), tokenizer)} <= {"border", "unequal-length"}
    assert following(tokenizer, clean, "no") == tuple(tokenizer.encode(clean + "no")[len(tokenizer.encode(clean)) :])
    with pytest.raises(Exception, match="prompt"):
        following(tokenizer, corrupted, " yes")


def test_parts_of_a_number_are_read_on_their_own_where_they_would_be_joined():
    inner = Tokenizer(
        models.BPE({"1": 0, "6": 1, "0": 2, "16": 3, "00": 4, "1600": 5}, [("1", "6"), ("0", "0"), ("16", "00")])
    )
    tokenizer = HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner))
    pair = PromptPair("16", "16", "00", "06")
    assert [problem.fault for problem in find_problems(PromptPairs((pair,)), tokenizer)] == ["border"]
    assert read_pair(replace(pair, alone=True), tokenizer).correct == ((4,),)
    assert read_pair(replace(pair, alone=True), tokenizer).incorrect == ((2, 1),)


def test_tokens_are_shown_with_their_spaces():
    tokenizer = sentence_piece()
    ids = tokenizer.encode('Ann said "yes')
    assert token_texts(tokenizer, ids) == ["Ann", "␣said", "␣", '"', "yes"]
    assert token_texts(tokenizer, [WORDS.index("▁yes")], ids) == ["␣yes"]


def test_a_prompt_that_begins_with_bos_gets_no_second_one():
    inner = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "<unk>": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<s>"])
    hf = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    led = HuggingFaceTokenizer(hf, bos=True)
    assert led.encode("a b") == led.encode("<s>a b") == [0, 1, 2]
    assert HuggingFaceTokenizer(hf, bos=False).encode("<s>a b") == [0, 1, 2]


CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if not loop.last or m['role'] == 'user' %}"
    "</{{ m['role'] }}>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chatting():
    hf = byte_level().tokenizer
    hf.add_special_tokens({"bos_token": "<s>"})
    hf.chat_template = CHAT
    return HuggingFaceTokenizer(hf, bos=True)


@pytest.mark.parametrize("as_text", [False, True])
def test_chat_messages_are_written_by_the_tokenizers_template(as_text):
    tokenizer = chatting()
    clean, corrupted = ([{"role": "user", "content": f"{name} said"}] for name in ("Ann", "Ann"))
    row = {"clean": clean, "corrupted": corrupted, "correct": "yes", "incorrect": "no"}
    if as_text:
        row |= {side: json.dumps(row[side]) for side in ("clean", "corrupted")}
    (pair,) = load_pairs([row], tokenizer)
    assert pair.clean == "<s><user>Ann said</user><assistant>"
    ids = read_pair(pair, tokenizer)
    assert tokenizer.decode(ids.clean) == pair.clean
    assert ids.clean.count(tokenizer.tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids.correct[0]) == "yes"


def test_an_answer_goes_on_with_the_assistants_open_message():
    row = [{"role": "user", "content": "Ann said"}, {"role": "assistant", "content": "no and"}]
    (pair,) = load_pairs([{"clean": row, "corrupted": row, "correct": "yes"}], chatting())
    assert pair.clean.endswith("</user><assistant>no and")
    assert pair.correct == (" yes",)


def test_messages_without_a_template_are_refused():
    row = [{"role": "user", "content": "Ann said"}]
    with pytest.raises(PairsError, match="chat template"):
        load_pairs([{"clean": row, "corrupted": row, "correct": "yes"}], byte_level())
    with pytest.raises(PairsError, match="no chat template; write the prompt as text"):
        load_pairs([{"clean": row, "corrupted": row, "correct": "yes"}])
