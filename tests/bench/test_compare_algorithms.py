"""Algorithms compared on one's own behaviour: equal sizes, one metric, held-out intervals, cost, agreement, and a page."""

import json
from dataclasses import replace
from html import escape

import numpy as np
import pandas
import pytest

import circuitfind as cf
from circuitfind.bench import methods
from circuitfind.bench.method_files import lines, verdict, write_methods
from circuitfind.bench.method_values import SizePoint
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.statistics import RESAMPLES, faithfulness
from circuitfind.task.write_pairs import write_pairs

SETTING = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
NAMES = ("eap-ig-inputs", "random-edges", "acdc")


@pytest.fixture(scope="module")
def found():
    return cf.compare_algorithms(SETTING, NAMES, edges=[20, 60, 120], options={"eap-ig-inputs": {"steps": 3}})


def test_every_circuit_is_what_discover_select_and_evaluate_give(found):
    for method, options in zip(found.methods, ({"steps": 3}, {}, {}), strict=True):
        scores = cf.discover(SETTING.but(metric="logit-diff"), algorithm=method.name, **options)
        np.testing.assert_array_equal(method.scores.values, scores.values)
        for point in method.points:
            circuit = cf.select(scores) if point.asked is None else cf.select(scores, top=point.asked)
            measured = cf.evaluate(SETTING, circuit, n_random=0)
            assert point.edges == circuit.n_edges
            assert point.faithfulness == pytest.approx(measured.faithfulness, abs=1e-6)
            assert point.faithfulness_95 == pytest.approx(measured.interval, abs=1e-6)
            assert point.kl == pytest.approx(measured.kl.mean(), abs=1e-6)
            assert point.kl_95[0] <= point.kl <= point.kl_95[1]


def test_sizes_are_equal_and_an_own_circuit_comes_last(found):
    assert [[point.asked for point in method.points] for method in found.methods] == [
        [20, 60, 120],
        [20, 60, 120],
        [20, 60, 120, None],
    ]
    assert all(point.edges == point.asked for method in found.methods for point in method.points[:3])


def test_agreement_is_that_of_compare_at_the_middle_size(found):
    assert found.agree_at == 60
    assert [(pair.a, pair.b) for pair in found.agreement] == [NAMES[:2], NAMES[::2], NAMES[1:]]
    one, other = (method.scores for method in found.methods[:2])
    alone = cf.compare(one, other, top=60)
    pair = found.agreement[0]
    assert (pair.spearman, pair.jaccard) == (alone.agreement["all"].spearman, alone.edges.jaccard)


def test_one_metric_for_all_is_said_where_it_overrides_an_algorithms_own(found):
    assert found.about["metric"] == "logit-diff"
    assert {method.scores.provenance.metric for method in found.methods} == {"logit-diff"}
    assert any(note.startswith("acdc uses kl") for note in found.notes)
    with_kl = cf.compare_algorithms(SETTING.but(metric="kl"), ["eap", "hisp", "acdc", "random-edges"], edges=[20])
    assert "zero gradient" in with_kl.left_out["eap"]
    assert [method.name for method in with_kl.methods] == ["acdc", "random-edges"]
    assert not any("acdc uses" in note for note in with_kl.notes)
    assert any(line.startswith("left out: eap: ") for line in lines(with_kl))


def test_the_text_has_a_row_for_every_size_and_algorithm_in_columns(found):
    text = list(lines(found))
    head = next(place for place, line in enumerate(text) if line.lstrip().startswith("edges"))
    rows = text[head + 1 : head + 11]
    assert [row.split()[0] for row in rows[::3]] == ["20", "60", "120", str(found.methods[2].points[3].edges)]
    assert rows[-1].endswith("its own circuit")
    column = text[head].index("faithfulness")
    for row, (size, number) in zip(rows, [(size, number) for size in range(3) for number in range(3)], strict=False):
        point = found.methods[number].points[size]
        assert row[9:column].split() == [NAMES[number]]
        assert float(row[column:].split()[0]) == pytest.approx(100 * point.faithfulness, abs=0.051)
    assert not any("-0.0 " in row for row in rows)


def test_few_prompts_and_prompts_without_others_are_said(found):
    assert any("only 8 held-out prompts" in note for note in found.notes)
    same = cf.compare_algorithms(SETTING.but(pairs=SETTING.train), ["hisp", "random-edges"], edges=[20])
    assert any("no other prompts" in note for note in same.notes)


def test_default_sizes_are_shares_of_all_edges():
    found = cf.compare_algorithms(SETTING, ["hisp", "random-edges"])
    assert found.sizes == (3, 5, 13, 26, 51)
    assert found.about["n_edges"] == 257


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path, monkeypatch):
    names, ran, original = ["hisp", "random-edges", "eap"], [], methods.run_on

    def run_on(cell, subject):
        ran.append(cell.algorithm)
        if ran[1:] == ["random-edges"] and cell.seed == 0:
            raise KeyboardInterrupt
        return original(cell, subject)

    monkeypatch.setattr(methods, "run_on", run_on)
    with pytest.raises(KeyboardInterrupt):
        cf.compare_algorithms(SETTING, names, edges=[20], out=tmp_path)
    said: list[str] = []
    again = cf.compare_algorithms(SETTING, names, edges=[20], out=tmp_path, say=said.append)
    assert ran == ["hisp", "random-edges", "random-edges", "eap"]
    assert "2 of 3 algorithms to run" in said[1]
    assert said[2] == "[1/3] hisp: kept from an earlier call"
    fresh = cf.compare_algorithms(SETTING, names, edges=[20])
    assert [method.points for method in again.methods] == [method.points for method in fresh.methods]
    ran.clear()
    other = cf.compare_algorithms(SETTING.but(seed=1), names, edges=[20], out=tmp_path)
    assert ran == names, "other prompts are measured anew"
    assert other.methods[0].points != again.methods[0].points


@pytest.mark.parametrize(
    ("algorithms", "how", "message"),
    [
        (["eap"], {}, "two or more different names"),
        (["eap", "eap"], {}, "two or more different names"),
        ("eap,acdc", {}, "two or more different names"),
        (["eap", "hisp"], {"edges": [300]}, "a circuit of 300 edges: this graph has 257"),
        (["eap", "hisp"], {"edges": []}, "one or more sizes"),
        (["eap", "hisp"], {"agree_at": 0}, "a circuit of 0 edges"),
    ],
)
def test_what_makes_no_sense_is_refused(algorithms, how, message):
    with pytest.raises(OptionError, match=message):
        cf.compare_algorithms(SETTING, algorithms, **how)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="eap"):
        cf.compare_algorithms(SETTING, ["eap", "eap-ig-input"])
    with pytest.raises(UnknownNameError, match="hisp"):
        cf.compare_algorithms(SETTING, ["eap", "hisp"], options={"acdc": {}})
    with pytest.raises(OptionError, match="no algorithm could be run: eap: "):
        cf.compare_algorithms(SETTING.but(metric="kl"), ["eap", "hisp"])


def test_the_lead_is_that_of_paired_differences(found):
    rows = np.random.default_rng(SETTING.seed).integers(0, 8, (RESAMPLES, 8))
    assert [lead.size for lead in found.leads] == list(found.sizes)
    for place, lead in enumerate(found.leads):
        away = {}
        for method in found.methods:
            measured = cf.evaluate(SETTING, cf.select(method.scores, top=lead.size), n_random=0)
            draws = faithfulness(*(side[rows] for side in (measured.circuit, measured.empty, measured.full)))
            away[method.name] = abs(method.points[place].faithfulness - 1), abs(draws - 1)
        assert lead.algorithm == min(away, key=lambda name: away[name][0])
        for name in away.keys() - {lead.algorithm}:
            low, high = np.quantile(away[name][1] - away[lead.algorithm][1], (0.025, 0.975))
            assert (name in lead.ties) is bool(low <= 0 <= high)
    sentence = verdict(found)[0]
    assert sentence.startswith("Faithfulness nearest to 100 %: at ")
    assert all(lead.algorithm in sentence for lead in found.leads)
    assert sentence in list(lines(found))


def points(values, draws):
    """One circuit of 5 edges for each algorithm, with these faithfulnesses and draws."""
    nothing = (0.0, 0.0)
    return [
        SizePoint(5, 5, value, nothing, 0.0, nothing, np.array(draw)) for value, draw in zip(values, draws, strict=True)
    ]


def test_paired_differences_tell_apart_what_moves_together_and_nothing_undefined(found):
    def leads(values, draws):
        methods = [replace(one, points=(p,)) for one, p in zip(found.methods, points(values, draws), strict=True)]
        return replace(found, sizes=(5,), methods=tuple(methods)).leads

    together = np.linspace(0.2, 0.9, 101)
    noise = np.linspace(0.9, 0.2, 101)
    lead = leads([0.6, 0.55, 0.5], [together, together - 0.05, noise])[0]
    assert (lead.algorithm, lead.ties) == (NAMES[0], (NAMES[2],))
    over = leads([1.4, 0.9, 0.5], [together + 0.8, np.full(101, 0.9), np.full(101, 0.5)])[0]
    assert over.algorithm == NAMES[1]  # a circuit that exaggerates is not nearest to the whole model
    undefined = replace(found, sizes=(5,), methods=())
    assert (undefined.leads, verdict(undefined)) == ((), [])
    assert leads([np.nan] * 3, [[], [], []]) == ()


def test_two_pairs_are_shown_and_settings_are_folded(found, tmp_path):
    page = write_methods(replace(found, notes=("Weak: few.", "acdc uses kl.")), tmp_path)[0].read_text()
    pairs = SETTING.held_out.text[:2]
    assert [pair["clean"] for pair in found.examples] == [pair.clean for pair in pairs]
    assert all(escape(pair.clean) in page for pair in pairs)
    made = page[page.index('id="made"') :]
    assert "<details>" in made[: made.index("<dl>")]
    assert "eap-ig-inputs (steps 3, " in made
    assert "<dd></dd>" not in made
    assert "<strong>Weak: few.</strong>" in page
    assert '<p class="note">acdc uses kl.</p>' in page


def test_the_page_holds_every_number_and_asks_the_network_for_nothing(found, tmp_path):
    hostile = replace(found, notes=("<script>alert(1)</script>",), left_out={"<b>": "a & b"})
    files = write_methods(hostile, tmp_path)
    page = files[0].read_text()
    assert "<script>alert" not in page
    assert "&lt;b&gt;: a &amp; b" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("Content-Security-Policy", "").replace(
        "http-equiv", ""
    )
    for method in found.methods:
        for point in method.points:
            assert f">{100 * point.faithfulness:.1f}<" in page
    assert files[0].name == "index.html"
    assert files[-3].read_bytes()[:4] == b"\x89PNG"
    table = pandas.read_csv(tmp_path / "circuits.csv")
    assert table.faithfulness.to_list() == [point.faithfulness for one in found.methods for point in one.points]
    assert len(pandas.read_csv(tmp_path / "agreement.csv")) == 3
    assert json.loads((tmp_path / "comparison.json").read_text())["sizes"] == [20, 60, 120]
    svg = (tmp_path / "curves.svg").read_text()
    assert all(name in svg for name in NAMES)


def test_curves_show_every_size_of_every_algorithm(found):
    left, right = found.plot().axes
    curves = {line.get_label(): line for line in left.lines if not line.get_label().startswith("_")}
    assert list(curves) == list(NAMES)
    for method in found.methods:
        wanted = [point.faithfulness for point in method.points if point.asked]
        assert curves[method.name].get_ydata().tolist() == wanted
    assert len(left.collections) == len(right.collections) == 3
    for method, drawn in zip(found.methods, right.collections, strict=True):
        ends = [sorted(segment[:, 1]) for segment in drawn.get_segments()]
        np.testing.assert_allclose(ends, [point.kl_95 for point in method.points if point.asked])
        assert len({round(segment[0, 0], 6) for segment in drawn.get_segments()}) == 3
    places = [drawn.get_segments()[0][0, 0] for drawn in right.collections]
    assert places == sorted(set(places))  # side by side
    assert len(found._repr_html_()) > 1000


def test_the_command_compares_on_a_file_and_goes_on(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(cf.TASKS["ioi"].pairs(20), tmp_path / "mine.csv")
    words = ("compare-algorithms", "mine.csv", "--algorithms", "eap,random-edges", "--edges", "30,60")
    code, out, err = command_line(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "results/mine/tasks-4l/compare-algorithms/index.html"
    assert "2 of 2 algorithms to run" in out
    code, out, _ = command_line(*words, "--agree-at", "30", "--json")
    value = json.loads(out)
    assert (code, value["agree_at"], value["sizes"]) == (0, 30, [30, 60])
    assert {row["algorithm"] for row in value["circuits"]} == {"eap", "random-edges"}


def test_the_command_refuses_in_a_sentence(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (("--algorithms", "eap"), "two or more different names"),
        (("--edges", "1,x"), "--edges 1,x: give whole numbers"),
        (("--option", "steps=3"), "eap-ig-inputs.steps=3"),
    ):
        code, _, err = command_line("compare-algorithms", "induction", "-m", "induction-2l", *words)
        assert code == 2
        assert message in err
