"""Neurons as nodes: their edges add up to those of whole MLPs, and the neurons that are chosen are those that matter."""

import numpy as np
import pytest
from attribution import PAIRS, result, scores
from builders import GROUPED, LLAMA, PARTLY_ROTARY, SHAPES, random_pairs, small_model

import circuitfind as cf
from circuitfind import formats
from circuitfind.discovery.contract import Problem
from circuitfind.discovery.contract.neurons import METHODS, score_neurons
from circuitfind.errors import CircuitError, ModelError, OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.scores import Provenance
from circuitfind.scores.neurons import NeuronScores
from circuitfind.task.metrics import METRICS

PLAIN, GATED = small_model(), small_model(**LLAMA, **GROUPED)
PARALLEL = small_model(**PARTLY_ROTARY, parallel=True)
EVERYWHERE = pytest.mark.parametrize("model", [PLAIN, GATED, PARALLEL], ids=["plain", "gated", "parallel"])
SOME = ((0, 4, 11), (3,))
EXACT = {"rtol": 1e-11, "atol": 1e-13}


def every_neuron(model):
    return model.with_neurons([range(model.config.d_mlp)] * model.config.n_layers)


def owner(name):
    return name.partition(".n")[0] if name.startswith("m") else name


def merged(split, whole, values):
    """Scores of a split graph, neurons and rest added up, in the order of the whole graph's edges."""
    total = dict.fromkeys(whole.edge_names(), 0.0)
    for name, value in zip(split.edge_names(), values, strict=True):
        source, _, target = name.partition("->")
        total[f"{owner(source)}->{owner(target)}"] += value
    return np.array(list(total.values()))


@EVERYWHERE
@pytest.mark.parametrize("algorithm", ["eap", "relp", "gim", "eap-ig-inputs", "clean-corrupted"])
@pytest.mark.parametrize("neurons", [SOME, "all"], ids=["some", "all"])
def test_neurons_and_the_rest_add_up_to_the_mlp_at_every_port(model, algorithm, neurons):
    pairs = random_pairs(model, 3)
    split = every_neuron(model) if neurons == "all" else model.with_neurons(neurons)
    parts = result(algorithm, split, pairs).values
    np.testing.assert_allclose(merged(split.graph, model.graph, parts), result(algorithm, model, pairs).values, **EXACT)
    assert len(parts) > model.graph.n_edges


@pytest.mark.parametrize("ablation", [name for name in ABLATIONS if name not in ("optimal", "mean-reference")])
def test_a_score_is_that_of_the_neuron_as_a_node(ablation):
    for model in (PLAIN, GATED, PARALLEL):
        pairs = random_pairs(model, 3)
        split = every_neuron(model)
        nodes = result("node-attribution", split, pairs, ablation=ablation).nodes
        expected = [
            [nodes[split.graph.node_number[f"m{layer}.n{neuron}"]] for neuron in range(model.config.d_mlp)]
            for layer in range(model.config.n_layers)
        ]
        problem = Problem(split, pairs, METRICS["logit-diff"], ablation)  # whatever is a node already
        np.testing.assert_allclose(score_neurons(problem, "gradient").values, expected, **EXACT)


def test_an_integrated_score_is_the_mean_over_the_way():
    split = every_neuron(PLAIN)
    whole = score_neurons(Problem(PLAIN, PAIRS, METRICS["logit-diff"]), "integrated").values
    nodes = result("node-attribution-ig", split, steps=5, points="midpoint").nodes
    expected = [[nodes[split.graph.node_number[f"m{a}.n{b}"]] for b in range(20)] for a in range(2)]
    np.testing.assert_allclose(whole, expected, **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_micro_batches(method):
    whole, few = (Problem(PLAIN, PAIRS, METRICS["logit-diff"], batch_size=size) for size in (None, 1))
    np.testing.assert_allclose(score_neurons(whole, method).values, score_neurons(few, method).values, **EXACT)


def test_the_strongest_by_size_are_chosen_ties_by_number():
    values = np.array([[0.0, -3.0, 1.0], [1.0, 2.0, 0.5]])
    found = NeuronScores(values, np.array([True, True]), "gradient", Provenance())
    assert found.top(3) == ((1, 2), (1,))
    assert found.top(100) == ((1, 2), (0, 1, 2))
    assert found.top(100, threshold=1.5) == ((1,), (1,))
    assert found.share(((1,), (1,))) == pytest.approx(5 / 7.5)
    assert found.to_frame(2).name.tolist() == ["m0.n1", "m1.n1"]
    half = NeuronScores(values, np.array([False, True]), "gradient", Provenance())
    assert half.top(2) == ((), (0, 1))
    assert np.isnan(NeuronScores(0 * values, np.array([True, True]), "gradient", Provenance()).share(((), ())))
    with pytest.raises(OptionError, match="at least 1"):
        found.top(0)


@pytest.mark.parametrize(
    ("shape", "why"), [("gemma2", "norm after"), ("solu", "inside"), ("attention-only", "no MLPs")]
)
def test_models_whose_neurons_have_no_writes_are_refused_with_the_reason(shape, why):
    model = small_model(**SHAPES[shape])
    with pytest.raises(OptionError, match=why):
        score_neurons(Problem(model, random_pairs(model, 2), METRICS["logit-diff"]))
    if model.config.d_mlp:
        with pytest.raises(ModelError, match=why):
            model.with_neurons(((0,), ()))


def test_a_layer_of_experts_stays_whole_beside_layers_that_do_not():
    model = small_model(**SHAPES["experts"])  # layer 0 is dense
    found = score_neurons(Problem(model, random_pairs(model, 2), METRICS["logit-diff"]))
    assert found.splits.tolist() == [True, False]
    assert found.top(5)[1] == ()
    with pytest.raises(ModelError, match="router"):
        model.with_neurons(((), (0,)))


def test_neurons_that_do_not_exist_are_refused():
    with pytest.raises(ModelError, match="neurons 0 to 19"):
        PLAIN.with_neurons(((20,), ()))
    with pytest.raises(CircuitError, match="different numbers"):
        PLAIN.with_neurons(((1, 1), ()))
    with pytest.raises(CircuitError, match="2 MLPs"):
        PLAIN.with_neurons(((1,),))
    assert PLAIN.with_neurons(((), ())).graph == PLAIN.graph
    assert PLAIN.with_neurons([[4, 0, 11], [3]]).config.neurons == SOME


def test_methods_and_metrics_that_make_no_sense_are_refused():
    problem = Problem(PLAIN, PAIRS, METRICS["logit-diff"], "zero")
    with pytest.raises(UnknownNameError, match="gradeint"):
        score_neurons(problem, "gradeint")
    with pytest.raises(OptionError, match="corrupted"):
        score_neurons(problem, "integrated")
    with pytest.raises(OptionError, match="zero gradient"):
        score_neurons(Problem(PLAIN, PAIRS, METRICS["kl"]))


def test_scores_of_one_prompt_are_the_rows_of_many():
    model = PLAIN.with_neurons(SOME)
    many = result("relp", model)
    each = [scores("relp", model, PAIRS.take([row])) for row in range(len(PAIRS))]
    np.testing.assert_allclose(np.mean(each, 0), many.values, **EXACT)


# ---------------------------------------------------------------- in a setting


@pytest.fixture(scope="module")
def setting():
    return cf.with_neurons(cf.Setting("greater-than", n=8, n_held_out=8), 12)


def test_a_setting_keeps_its_prompts_and_weights_when_neurons_become_nodes(setting):
    prompts = setting.train
    before = setting.but(neuron_nodes=())
    assert sum(map(len, setting.transformer.graph.neurons)) == 12
    assert before.transformer.graph.neurons == ()
    assert before.transformer.weights["W_E"].data_ptr() == setting.transformer.weights["W_E"].data_ptr()
    assert before.train is prompts
    assert setting.but(seed=1).transformer.graph == setting.transformer.graph


def test_neurons_have_effects_in_the_order_of_their_scores():
    """Gradients against exact patching of each neuron, on the zoo model."""
    setting = cf.Setting("greater-than", n=16)
    found = cf.score_neurons(setting, method="gradient")
    names = found.to_frame(60).name.tolist()
    exact = cf.ablate(setting, [[name] for name in names], split="train").to_frame().set_index("component").effect
    assert np.corrcoef(found.to_frame(60).score, exact[names])[0, 1] > 0.95


def test_a_circuit_of_neurons_is_measured_in_its_own_graph(setting, tmp_path):
    circuit = cf.select(cf.discover(setting, algorithm="relp"), top=300)
    plain = cf.Setting("greater-than", n=8, n_held_out=8)
    assert any(".n" in name for name in circuit.nodes)
    measured = cf.evaluate(plain, circuit, n_random=2)
    np.testing.assert_array_equal(measured.circuit, cf.evaluate(setting, circuit, n_random=2).circuit)
    for name, to in (("circuit.json", "circuit-json"), ("circuit.graphml", "graphml"), ("links.json", "node-link")):
        formats.write(circuit, tmp_path / name, to)
        again = cf.load_circuit(tmp_path / name)
        assert again.graph == circuit.graph
        np.testing.assert_array_equal(again.kept, circuit.kept)
    with pytest.raises(OptionError, match="heads and whole MLPs only, but 12 neurons"):
        formats.write(circuit, tmp_path / "x.json", "eap-ig", d_model=128)


def test_a_circuit_of_heads_is_measured_whole_in_a_setting_with_neurons(setting):
    plain = cf.Setting("greater-than", n=8, n_held_out=8)
    circuit = cf.select(cf.discover(plain, algorithm="eap"), top=100)
    np.testing.assert_array_equal(
        cf.evaluate(setting, circuit, n_random=0).circuit, cf.evaluate(plain, circuit, n_random=0).circuit
    )


def test_so_many_edges_that_they_do_not_fit_are_refused():
    setting = cf.Setting("greater-than", n=4, memory="8MB")
    with pytest.raises(OptionError, match="Ask for fewer neurons"):
        cf.with_neurons(setting, 1500)


def test_patching_by_hand_knows_neurons_and_the_rest(setting):
    setting = setting.but(ablation="zero")
    name = next(node for node in setting.transformer.graph.sender_names if ".n" in node)
    found = cf.activation_patch(setting, [[name], [owner(name)]], direction="noising")
    alone = cf.activation_patch(setting.but(neuron_nodes=()), [[name], [owner(name)]], direction="noising")
    np.testing.assert_allclose(found.values[0], alone.values[0], rtol=1e-4, atol=1e-6)
    assert abs(found.values[1, 0] - alone.values[1, 0]) > 1e-4  # the rest is less than the whole
