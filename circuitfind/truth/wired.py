"""Models wired by hand: every weight of the circuit is set explicitly, and idle heads have small effects.

The stream consists of named spaces, each one-hot or a single number. A head is defined by what its query, key and value read
and where it writes. Attention is sharp: a match scores :data:`SHARP`, so anything else gets e^-30 of its weight.

Heads and hidden values outside the circuit are idle, not silent. With random weights, they read words and each other, and
write into a separate space, ``noise``, which moves the logits by a few hundredths. So edges outside the truth have small but
nonzero scores, as in trained models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from circuitfind.task.program_prompts import BOS
from circuitfind.tasks import wired_and, wired_backup, wired_induction
from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.zoo import WordTokenizer

SHARP = 30.0
"""The attention score of a match, before the softmax."""
CONFIDENCE = 10.0
"""The logit of the right word."""
NOISE, HUM = 8, 0.02
"""Width of the idle heads' space, and how strongly the logits read it."""
SpaceWeights = Sequence[tuple[str, Tensor]]
"""Spaces with the matrices (width of the space, columns) that they are multiplied by."""


class Wiring:
    """Weights under construction: 2 layers of 4 heads, no norms, no rotation, unscaled attention scores.

    Args:
        name: name of the model.
        words: its vocabulary, without ``BOS``.
        spaces: the widths of the stream's spaces; ``token`` and ``noise`` are added, and ``position`` if ``n_ctx`` positions
            are embedded.
        d_mlp: 0 for attention only.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        spaces: Mapping[str, int],
        *,
        d_head: int,
        d_mlp: int,
        positions: bool = False,
    ) -> None:
        self.tokenizer = WordTokenizer.from_words([BOS, *words], name)
        n, n_ctx = len(self.tokenizer), 24
        widths = {"token": n, **({"position": n_ctx} if positions else {}), **spaces, "noise": NOISE}
        ends = torch.tensor(list(widths.values())).cumsum(0).tolist()
        self.spaces = {space: slice(end - width, end) for (space, width), end in zip(widths.items(), ends, strict=True)}
        where = "learned" if positions else "none"
        self.config = TransformerConfig(
            *(2, 4, ends[-1], d_head, d_mlp, n, n_ctx),
            activation="relu",
            norm="none",
            positions=where,
            attention_scale=1.0,
        )
        self._random = torch.Generator().manual_seed(0)
        self._busy: set[tuple[int, int]] = set()
        self._hidden: dict[int, int] = {}
        self.weights = {"W_E": torch.zeros(n, ends[-1]), "W_U": torch.zeros(ends[-1], n)}
        self.weights["W_E"][:, self.spaces["token"]] = torch.eye(n)
        if positions:
            self.weights["W_pos"] = torch.zeros(n_ctx, ends[-1])
            self.weights["W_pos"][:, self.spaces["position"]] = torch.eye(n_ctx)
        for layer in range(2):
            self._empty_layer(layer)

    def _empty_layer(self, layer: int) -> None:
        c, key = self.config, f"layers.{layer}."
        for leaf in ("W_Q", "W_K", "W_V"):
            self.weights[key + leaf] = torch.zeros(c.d_model, 4 * c.d_head)
        self.weights[key + "W_O"] = torch.zeros(4 * c.d_head, c.d_model)
        if c.d_mlp:
            self.weights |= {key + "W_in": torch.zeros(c.d_model, c.d_mlp), key + "b_in": torch.zeros(c.d_mlp)}
            self.weights |= {key + "W_out": torch.zeros(c.d_mlp, c.d_model)}

    def ids(self, words: Sequence[str]) -> list[int]:
        """Token ids of words."""
        return [self.tokenizer.encode(word)[0] for word in words]

    def rows(self, words: Sequence[str], values: Tensor) -> Tensor:
        """A matrix (vocabulary, columns) with a row of ``values`` for each given word, and zeros for the others."""
        matrix = torch.zeros(len(self.tokenizer), values.shape[1])
        matrix[self.ids(words)] = values
        return matrix

    def constant(self) -> None:
        """Let every word write a 1 to the space ``one``."""
        self.weights["W_E"][:, self.spaces["one"]] = 1.0

    def head(
        self, layer: int, head: int, query: SpaceWeights, key: SpaceWeights, value: SpaceWeights, writes: str
    ) -> None:
        """Wire a head; column i of its values goes to dimension i of the space it writes to."""
        self._busy.add((layer, head))
        first = head * self.config.d_head
        for leaf, reads in (("W_Q", query), ("W_K", key), ("W_V", value)):
            for space, matrix in reads:
                self.weights[f"layers.{layer}.{leaf}"][self.spaces[space], first : first + matrix.shape[1]] += matrix
        place = self.spaces[writes]
        width = place.stop - place.start
        self.weights[f"layers.{layer}.W_O"][first : first + width, place] = torch.eye(width)

    def mlp(self, layer: int, reads: SpaceWeights, bias: Tensor, writes: SpaceWeights) -> None:
        """Wire an MLP's first hidden values: relu(reads + bias), and what they write (hidden values, width of a space)."""
        n, key = len(bias), f"layers.{layer}."
        for space, matrix in reads:
            self.weights[key + "W_in"][self.spaces[space], :n] = matrix
        self.weights[key + "b_in"][:n] = bias
        for space, matrix in writes:
            self.weights[key + "W_out"][:n, self.spaces[space]] = matrix
        self._hidden[layer] = n

    def read_out(self, space: str, words: Sequence[str], values: Tensor) -> None:
        """Read logits of some words from a space: ``values`` is (width of the space, words)."""
        self.weights["W_U"][self.spaces[space].start : self.spaces[space].stop, self.ids(words)] = values

    def finished(self) -> Transformer:
        """The model, with idle heads and hidden values filled in."""
        for layer in range(2):
            for head in range(4):
                if (layer, head) not in self._busy:
                    self._idle_head(layer, head)
            if self.config.d_mlp:
                self._idle_hidden(layer)
        noise = self.spaces["noise"]
        self.weights["W_U"][noise] += HUM * self._draw(NOISE, len(self.tokenizer))
        return Transformer(
            self.config, self.weights, tokenizer=self.tokenizer, name=self.tokenizer.name, source="wired by hand"
        )

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)

    def _idle_head(self, layer: int, head: int) -> None:
        c, key = self.config, f"layers.{layer}."
        columns = slice(head * c.d_head, (head + 1) * c.d_head)
        for leaf, size in (("W_Q", c.d_head**-0.5), ("W_K", 1.0), ("W_V", 0.5)):
            for space in ("token", "noise"):
                place = self.spaces[space]
                self.weights[key + leaf][place, columns] = size * self._draw(place.stop - place.start, c.d_head)
        self.weights[key + "W_O"][columns, self.spaces["noise"]] = c.d_head**-0.5 * self._draw(c.d_head, NOISE)

    def _idle_hidden(self, layer: int) -> None:
        first, noise, key = self._hidden.get(layer, 0), self.spaces["noise"], f"layers.{layer}."
        n = self.config.d_mlp - first
        self.weights[key + "W_in"][noise, first:] = NOISE**-0.5 * self._draw(NOISE, n)
        self.weights[key + "W_out"][first:, noise] = n**-0.5 * self._draw(n, NOISE)


def induction() -> Transformer:
    """A head that copies the previous word to each position, and a head that finds the current word among these."""
    wiring = Wiring(
        "wired-induction", wired_induction.WORDS, {"before": 26, "said": 26}, d_head=26, d_mlp=0, positions=True
    )
    n, n_ctx = len(wiring.tokenizer), wiring.config.n_ctx
    one_back = torch.eye(n_ctx).roll(-1, 1)
    one_back[0] = 0.0  # there is nothing before the first position
    wiring.head(
        *(0, 1),
        query=[("position", SHARP * one_back)],
        key=[("position", torch.eye(n_ctx))],
        value=[("token", torch.eye(n))],
        writes="before",
    )
    wiring.head(
        *(1, 2),
        query=[("token", SHARP * torch.eye(n))],
        key=[("before", torch.eye(n))],
        value=[("token", torch.eye(n))],
        writes="said",
    )
    words = wiring.tokenizer.vocabulary
    wiring.read_out("said", words, CONFIDENCE * torch.eye(n)[:, 1:])
    return wiring.finished()


def _looks_for(wiring: Wiring, words: Sequence[str]) -> tuple[SpaceWeights, SpaceWeights]:
    """Query and key of a head that attends to one of some words, and to ``BOS`` if there is none."""
    sought = wiring.rows([*words, BOS], torch.tensor([[1.0]] * len(words) + [[0.5]]))
    return [("one", torch.tensor([[2 * SHARP]]))], [("token", sought)]


def _two_signs(name: str, answer: Tensor) -> Transformer:
    """Two heads that find one sign each; an MLP computes the answer from relu(a + b) and relu(a + b - 1)."""
    first, second = wired_and.SIGNS
    words = [*wired_and.WORDS, first, second, "yes", "no"]
    wiring = Wiring(name, words, {"one": 1, "first": 1, "second": 1, "answer": 1}, d_head=8, d_mlp=16)
    wiring.constant()
    for (layer, head), sign, space in (((0, 1), first, "first"), ((1, 2), second, "second")):
        query, key = _looks_for(wiring, [sign])
        wiring.head(layer, head, query, key, [("token", wiring.rows([sign], torch.ones(1, 1)))], space)
    both = torch.ones(1, 2)
    wiring.mlp(1, [("first", both), ("second", both)], torch.tensor([0.0, -1.0]), [("answer", answer)])
    wiring.read_out("answer", ["yes", "no"], 2 * CONFIDENCE * torch.tensor([[1.0, -1.0]]))
    wiring.weights["b_U"] = torch.zeros(len(wiring.tokenizer))
    wiring.weights["b_U"][wiring.ids(["yes", "no"])] = CONFIDENCE * torch.tensor([-1.0, 1.0])
    return wiring.finished()


def both_needed() -> Transformer:
    """The minimum of two signs."""
    return _two_signs("wired-and", torch.tensor([[0.0], [1.0]]))


def one_is_enough() -> Transformer:
    """The maximum of two signs."""
    return _two_signs("wired-or", torch.tensor([[1.0], [-1.0]]))


def backup() -> Transformer:
    """A head that copies a name, an MLP that passes it on and signals this, and a backup head that copies it otherwise.

    The signal keeps the backup silent: the MLP puts a mark on ``BOS``, and a query with that signal attends to the mark.
    """
    names = wired_backup.NAMES
    n, each = len(names), torch.eye(len(names))
    spaces = {"one": 1, "copied": n, "said": n, "found": 1, "mark": 1}
    wiring = Wiring("wired-backup", [*wired_backup.WORDS, *names], spaces, d_head=n, d_mlp=24)
    wiring.constant()
    query, key = _looks_for(wiring, names)
    value = [("token", wiring.rows(names, each))]
    wiring.head(0, 1, query, key, value, "copied")
    of_name, of_bos = torch.zeros(n + 1, 1), torch.zeros(n + 1, 1)
    of_name[:n], of_bos[n] = 1.0, 1.0
    wiring.mlp(
        *(0, [("copied", 2 * torch.eye(n, n + 1)), ("token", wiring.rows([BOS], of_bos.T))]),
        bias=torch.tensor([-1.0] * n + [0.0]),
        writes=[("said", torch.eye(n + 1, n)), ("found", of_name), ("mark", of_bos)],
    )
    second = torch.tensor([[0.0, 1.0]])
    wiring.head(1, 2, [*query, ("found", 4 * SHARP * second)], [*key, ("mark", second)], value, "said")
    wiring.read_out("said", names, 0.7 * CONFIDENCE * each)  # so that one active head differs from two
    return wiring.finished()


WIRED: Mapping[str, Callable[[], Transformer]] = {
    "wired-induction": induction,
    "wired-and": both_needed,
    "wired-or": one_is_enough,
    "wired-backup": backup,
}
