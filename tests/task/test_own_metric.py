"""A user's own metric, ``FILE.py:NAME``: from everywhere a metric is taken, in the run folder, and in other processes."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

import circuitfind as cf
from circuitfind.bench.cells import metric_of
from circuitfind.bench.grid import grid_of
from circuitfind.bench.plan import plan
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.run import pipeline
from circuitfind.run.request import RunConfig
from circuitfind.task import TASKS, task_from_file
from circuitfind.task.metrics import METRICS, Metric, Targets, as_metric

MARGIN = """
def margin(logits, targets):
    '''How far the first correct answer is above the mean logit.'''
    index = targets.correct[:, :1].expand(*logits.shape[:-1], 1)
    return logits.gather(-1, index)[..., 0] - logits.mean(-1)
"""
LOSS = """
from circuitfind.task.metrics import METRICS, Metric

NLL = METRICS["nll"]

def loss(logits, targets):
    return 2 * NLL.function(logits, targets)

def kl(logits, targets):
    return logits[..., 0]

THRESHOLD = 3
METRICS.add(Metric("own-loss", "half nats", loss, larger_is_better=False))
"""
TARGETS = Targets(torch.tensor([[1], [2]]), torch.tensor([[0], [0]]))
LOGITS = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 6.0]])
FEW = ("--prompts", "4", "--json")


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    """The command line in a folder with two files of metrics."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "margin.py").write_text(MARGIN)
    (tmp_path / "loss.py").write_text(LOSS)
    return command_line


# --- naming one -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("run")
def test_a_function_of_a_file_is_a_metric_of_which_more_is_better(tmp_path):
    for spec in ("margin.py", "margin.py:margin", str(tmp_path / "margin.py")):
        metric = as_metric(spec)
        assert (metric.name, metric.unit, metric.sign) == ("margin", "margin", 1)
        assert metric(LOGITS, TARGETS).tolist() == [2, 4]
        assert metric.source_json["file"] == str(tmp_path / "margin.py")
        assert metric.source_json["name"] == "margin"
        assert len(metric.source_json["sha256"]) == 64


@pytest.mark.usefixtures("run")
def test_a_metric_that_a_file_adds_keeps_its_sign_and_unit_and_is_not_registered():
    for spec in ("loss.py", "loss.py:own-loss"):
        metric = as_metric(spec)
        assert (metric.name, metric.unit, metric.sign) == ("own-loss", "half nats", -1)
        assert metric(LOGITS, TARGETS).tolist() == (2 * METRICS["nll"](LOGITS, TARGETS)).tolist()
    assert "own-loss" not in METRICS
    assert as_metric("loss.py:loss").sign == 1


@pytest.mark.usefixtures("run")
def test_a_name_that_is_taken_is_not_mistaken_for_the_registered_metric():
    assert as_metric("loss.py:kl").name == "own-kl"


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nowhere.py:margin", OptionError, "nowhere.py: the file cannot be read"),
        ("margin.py:margn", UnknownNameError, "unknown metric of margin.py 'margn'. Did you mean 'margin'"),
        ("loss.py:lost", UnknownNameError, "Available: loss, own-loss, kl"),
        ("loss.py:THRESHOLD", OptionError, "THRESHOLD of .*loss.py is 3, which is no metric"),
        ("two.py", OptionError, r"two.py has several metrics \(a, b\); say which, such as two.py:a"),
        ("none.py", OptionError, "none.py has no metric; define a function"),
        ("broken.py:a", OptionError, "broken.py, line 2: ZeroDivisionError"),
        ("margin", UnknownNameError, "FILE.py:NAME"),
    ],
)
def test_what_is_no_metric_is_refused_with_what_there_is(tmp_path, spec, error, message):
    (tmp_path / "two.py").write_text("a = lambda l, t: l[..., 0]\nb = lambda l, t: l[..., 1]\n_c = a\n")
    (tmp_path / "none.py").write_text("import torch\n")
    (tmp_path / "broken.py").write_text("a = 1\na / 0\n")
    with pytest.raises(error, match=message):
        as_metric(spec)


@pytest.mark.usefixtures("run")
def test_one_that_gives_another_shape_is_refused_by_name(tmp_path):
    (tmp_path / "mean.py").write_text("def mean(logits, targets):\n    return logits.mean()\n")
    with pytest.raises(OptionError, match="metric 'mean' must give one value per circuit and prompt"):
        as_metric("mean.py")(LOGITS, TARGETS)


def test_what_is_not_callable_is_refused():
    with pytest.raises(OptionError, match="7 is no metric"):
        as_metric(7)


def _value_elsewhere(metric: Metric) -> list[float]:
    return metric(LOGITS, TARGETS).tolist()


@pytest.mark.usefixtures("run")
def test_to_another_process_goes_the_text_and_the_file_need_not_be_there(tmp_path):
    metric = as_metric("margin.py")
    (tmp_path / "margin.py").unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_value_elsewhere, (metric,)) == [2, 4]


# --- a run folder -----------------------------------------------------------------------------------------------------


def run_with(file: Path, out: Path, **how) -> None:
    setting = cf.Setting("ioi", metric=str(file), n=4, n_held_out=4)
    pipeline.run(setting, RunConfig(algorithm="eap", rule="top", value=40, n_random=1), out, **how)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a file of a metric, and a run that used it."""
    folder = tmp_path_factory.mktemp("own-metric")
    (folder / "margin.py").write_text(MARGIN)
    run_with(folder / "margin.py", folder / "found")
    return folder


def test_a_run_folder_says_where_its_metric_is_from(place):
    config = json.loads((place / "found" / "config.json").read_text())
    assert config["metric_source"] == as_metric(str(place / "margin.py")).source_json
    p = cf.Circuit.load(place / "found" / "circuit.json").provenance
    assert (p.metric, p.metric_source) == ("margin", config["metric_source"])


def test_evaluate_finds_a_runs_metric_again_or_says_that_it_is_gone_or_changed(command_line, place):
    file, found = place / "margin.py", place / "found"
    measured = json.loads((found / "evaluation.json").read_text())
    code, out, _ = command_line("evaluate", found, "--random", 1, *FEW)
    assert (code, json.loads(out)["metric"]) == (0, measured["metric"])
    try:
        file.write_text(MARGIN.replace("logits.mean(-1)", "2"))
        code, _, err = command_line("evaluate", found, *FEW)
        assert (code, "that file has changed since" in err) == (2, True)
        code, out, _ = command_line("evaluate", found, "--random", 1, "--metric", file, *FEW)
        assert (code, json.loads(out)["metric"] != measured["metric"]) == (0, True)
        file.unlink()
        code, _, err = command_line("evaluate", found, *FEW)
        assert (code, "that file is gone" in err, "--metric FILE.py:NAME" in err) == (2, True, True)
    finally:
        file.write_text(MARGIN)


def test_scores_found_with_another_source_are_not_used_again(place, tmp_path, monkeypatch):
    file = tmp_path / "margin.py"
    file.write_text(MARGIN)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.RunFolder, "finish", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_with(file, tmp_path / "out")
    file.write_text(MARGIN + "# another source")
    with pytest.raises(OptionError, match="interrupted run with other settings"):
        run_with(file, tmp_path / "out")
    file.write_text(MARGIN)
    said = list[str]()
    run_with(file, tmp_path / "out", say=said.append)
    assert any("going on with the interrupted run" in line for line in said)


# --- every other taker ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("stability", "ioi", "--edges", "30", "--resamples", "5"),
        ("certify", "ioi", "--edges", "30", "--samples", "100"),
        ("path-patch", "ioi", "a2.h1 -> logits"),
        ("path-map", "ioi", "logits"),
        ("activation-patch", "ioi"),
        ("ablate", "ioi", "a2.h1"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_takes_a_metric_takes_a_file(run, words):
    code, out, err = run(*words, "--metric", "margin.py:margin", *FEW)
    assert code == 0, err
    json.loads(out)
    code, _, err = run(*words, "--metric", "margin.py:margn", *FEW)
    assert (code, "Did you mean 'margin'" in err) == (2, True)


def test_a_circuits_hypotheses_are_tested_with_it(command_line, place):
    few = ("--permutations", "10", "--random", "3", "--edges", "3", *FEW)
    given = ((), ("--metric", place / "margin.py"))
    own, again = (command_line("hypotheses", place / "found", *words, *few) for words in given)
    assert own[0] == again[0] == 0
    assert json.loads(own[1]) == json.loads(again[1])


def test_discover_takes_one_and_refuses_an_unknown_one_before_anything_is_loaded(run, tmp_path):
    words = ("discover", "ioi", "--held-out", 4, "--random", 1, "-a", "eap", "--edges", 40, "--out", "out", *FEW)
    assert run(*words, "--metric", "loss.py")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["metric"] == "loss.py"
    code, _, err = run(*words, "--metric", "loss.py:los", "--model", "nowhere")
    assert (code, "Did you mean 'loss'" in err) == (2, True)


def test_a_tasks_own_file_may_name_one_beside_it(run, tmp_path):
    place = tmp_path / "else"
    place.mkdir()
    (tmp_path / "margin.py").rename(place / "margin.py")
    text = "from dataclasses import replace\nfrom circuitfind.task import TASKS\n"
    (place / "mine.py").write_text(text + "TASKS.add(replace(TASKS['ioi'], name='mine', metric='margin.py:margin'))\n")
    task = task_from_file(place / "mine.py")
    assert as_metric(task.metric).source.path == str(place / "margin.py")
    assert "mine" not in TASKS
    code, _, err = run("ablate", place / "mine.py", "a2.h1", *FEW)
    assert code == 0, err


def test_a_task_and_its_metric_may_be_one_file(run, tmp_path):
    text = "from dataclasses import replace\nfrom circuitfind.task import TASKS\n" + MARGIN
    (tmp_path / "mine.py").write_text(text + "TASKS.add(replace(TASKS['ioi'], name='mine', metric='mine.py:margin'))\n")
    task = task_from_file(tmp_path / "mine.py")
    assert as_metric(task.metric).name == "margin"
    assert "mine" not in TASKS


def test_settings_of_a_sensitivity_may_be_metrics_of_files(run):
    model = cf.load_model("tasks-4l")
    settings = {"margin": {"metric": "margin.py"}, "loss": {"metric": "loss.py"}}
    found = cf.sensitivity(model, "ioi", settings, edges=30, algorithm="eap", n=4, n_held_out=4)
    assert [circuit.provenance.metric for circuit in found.circuits] == ["margin", "own-loss"]


def test_a_grid_names_one_from_its_folder_and_its_text_travels_with_the_cells(run, tmp_path):
    def cell_of(text: str, folder: str):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "own.py").write_text(text)
        entry = {"algorithm": "eap", "metric": "own.py:margin"}
        values = {"models": "induction-2l", "tasks": "induction", "algorithms": [entry], "prompts": 4, "held-out": 4}
        (planned,) = plan(grid_of(values, tmp_path / folder)).planned
        assert planned.named.metric == "margin"
        return planned.cell

    here, moved, changed = cell_of(MARGIN, "a"), cell_of(MARGIN, "b"), cell_of(MARGIN + "# other\n", "a")
    assert here.name == moved.name != changed.name
    Path(tmp_path / "a" / "own.py").unlink()
    assert metric_of(here)(LOGITS, TARGETS).tolist() == [2, 4]
    assert metric_of(here).source_json["name"] == "margin"
