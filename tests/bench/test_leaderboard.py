"""A benchmark's benchmark made into ranks, intervals and tests."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_folder import KNOWN, OR_GATES, OTHERS

from circuitfind.bench.leaderboard import OR_GATES as APART
from circuitfind.bench.leaderboard import boards, leaderboard
from circuitfind.bench.page import write_leaderboard
from circuitfind.bench.recorded import read
from circuitfind.bench.significance import neighbours, signed_rank_p
from circuitfind.errors import OptionError
from circuitfind.evaluation.hypotheses.p_values import holm

FEW = ("acdc", "eap", "gim", "random-edges")


def rewritten(small, tmp_path, change) -> Path:
    """A copy of the small benchmark with another table."""
    shutil.copytree(small, tmp_path / "copy")
    table = change(pd.read_parquet(small / "table.parquet"))
    (tmp_path / "copy" / "table.parquet").unlink()
    table.to_csv(tmp_path / "copy" / "table.csv", index=False)
    return tmp_path / "copy"


def value_of(table, algorithm, setting, quantity, at=math.nan):
    """Mean over seeds, row by row; NaN without one."""
    found = [
        row["value"]
        for row in table
        if (row["algorithm"], (row["model"], row["task"], row["ablation"]), row["quantity"])
        == (algorithm, setting, quantity)
        and (math.isnan(at) or math.isclose(row["at"], at))
    ]
    return sum(found) / len(found) if found else math.nan


def rank_of(own, others):
    return 1 + sum(other < own for other in others) + sum(other == own for other in others) / 2


@pytest.mark.parametrize(
    ("board", "quantity", "at", "models", "badness"),
    [
        ("known", "edge-auc", math.nan, KNOWN, lambda v: -v),
        ("behaviour", "cmd-log", math.nan, OTHERS, lambda v: v),
        ("behaviour", "cpr", math.nan, OTHERS, lambda v: -v),
        ("behaviour", "faithfulness", 0.02, OTHERS, lambda v: abs(1 - v)),
        ("or-gate", "head-auc", math.nan, OR_GATES, lambda v: -v),
    ],
)
def test_ranks_and_means_are_those_of_a_loop_over_settings(small, board, quantity, at, models, badness):
    table = pd.read_parquet(small / "table.parquet").to_dict("records")
    found = leaderboard(small)
    found = found[(found.board == board) & (found.quantity == quantity)]
    found = found[found["at"].isna() if math.isnan(at) else np.isclose(found["at"], at)].set_index("algorithm")
    settings = [(model, task, "corrupted") for model, task in models]
    values = {name: [value_of(table, name, setting, quantity, at) for setting in settings] for name in FEW}
    whole = [name for name in FEW if not any(map(math.isnan, values[name]))]
    for name in FEW:
        has = [place for place, value in enumerate(values[name]) if not math.isnan(value)]
        ranks = [
            rank_of(badness(values[name][place]), [badness(values[other][place]) for other in whole if other != name])
            for place in has
        ]
        numbers = [values[name][place] for place in has]
        row = found.loc[name]
        assert row["rank"] == pytest.approx(np.mean(ranks))
        assert row["mean"] == pytest.approx(np.mean(numbers))
        assert (row.settings, row.of_settings, row.cells) == (len(has), len(settings), 2 * len(has))
        assert row.complete == (name in whole)
    assert found["rank"].is_monotonic_increasing


def test_the_interval_is_the_t_interval_over_settings(small):
    row = leaderboard(small).set_index(["board", "quantity", "algorithm"]).loc[("known", "edge-auc", "eap")]
    table = pd.read_parquet(small / "table.parquet").to_dict("records")
    values = [value_of(table, "eap", (model, task, "corrupted"), "edge-auc") for model, task in KNOWN]
    half = 3.182446305 * np.std(values, ddof=1) / 2  # t(0.975, 3 degrees of freedom), 4 settings
    assert (row.low, row.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_who_fails_elsewhere_changes_nobody_elses_rank(small, tmp_path):
    without = leaderboard(rewritten(small, tmp_path, lambda table: table[table.algorithm != "gim"]))
    whole = leaderboard(small)
    keys = ["board", "quantity", "at", "algorithm"]
    for board in ("known", "behaviour"):
        both = without[without.board == board].merge(whole, on=keys, suffixes=("", "_whole"))
        assert len(both) == 3 * (5 if board == "known" else 7)
        assert (both["rank"] == both["rank_whole"]).all()
        assert (both["mean"] == both["mean_whole"]).all()


def test_redundant_models_are_part_of_no_mean(small, tmp_path):
    def spoiled(table):
        return table.assign(value=table.value.where(~table.model.isin(APART), 0.0))

    before, after = (leaderboard(place) for place in (small, rewritten(small, tmp_path, spoiled)))
    apart = before.board == "or-gate"
    assert (after.board == before.board).all()
    pd.testing.assert_frame_equal(before[~apart], after[~apart])
    assert (after[apart]["mean"] == 0).all()


def test_a_setting_that_most_lack_is_left_out_and_named(small, tmp_path):
    def lonely(table):
        return table[(table.model != "siit-3") | (table.algorithm == "eap")]

    board = boards(read(rewritten(small, tmp_path, lonely)))[0]
    assert board.left_out == (("siit-3", "copy", "corrupted"),)
    assert set(board.complete) == {"acdc", "eap", "random-edges"}


def test_where_nobody_has_all_settings_all_are_ranked_where_they_are_and_marked(small, tmp_path):
    def holes(table):
        lacking = dict(zip(FEW, ("compiled-0", "compiled-1", "siit-2", "siit-3"), strict=True))
        return table[table.model != table.algorithm.map(lacking)]

    found = leaderboard(rewritten(small, tmp_path, holes))
    known = found[(found.board == "known") & (found.quantity == "edge-auc")]
    assert not known.complete.any()
    assert known["rank"].notna().all()


def test_costs_are_medians_with_their_range(small):
    found = leaderboard(small)
    row = found[(found.board == "cost") & (found.quantity == "forwards")].set_index("algorithm").loc["acdc"]
    costs = pd.read_csv(small / "costs.csv")
    by_setting = costs[costs.algorithm == "acdc"].groupby(["model", "task"]).forwards.mean()
    assert (row["mean"], row.low, row.high) == (by_setting.median(), by_setting.min(), by_setting.max())


def test_an_algorithm_with_several_options_or_metrics_is_several_entrants(small, tmp_path):
    def twice(table):
        other = table[table.algorithm == "eap"].assign(options='{"steps": 10}', value=0.1, cell="other" + table.cell)
        by_task = table.assign(metric=table.metric.where(table.task != "ioi", "kl"))
        return pd.concat([by_task, other[other.task != "ioi"]])

    place = rewritten(small, tmp_path, twice)
    found = leaderboard(place)
    names = set(found[found.board == "known"].algorithm)
    assert names == {*FEW, 'eap [{"steps": 10}]'}
    behaviour = found[(found.board == "behaviour") & (found.quantity == "cmd")].set_index("algorithm")
    assert not behaviour.loc['eap [{"steps": 10}]'].complete
    assert behaviour.loc["eap"].complete


def test_a_folder_without_a_table_is_refused(tmp_path, small):
    with pytest.raises(OptionError, match="no table"):
        leaderboard(tmp_path)
    (tmp_path / "table.csv").write_text("model,task,algorithm,value\na,b,c,1\n")
    with pytest.raises(OptionError, match="lacks the column 'seed'"):
        leaderboard(tmp_path)
    broken = rewritten(small, tmp_path, lambda table: table)
    (broken / "grid.json").write_text("{")
    with pytest.raises(OptionError, match=r"grid\.json is not readable JSON"):
        leaderboard(broken)


def test_a_table_alone_is_enough(small, tmp_path):
    (tmp_path / "table.parquet").write_bytes((small / "table.parquet").read_bytes())
    (tmp_path / "failures.csv").write_text("")
    page = write_leaderboard(tmp_path).read_text(encoding="utf-8")
    assert "0 failed, 0 skipped" in page
    assert 'id="cost"' not in page
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {"faithfulness"}


def test_wilcoxons_p_is_the_share_of_sign_flips_that_are_as_extreme():
    differences = np.array([0.3, -0.1, 0.5, 0.7, 0.2, -0.05, 0.9])
    ranks = 1 + np.argsort(np.argsort(np.abs(differences)))
    own = abs(np.sum(np.sign(differences) * ranks))
    flips = [abs(np.dot(signs, ranks)) >= own for signs in itertools.product((-1, 1), repeat=7)]
    assert signed_rank_p(np.concatenate([differences, [0.0, 0.0]])) == pytest.approx(np.mean(flips))
    assert signed_rank_p(np.zeros(4)) == 1


def test_holms_correction_is_the_closed_test_of_bonferroni():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(5) ** 3
        closed = [
            max(
                min(1.0, len(group) * min(p[j] for j in group))
                for size in range(1, 6)
                for group in itertools.combinations(range(5), size)
                if index in group
            )
            for index in range(5)
        ]
        assert holm(p.tolist()) == pytest.approx(closed)
    assert len(holm([])) == 0


def test_neighbours_are_tested_on_their_common_settings(small):
    board = boards(read(small))[0]
    order = list(board.ranks())
    leads = neighbours(board)
    assert [(lead.better, lead.worse) for lead in leads] == list(itertools.pairwise(order))
    for lead in leads:
        gain = (board.values[lead.better] - board.values[lead.worse]).dropna()
        assert lead.n == len(gain)
        assert lead.difference == pytest.approx(gain.median())
        assert "too few for any p below 0.05" in lead.sentence
