"""The places in a model that component names refer to.

Other tools' spellings are understood too (:mod:`circuitfind.graph.spellings`).

* ``input``, ``a3.h5`` (``a3`` if attention is one node), ``m3`` (the rest, if some neurons are nodes): what a sender writes.
* ``a3``: what all heads of a layer write.
* ``m3.n17``: one hidden value of an MLP, after its activation (and gate, and inner norm).
* ``resid_pre.3``, ``resid_mid.3``, ``resid_final``: the residual stream before the attention and before the MLP of a layer, and
  the final one. In TransformerLens these are ``blocks.3.hook_resid_pre``, ``blocks.3.hook_resid_mid`` and the last block's
  ``hook_resid_post``. If attention and MLP are parallel, there is no ``resid_mid``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution.recompute.patches import Patch, Site
from circuitfind.graph import ComputationGraph, Place, in_our_spelling, place_or_none
from circuitfind.transformer import Transformer

COMPONENTS = ("residual", "head", "mlp", "attention", "node")
MOST_NAMED = 6
Components = str | Sequence[str | Sequence[str]]


def stream_names(graph: ComputationGraph) -> dict[str, int]:
    """The places where the residual stream is read, each with the number of the block that reads it."""
    names = {}
    for number, block in enumerate(graph.blocks):
        if block.kind == "attention":
            names[f"resid_pre.{block.layer}"] = number
        elif block.kind == "logits":
            names["resid_final"] = number
        elif not graph.parallel:
            names[f"resid_mid.{block.layer}"] = number
    return names


def names_of(graph: ComputationGraph, kind: str) -> list[str]:
    """Names of all components of a kind.

    Raises:
        OptionError: no such kind, or the model has no such components.
    """
    if kind == "residual":
        return list(stream_names(graph))
    if kind == "node":
        return list(graph.sender_names)
    layers = range(graph.n_layers)
    if kind == "attention":
        return [Place("attention", layer).name for layer in layers]
    if kind == "mlp":
        if not graph.has_mlp:
            raise OptionError("this model has no MLPs; use 'head', 'attention' or 'residual'")
        return [Place("mlp", layer).name for layer in layers]
    if kind != "head":
        raise OptionError(f"components of kind {kind!r}: use one of {', '.join(COMPONENTS)}, or names such as a3.h5")
    if graph.whole_attention:
        raise OptionError("a norm mixes the heads of this model, so a head has no write of its own; use 'attention'")
    return [graph.node_name(graph.head(layer, head)) for layer in layers for head in range(graph.n_heads)]


def spelled(graph: ComputationGraph, word: str) -> str:
    """A component as we write it, in whatever spelling it was given; other words as they are."""
    if word in COMPONENTS or word in (streams := stream_names(graph)):
        return word
    after = [f"blocks.{layer}.hook_resid_post" for layer in range(graph.n_layers)]
    if word in after:  # what the next layer reads
        layer = after.index(word) + 1
        return f"resid_pre.{layer}" if layer < graph.n_layers else "resid_final"
    ours = in_our_spelling(word)
    return ours if ours in streams else graph.spelled(word)


def _all_spelled(graph: ComputationGraph, components: Components) -> Components:
    if isinstance(components, str):
        return spelled(graph, components)
    return [
        spelled(graph, part) if isinstance(part, str) else [spelled(graph, str(one)) for one in part]
        for part in components
    ]


def patches_of(model: Transformer, components: Components) -> list[tuple[str, Patch]]:
    """The requested patches, with their names.

    Args:
        components: a kind (a patch for each component of it); a component; a list of components, patched together; or a list
            of such lists, each a separate patch.

    Raises:
        UnknownNameError: no such component. OptionError: an empty list.
    """
    components = _all_spelled(model.graph, components)
    if isinstance(components, str):
        names = names_of(model.graph, components) if components in COMPONENTS else [components]
        return [(name, together(model, [name])) for name in names]
    plain = all(isinstance(part, str) for part in components)
    lists = [components] if plain else [[part] if isinstance(part, str) else part for part in components]
    return [(label(group), together(model, group)) for group in lists]


def label(names: Sequence[str | Sequence[str]]) -> str:
    """A name for components that are patched together: all their names, or the first few and the number of others."""
    told = [str(name) for name in names]
    return (
        "+".join(told)
        if len(told) <= MOST_NAMED
        else f"{'+'.join(told[: MOST_NAMED - 1])}+{len(told) - MOST_NAMED + 1} more"
    )


def together(model: Transformer, names: Iterable[str | Sequence[str]]) -> Patch:
    """The sites of components that are patched together, each once."""
    sites = [site for name in names for site in _sites(model, str(name))]
    if not sites:
        raise OptionError("a list of components is empty; name at least one, such as a3.h5")
    whole = {(site.block, site.node) for site in sites if not site.neurons}
    neurons: dict[tuple[int, int], set[int]] = {}
    for site in sites:
        if site.neurons and (site.block, site.node) not in whole:
            neurons.setdefault((site.block, site.node), set()).update(site.neurons)
    return tuple(
        sorted([Site(*place) for place in whole] + [Site(*place, tuple(sorted(n))) for place, n in neurons.items()])
    )


def _sites(model: Transformer, name: str) -> list[Site]:
    """The sites of one component."""
    graph = model.graph
    name = spelled(graph, name)
    if name == "input":
        return [Site(0)]
    if (streams := stream_names(graph)) and name in streams:
        return [Site(streams[name])]
    place = place_or_none(name)
    if place is not None and place.kind == "neuron" and name not in graph.node_number:
        return [neuron_site(model, place.layer, [place.number])]
    if place is not None and place.of.has_layer and place.layer < graph.n_layers:
        nodes = (
            range(graph.n_senders)[graph.heads(place.layer)] if place.kind == "attention" else graph.nodes_called(name)
        )
        if place.kind != "kv" and nodes:
            return [Site(graph.block_number[place.of.block, place.layer], node) for node in nodes]
    known = [*graph.sender_names, *names_of(graph, "attention"), *streams]
    raise UnknownNameError("component", name, dict.fromkeys(known), "A neuron is written m3.n17.")


def neuron_site(model: Transformer, layer: int, neurons: Sequence[int]) -> Site:
    """Some hidden values of an MLP; see :func:`check_neurons`."""
    check_neurons(model, layer, neurons)
    return Site(model.graph.block_number["mlp", layer], model.graph.mlp(layer), tuple(neurons))


def check_neurons(model: Transformer, layer: int, neurons: Sequence[int]) -> None:
    """Refuse neurons that do not exist.

    Raises:
        OptionError: there is no such MLP or neuron, or the MLP is a mixture of experts.
    """
    graph, width = model.graph, model.config.d_mlp
    if not graph.has_mlp or not 0 <= layer < graph.n_layers:
        raise OptionError(f"there is no MLP m{layer}: this model has {graph.n_layers if graph.has_mlp else 0} MLPs")
    if model.config.has_experts(layer):
        raise OptionError(
            f"m{layer} is a mixture of experts: a token visits only some of them, so there is no list of neurons that all "
            f"tokens share; ablate m{layer} as a whole"
        )
    if not len(neurons):
        raise OptionError(f"no neuron of m{layer} is given; give numbers from 0 to {width - 1}")
    if wrong := [neuron for neuron in neurons if not 0 <= neuron < width]:
        raise OptionError(f"m{layer} has no neuron {wrong[0]}; its neurons are 0 to {width - 1}")
