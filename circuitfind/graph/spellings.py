"""Names of nodes and ports as people and other tools write them, in our spelling.

    L5H1, 5.1, A5.1, (5, 1), blocks.5.attn.hook_z.1     a5.h1         (TransformerLens, ACDC, AutoCircuit, papers)
    L5H1.q, 5.1<q>, blocks.5.attn.hook_q.1              a5.h1<q>
    MLP5, L5MLP, blocks.5.hook_mlp_out                  m5
    attn5, blocks.5.attn.hook_z                         a5
    L5N17, m5.17, blocks.5.mlp.hook_post.17             m5.n17
    embed, hook_embed, Resid Start                      input
    unembed, Resid End                                  logits
    blocks.5.hook_resid_pre                             resid_pre.5

Upper and lower case are the same. What is none of these is left as it is.
"""

from __future__ import annotations

import re
from functools import cache

from circuitfind.graph.names import place_or_none, port_name

_INDEX = r"[.:\[ ]{1,2}(\d+)\]?"
_NODES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"(?:head ?)?[al]?(\d+)[.:]h?(\d+)", "a{0}.h{1}"),
        (r"[al](\d+) ?h(\d+)", "a{0}.h{1}"),
        (r"\((\d+), ?(\d+)\)", "a{0}.h{1}"),
        (rf"blocks\.(\d+)\.attn\.hook_(?:z|result|v_out){_INDEX}", "a{0}.h{1}"),
        (r"blocks\.(\d+)\.(?:hook_attn_out|attn(?:\.hook_(?:z|result|out))?)", "a{0}"),
        (r"(?:attn|attention)[ ._]?(\d+)", "a{0}"),
        (r"l(\d+)[ ._]?(?:attn|attention)", "a{0}"),
        (r"mlp[ ._]?(\d+)", "m{0}"),
        (r"l(\d+)[ ._]?m(?:lp)?", "m{0}"),
        (r"blocks\.(\d+)\.(?:hook_mlp_(?:out|in)|mlp(?:\.hook_out)?)", "m{0}"),
        (r"m(?:lp)?[ ._]?(\d+)[.:]n?(\d+)", "m{0}.n{1}"),
        (r"l(\d+)n(\d+)", "m{0}.n{1}"),
        (rf"blocks\.(\d+)\.mlp\.hook_post{_INDEX}", "m{0}.n{1}"),
        (r"(?:hook_)?embed(?:ding)?s?|resid[ _]start", "input"),
        (r"unembed|resid[ _]end|output", "logits"),
        (r"blocks\.(\d+)\.hook_resid_(pre|mid)", "resid_{1}.{0}"),
    )
)
_PORTS = (
    re.compile(r"(?P<node>.+?) ?<(?P<port>[qkv])>"),
    re.compile(r"(?P<node>.+?\d\)?)[._ ]?(?P<port>[qkv])"),
)
_HOOKED_PORT = re.compile(rf"blocks\.(\d+)\.(?:attn\.hook_([qkv])|hook_([qkv])_input){_INDEX}")


@cache
def in_our_spelling(word: str) -> str:
    """A node, a port or a place of the stream as we write it; another word as it is.

    Example:
        >>> [in_our_spelling(word) for word in ("L5H1", "9.6.q", "MLP 3", "a5.h1", "whatever")]
        ['a5.h1', 'a9.h6<q>', 'm3', 'a5.h1', 'whatever']
    """
    plain = " ".join(word.lower().split())
    if (hooked := _HOOKED_PORT.fullmatch(plain)) is not None:
        layer, port, of_input, head = hooked.groups()
        return port_name(f"a{int(layer)}.h{int(head)}", port or of_input)
    if (node := _node(plain)) is not None:
        return node
    for pattern in _PORTS:
        match = pattern.fullmatch(plain)
        if match is not None and (node := _node(match["node"])) is not None and node.startswith("a"):
            return port_name(node, match["port"])
    return word


def _node(word: str) -> str | None:
    if place_or_none(word) is not None:
        return word
    for pattern, ours in _NODES:
        if (match := pattern.fullmatch(word)) is not None:
            return ours.format(*(str(int(part)) if part.isdecimal() else part for part in match.groups()))
    return None
