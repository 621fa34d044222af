"""The walk of MIB's evaluator over a submission, in its own order of steps; and graphs as EAP-IG's ``to_pt`` saves them."""

import os

import torch

TASKS = {
    "ioi": 0,
    "mcqa": 0,
    "arithmetic_addition": 0,
    "arithmetic-addition": 0,
    "arithmetic_subtraction": 0,
    "arithmetic-subtraction": 0,
    "arc_easy": 0,
    "arc-easy": 0,
    "arc_challenge": 0,
    "arc-challenge": 0,
}
MODELS = ("gpt2", "qwen2.5", "gemma2", "llama3")
COLUMNS = {
    *("ioi_gpt2", "ioi_qwen2.5", "ioi_gemma2", "ioi_llama3", "mcqa_qwen2.5", "mcqa_gemma2", "mcqa_llama3"),
    *("arithmetic-addition_llama3", "arithmetic-subtraction_llama3", "arc-easy_gemma2", "arc-easy_llama3"),
    "arc-challenge_llama3",
}


def walked(folder, prefix=""):
    """Folder, task, model and ``absolute`` (None: both are run) of everything that is evaluated."""
    found = []
    for name in os.listdir(folder):
        path, lower = os.path.join(folder, name), name.lower()
        if not os.path.isdir(path):
            continue
        if "abs" in lower and ("true" in lower or "false" in lower):
            found.extend(walked(path, os.path.join(prefix, name)))
            continue
        task = next((one for one in TASKS if lower.startswith(one) or f"_{one}" in lower), None)
        model = next((one for one in MODELS if lower.startswith(one) or f"_{one}" in lower), None)
        if task is None or model is None or f"{task.replace('_', '-')}_{model}" not in COLUMNS:
            continue
        above, absolute = prefix.lower(), None
        if "abs" in above:
            absolute = True if "true" in above else False if "false" in above else None
        found.append((path, task, model, absolute))
    return found


def evaluations(folder):
    """Pair, ``absolute``, and the names of the files that this evaluation reads: one of importances, or up to nine circuits."""
    found = []
    for path, task, model, absolute in walked(folder):
        files = os.listdir(path)
        single = len(files) == 1
        read = [name for name in files if name.endswith((".pt", ".json"))]
        if (single and len(read) == 1) or (len(files) >= 2 and read):
            pair = f"{task.replace('_', '-')}_{model}"
            found += [(pair, one, sorted(read)) for one in ((True, False) if absolute is None else (absolute,))]
    return sorted(found)


def saved(path, graph, edges=None, in_graph=None, d_model=8, **more):
    """A graph in a ``.pt`` file: cells of matrices (senders x receivers) by name, and about half of them no edges."""
    layers, heads = range(graph.n_layers), range(graph.n_heads)
    src = ["input"]
    dst = []
    for layer in layers:
        src += [f"a{layer}.h{head}" for head in heads] + [f"m{layer}"]
        dst += [f"a{layer}.h{head}<{port}>" for port in "qkv" for head in heads] + [f"m{layer}"]
    dst.append("logits")
    scores, kept = torch.full((len(src), len(dst)), 7.0), torch.ones(len(src), len(dst), dtype=torch.bool)
    names, chosen = graph.edge_names(), set(in_graph or ())
    rows, columns = ({name: number for number, name in enumerate(part)} for part in (src, dst))
    ends = [name.split("->") for name in names]
    at = torch.tensor([rows[one] for one, _ in ends]), torch.tensor([columns[other] for _, other in ends])
    scores[at] = torch.tensor([(edges or {}).get(name, 0.0) for name in names])
    kept[at] = torch.tensor([name in chosen for name in names])
    cfg = {"n_layers": len(layers), "n_heads": len(heads), "parallel_attn_mlp": False, "d_model": d_model}
    values = {"cfg": cfg, "src_nodes": src, "dst_nodes": dst, "edges_scores": scores, "edges_in_graph": kept}
    values["nodes_in_graph"] = torch.ones(len(src), dtype=torch.bool)
    values |= more
    torch.save({key: value for key, value in values.items() if value is not None}, path)
    return path
