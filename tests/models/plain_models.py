"""Three toy models as people write them in plain PyTorch: parameters of their own, and a forward that uses nothing of ours."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

import circuitfind as cf


def parameter(*shape: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(scale * torch.randn(*shape) / math.sqrt(shape[-2] if len(shape) > 1 else 1))


class Box(nn.Module):
    """Parameters by name, so that a state dict has the names of a layout."""

    def __init__(self, **parts: nn.Parameter | nn.Module):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def attention(q, k, v, causal: bool):
    """Heads' mixed values, (prompts, heads, positions, d_head), from q, k and v of that shape."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        n = q.shape[-2]
        scores = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
    return scores.softmax(-1) @ v


class AttentionOnly(nn.Module):
    """Two layers of attention in 48 dimensions with LayerNorms, in TransformerLens's and ARENA's names."""

    CONFIG: ClassVar[dict[str, Any]] = {
        **{"n_layers": 2, "n_heads": 4, "d_model": 48, "d_head": 12, "d_vocab": 20, "n_ctx": 10},
        **{"attn_only": True, "normalization_type": "LN", "act_fn": None},
    }

    def __init__(self):
        super().__init__()
        heads = {f"W_{port}": (4, 48, 12) for port in "QKV"} | {"W_O": (4, 12, 48)}

        def block():
            biases = {f"b_{port}": nn.Parameter(0.1 * torch.randn(4, 12)) for port in "QKV"}
            weights = {name: parameter(*shape, scale=2.0) for name, shape in heads.items()}
            return Box(
                attn=Box(**weights, **biases, b_O=nn.Parameter(0.1 * torch.randn(48))),
                ln1=Box(w=nn.Parameter(1 + 0.1 * torch.randn(48)), b=nn.Parameter(0.1 * torch.randn(48))),
            )

        self.embed = Box(W_E=nn.Parameter(torch.randn(20, 48)))
        self.pos_embed = Box(W_pos=nn.Parameter(torch.randn(10, 48)))
        self.blocks = nn.ModuleList([block(), block()])
        self.ln_final = Box(w=nn.Parameter(torch.ones(48)), b=nn.Parameter(0.1 * torch.randn(48)))
        self.unembed = Box(W_U=parameter(48, 20), b_U=nn.Parameter(0.1 * torch.randn(20)))

    def forward(self, tokens):
        x = self.embed.W_E[tokens] + self.pos_embed.W_pos[: tokens.shape[1]]
        for block in self.blocks:
            a, read = block.attn, nn.functional.layer_norm(x, (48,), block.ln1.w, block.ln1.b)
            q, k, v = (
                torch.einsum("bpd,hdk->bhpk", read, getattr(a, f"W_{port}")) + getattr(a, f"b_{port}")[:, None]
                for port in "QKV"
            )
            x = x + torch.einsum("bhpk,hkd->bpd", attention(q, k, v, causal=True), a.W_O) + a.b_O
        return (
            nn.functional.layer_norm(x, (48,), self.ln_final.w, self.ln_final.b) @ self.unembed.W_U + self.unembed.b_U
        )


class ModularAddition(nn.Module):
    """One layer that reads 14 ids and says one of 13 numbers, laid out as in the work on grokking: no norms, no head biases."""

    CONFIG: ClassVar[dict[str, Any]] = {
        **{"num_layers": 1, "num_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 32, "d_vocab": 14, "d_vocab_out": 13},
        **{"n_ctx": 3, "act_type": "ReLU", "use_ln": False},
    }

    def __init__(self):
        super().__init__()
        weights = {f"W_{port}": nn.Parameter(torch.randn(4, 8, 32) / 4) for port in "QKV"}
        self.embed = Box(W_E=nn.Parameter(torch.randn(32, 14)))
        self.pos_embed = Box(W_pos=nn.Parameter(torch.randn(3, 32)))
        attn = Box(**weights, W_O=nn.Parameter(torch.randn(32, 32) / 4))
        attn.register_buffer("mask", torch.ones(3, 3).tril())
        mlp = Box(
            W_in=nn.Parameter(torch.randn(32, 32) / 4),
            b_in=nn.Parameter(0.1 * torch.randn(32)),
            W_out=nn.Parameter(torch.randn(32, 32) / 4),
            b_out=nn.Parameter(0.1 * torch.randn(32)),
        )
        self.blocks = nn.ModuleList([Box(attn=attn, mlp=mlp)])
        self.unembed = Box(W_U=nn.Parameter(torch.randn(32, 13) / 4))

    def forward(self, tokens):
        x = self.embed.W_E.T[tokens] + self.pos_embed.W_pos[: tokens.shape[1]]
        a, mlp = self.blocks[0].attn, self.blocks[0].mlp
        q, k, v = (torch.einsum("ihd,bpd->biph", getattr(a, f"W_{port}"), x) for port in "QKV")
        z = attention(q, k, v, causal=True).transpose(1, 2).flatten(2)
        x = x + torch.einsum("df,bqf->bqd", a.W_O, z)
        hidden = torch.relu(torch.einsum("md,bpd->bpm", mlp.W_in, x) + mlp.b_in)
        return (x + torch.einsum("dm,bpm->bpd", mlp.W_out, hidden) + mlp.b_out) @ self.unembed.W_U


class Classifier(nn.Module):
    """Two layers that see in both directions and say one of three labels at the first position, in nanoGPT's names."""

    CONFIG: ClassVar[dict[str, Any]] = {
        **{"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 12, "block_size": 7, "bias": True, "dropout": 0.1},
        **{"d_vocab_out": 3, "causal": False},
    }

    def __init__(self):
        super().__init__()

        def block():
            attn = Box(c_attn=nn.Linear(16, 48), c_proj=nn.Linear(16, 16))
            mlp = Box(c_fc=nn.Linear(16, 64), c_proj=nn.Linear(64, 16))
            return Box(ln_1=nn.LayerNorm(16), attn=attn, ln_2=nn.LayerNorm(16), mlp=mlp)

        parts = {"wte": nn.Embedding(12, 16), "wpe": nn.Embedding(7, 16), "h": nn.ModuleList([block(), block()])}
        self.transformer = nn.ModuleDict(parts | {"ln_f": nn.LayerNorm(16)})
        self.lm_head = nn.Linear(16, 3)
        with torch.no_grad():
            for weight in self.parameters():
                weight.add_(0.3 * torch.randn_like(weight))

    def forward(self, tokens):
        t = self.transformer
        x = t["wte"](tokens) + t["wpe"](torch.arange(tokens.shape[1]))
        for block in t["h"]:
            parts = block.attn.c_attn(block.ln_1(x)).split(16, -1)
            q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in parts)
            x = x + block.attn.c_proj(attention(q, k, v, causal=False).transpose(1, 2).flatten(2))
            x = x + block.mlp.c_proj(nn.functional.gelu(block.mlp.c_fc(block.ln_2(x))))
        return self.lm_head(t["ln_f"](x))


PLAIN = {"attention-only": AttentionOnly, "modular-addition": ModularAddition, "classifier": Classifier}


def made(name: str, seed: int = 0) -> nn.Module:
    """One of them, random, in float64."""
    torch.manual_seed(seed)
    return PLAIN[name]().double().eval()


def ids(model: cf.Transformer, n: int = 3, seed: int = 0) -> torch.Tensor:
    shape = n, min(model.config.n_ctx, 6)
    return torch.randint(model.config.d_vocab, shape, generator=torch.Generator().manual_seed(seed))


def own_pairs(model: cf.Transformer, n: int = 12) -> cf.TokenPairs:
    """Random prompts; the answers are the outputs that differ most. The classifier's is read at the first token."""
    clean = ids(model, n, 1)
    corrupted = (
        clean + torch.randint(1, 5, clean.shape, generator=torch.Generator().manual_seed(2))
    ) % model.config.d_vocab
    at = 0 if not model.config.causal else clean.shape[1] - 1
    both = [model.logits(side)[:, at] for side in (clean, corrupted)]
    difference = both[0] - both[1]
    return cf.TokenPairs.from_ids(
        clean, corrupted, difference.argmax(-1), difference.argmin(-1), answer_at=np.full(n, at)
    )


def write_csv(pairs: cf.TokenPairs, path) -> None:
    lines = ["clean_ids,corrupted_ids,correct_ids,incorrect_ids,answer_at"]
    for row in range(len(pairs)):
        cells = [" ".join(map(str, side[row].tolist())) for side in (pairs.clean, pairs.corrupted)]
        cells += [str(part[row, 0]) for part in (pairs.correct, pairs.incorrect)] + [str(pairs.answer_position[row])]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n")
