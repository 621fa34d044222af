"""A benchmark's folder made into tables, tests, pictures and a page."""

import itertools
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_folder import ALGORITHMS, KNOWN, OR_GATES, OTHERS, write_benchmark

from circuitfind.bench.leaderboard import OR_GATES as APART
from circuitfind.bench.leaderboard import Quantity, boards, leaderboard
from circuitfind.bench.page import inline, number, write_leaderboard
from circuitfind.bench.pictures import GRID, front, on_grid
from circuitfind.bench.recorded import read
from circuitfind.bench.significance import neighbours, signed_rank_p
from circuitfind.errors import OptionError
from circuitfind.evaluation.hypotheses.p_values import holm

FEW = ("acdc", "eap", "gim", "random-edges")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A benchmark's folder with its leaderboard; one entrant lacks cells, and one has a name that is markup."""
    place = write_benchmark(
        tmp_path_factory.mktemp("bench") / "out <1>", algorithms=(*ALGORITHMS, "eap<script>alert(1)</script>")
    )
    write_leaderboard(place)
    return place


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A smaller one, tables only."""
    return write_benchmark(tmp_path_factory.mktemp("bench") / "small", ablations=("corrupted",), algorithms=FEW)


def rewritten(small, tmp_path, change) -> Path:
    """A copy of the small folder with another table."""
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


# --- the board --------------------------------------------------------------------------------------------------------


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


# --- tests ------------------------------------------------------------------------------------------------------------


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


def test_what_is_better_depends_on_the_quantity():
    values = pd.Series([0.5, 1.4, 0.9])
    assert Quantity("faithfulness", 0.1).badness(values).tolist() == pytest.approx([0.5, 0.4, 0.1])
    assert Quantity("cmd").badness(values).tolist() == [0.5, 1.4, 0.9]
    assert Quantity("edge-auc").badness(values).tolist() == [-0.5, -1.4, -0.9]
    assert Quantity("faithfulness", 0.02).label == "faithfulness at 2 %"


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_front_is_what_no_other_beats_at_the_same_or_a_lower_cost():
    rng = np.random.default_rng(1)
    for _ in range(50):
        names = [f"e{n}" for n in range(8)]
        costs = {name: float(rng.integers(1, 6)) for name in names}
        quality = {name: float(rng.integers(1, 6)) for name in names}
        kept = front(costs, quality)
        for name in names:
            beaten = any(
                costs[other] <= costs[name]
                and quality[other] >= quality[name]
                and (costs[other], quality[other]) != (costs[name], quality[name])
                for other in names
            )
            alike = [other for other in names if (costs[other], quality[other]) == (costs[name], quality[name])]
            assert (name in kept) == (not beaten and name == min(alike))
        assert [costs[name] for name in kept] == sorted(costs[name] for name in kept)


def test_a_roc_curve_on_the_grid_passes_through_its_steps():
    fpr, tpr = [0.0, 0.0, 0.04, 0.04, 1.0], [0.0, 0.5, 0.5, 0.8, 1.0]
    curve = on_grid(fpr, tpr)
    assert curve[0] == 0.5
    assert curve[-1] == 1
    assert (np.diff(curve) >= 0).all()
    right = GRID > 0.04
    assert curve[right] == pytest.approx(0.8 + 0.2 * (GRID[right] - 0.04) / 0.96)


def test_pictures_are_the_same_bytes_again(folder, tmp_path):
    for name in ("table.parquet", "costs.csv", "failures.csv", "skipped.csv", "grid.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    shutil.copytree(folder / "cells", tmp_path / "cells")
    write_leaderboard(tmp_path)
    for path in (folder / "pictures").iterdir():
        assert path.read_bytes() == (tmp_path / "pictures" / path.name).read_bytes(), path.name
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names == {f"{name}.{suffix}" for name in ("faithfulness", "cost", "roc") for suffix in ("svg", "png")}
    pages = [(place / "index.html").read_text(encoding="utf-8") for place in (folder, tmp_path)]
    rebuild = re.compile("circuitfind leaderboard [^<]*")
    assert rebuild.sub("", pages[0]) == rebuild.sub("", pages[1])


def test_a_picture_in_the_page_has_ids_of_its_own_and_the_pages_ink():
    svg = '<?xml version="1.0"?><svg a="1"><metadata>x</metadata><g id="p1" clip-path="url(#c)" fill="#1b1b1b"/>'
    svg += '<use href="#p1"/></svg>'
    assert inline(svg, "roc", 'a "b"') == (
        '<svg role="img" aria-label="a &quot;b&quot;" a="1"><g id="roc-p1" clip-path="url(#roc-c)" fill="currentColor"/>'
        '<use href="#roc-p1"/></svg>'
    )


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags that are opened and closed, ids, and references."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.words, self.scripts = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.references += [value for name, value in attrs if name in ("href", "src", "xlink:href", "action", "data")]
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(folder) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_the_network_for_nothing(folder):
    page = Page(page_of(folder))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", page_of(folder))


def test_words_of_the_benchmark_are_escaped(folder):
    page = Page(page_of(folder))
    assert page.scripts == 1
    words = "".join(page.words)
    assert "eap<script>alert(1)</script>" in words
    assert '<b>NaN</b> in layer 1 & "more"' in words
    assert "no <zero> ablation" in words
    assert "<b>NaN" not in page_of(folder)
    assert "circuitfind leaderboard '" in words
    for name in ("torch 2.13.0", "circuitfind bench --quick", "x86_64, 2 cores"):
        assert name in words


def test_the_page_says_what_failed_and_why_redundant_models_stand_apart(folder):
    words = " ".join("".join(Page(page_of(folder)).words).split())
    assert "12 failed, 1 skipped" in words
    assert "one of two redundant inputs is enough" in words
    assert "lacks some settings" in words
    assert "after Holm's correction" in words


def test_tables_for_people_and_programs_say_the_same(folder):
    found = pd.read_csv(folder / "leaderboard.csv")
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    best = found[(found.board == "known") & (found.quantity == "edge-auc")].iloc[0]
    assert (
        f"| {number(best['rank'])} | {best.algorithm} | {number(best['mean'])} ({number(best.low)} to {number(best.high)}) |"
        in text
    )
    assert "gim †" in text


def test_numbers_are_short():
    shown = [number(value) for value in (0.0, 0.5, 0.12345, 4.5, 12.345, 12345.6, 1e-5, 3e7, -0.25, float("nan"))]
    assert shown == ["0", "0.500", "0.123", "4.5", "12.3", "12,346", "1.0e-05", "3.0e+07", "-0.250", "–"]


def test_the_command_writes_the_page(command_line, small, tmp_path):
    for name in ("table.parquet", "costs.csv"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
    code, out, _ = command_line("leaderboard", tmp_path, "--json")
    found = json.loads(out)
    assert (code, found["page"]) == (0, str(tmp_path / "index.html"))
    assert len(found["leaderboard"]) == len(leaderboard(small))
    code, _, err = command_line("leaderboard", tmp_path / "nowhere")
    assert (code, "no table.parquet" in err) == (2, True)


# --- in a browser -----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")

ACT = """
const said = {};
const names = (table) => [...table.tBodies[0].rows].map((row) => row.querySelector("th").textContent.trim());
const table = document.querySelector("#known table");
const button = [...table.tHead.rows[0].cells][2].querySelector("button");
said.before = names(table);
button.click();
said.up = names(table);
said.sorted = button.parentElement.getAttribute("aria-sort");
button.focus();
said.focused = document.activeElement === button;
button.click();
said.down = names(table);
const select = document.querySelector('select[name="model"]');
select.value = "siit-2";
select.dispatchEvent(new Event("change", { bubbles: true }));
const matrix = document.querySelector("#known .matrix");
said.columns = [...matrix.tHead.rows[0].cells].filter((cell) => !cell.hidden).length;
const mean = (row) => row.querySelector(".mean").textContent;
said.means = [...matrix.tBodies[0].rows].map((row) => [row.querySelector("th").textContent.trim(), mean(row)]);
said.failures = [...document.querySelectorAll("#failures tbody tr")].filter((row) => !row.hidden).length;
said.note = document.getElementById("shown").textContent;
said.wider = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
"""


def browse(page: Path, folder: Path, width: int = 500) -> tuple[str, str]:
    """The page's DOM after its scripts, and what the browser's console says."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --enable-logging=stderr --dump-dom".split()
    flags += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=2000"]
    done = subprocess.run([BROWSER, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@in_a_browser
def test_tables_are_sorted_and_filtered_in_a_browser_without_a_word_on_its_console(folder, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(page_of(folder).replace("</body>", f"<script>{ACT}</script></body>"), encoding="utf-8")
    dom, console = browse(page, tmp_path)
    assert console == ""
    said = json.loads(
        re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)[1]
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
    found = leaderboard(folder)
    known = found[(found.board == "known") & (found.quantity == "edge-auc")]
    marked = [name if complete else f"{name} †" for name, complete in zip(known.algorithm, known.complete, strict=True)]
    by_mean = [name for _, name in sorted(zip(known["mean"], marked, strict=True))]
    assert said["before"] == marked
    assert said["up"] == by_mean
    assert said["down"] == by_mean[::-1]
    assert (said["sorted"], said["focused"], said["wider"]) == ("ascending", True, False)
    board = boards(read(folder))[0]
    shown = board.values.xs("siit-2", level="model")
    assert said["columns"] == 2 + len(shown)
    for name, mean in said["means"]:
        assert mean == number(shown[name.removesuffix(" †")].mean())
    assert said["failures"] == 4
    assert said["note"].startswith("2 settings")
