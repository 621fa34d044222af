"""Heat maps of paths are their paths one by one."""

import json
import random

import numpy as np
import pytest
from builders import SHAPES, TIGHT, random_pairs, small_model

import circuitfind as cf
from circuitfind.errors import CircuitError, RenderError

TASK = cf.Task("words", "", "", "", "", "logit-diff", propose=lambda rng: None)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_heat_map_is_its_paths_one_by_one(shape):
    rng, model = random.Random(shape), small_model(**SHAPES[shape])
    names = dict.fromkeys((*model.graph.receiver_names, *model.graph.sender_names[1:]))
    for through, direction in (("direct", "noising"), ("mlps", "noising"), ("mlps", "denoising")):
        pairs, receiver = random_pairs(model, 3), rng.choice(list(names))
        found = cf.path_heat_map(
            model, TASK, receiver, through=through, direction=direction, per_example=True, pairs=pairs
        )
        words = [*(["mlps"] if through == "mlps" else []), receiver, *([] if receiver == "logits" else ["*", "logits"])]
        for sender, name in enumerate(model.graph.sender_names):
            try:
                path = cf.path_patch(model, TASK, " -> ".join([name, *words]), direction=direction, pairs=pairs)
            except CircuitError:
                assert np.isnan(found.effects[sender])
                continue
            np.testing.assert_allclose(found.per_example[sender], path.effect, **TIGHT, err_msg=f"{name} {words}")
            assert found.effects[sender] == pytest.approx(path.mean, rel=1e-9, abs=1e-9)
        assert found.total == pytest.approx(
            (path.clean - path.ablated).mean() if direction == "noising" else found.total
        )


def test_a_heat_map_is_a_table_and_a_picture(tmp_path):
    model = cf.load_model("tasks-4l")
    found = cf.path_heat_map(model, "ioi", "a2.h1<q>", n=8, batch_size=4)
    assert found.values.shape == (4, 8)
    assert (np.isnan(found.values).all(1) == [False, False, True, True]).all()
    assert found.mlps.shape == (4,)
    (name, best), *_ = found.top(3)
    assert len(found.top(3)) == 3
    assert best == found.effects[model.graph.sender_names.index(name)]
    assert abs(best) == np.nanmax(abs(found.effects))
    frame = found.to_frame()
    assert list(frame.columns) == ["sender", "effect", "share"]
    assert len(frame) == 1 + 2 * 9
    assert frame.share[0] == pytest.approx(found.input / found.total)
    assert json.loads(json.dumps(found.to_json()))["effects"]["input"] == found.input
    assert str(found).splitlines()[0] == "sender -> a2.h1<q> -> * -> logits"
    assert found.per_example is None
    assert "</svg>" in found.render(tmp_path / "map.svg").read_text()
    with pytest.raises(RenderError):
        found.render(tmp_path / "map.jpeg")


def test_groups_of_senders_change_nothing(monkeypatch):
    from circuitfind.execution.recompute.paths import path_batch

    model = small_model(n_layers=3)
    pairs = random_pairs(model, 4)
    whole = cf.path_heat_map(model, TASK, "a2.h1", through="mlps", pairs=pairs).effects
    monkeypatch.setattr(path_batch, "TOKENS_OF_PATHS", {"cpu": 1})
    monkeypatch.setattr(path_batch, "LOGITS_OF_PATHS", {"cpu": 1})
    monkeypatch.setattr("circuitfind.execution.recompute.mlp_pieces.HIDDEN_BYTES", 1)
    np.testing.assert_allclose(
        cf.path_heat_map(model, TASK, "a2.h1", through="mlps", pairs=pairs).effects, whole, **TIGHT
    )
