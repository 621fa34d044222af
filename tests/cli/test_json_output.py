"""Every command prints one JSON value where it is asked to."""

import json

import numpy as np
import pytest
from command_lines import COMMANDS
from typer.main import get_command

import circuitfind as cf
from circuitfind.cli.options import app
from circuitfind.task.write_pairs import write_pairs


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """A folder for MIB's leaderboard with one pair."""
    from circuitfind.formats.mib import MODELS, write_pair

    graph = MODELS["gpt2"].graph
    folder = tmp_path_factory.mktemp("cli") / "submission"
    with pytest.warns(UserWarning, match="BOS"):
        write_pair(folder, "ioi_gpt2", cf.EdgeScores(graph, np.arange(graph.n_edges, dtype=float)))
    return folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A benchmark's folder, its table alone."""
    from benchmark_folder import write_benchmark

    made = write_benchmark(
        tmp_path_factory.mktemp("cli") / "made", ablations=("corrupted",), algorithms=("eap", "acdc")
    )
    folder = tmp_path_factory.mktemp("cli")
    (folder / "table.parquet").write_bytes((made / "table.parquet").read_bytes())
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_one_json_value(run, folder, decided, submission, benchmark, pairs_csv, command):
    places = {
        "folder": folder,
        "decided": decided,
        "submission": submission,
        "benchmark": benchmark,
        "pairs": pairs_csv,
    }
    words = [word.format(**places) for word in COMMANDS[command]]
    code, out, _ = run(*words, "--json")
    assert code == 0
    assert json.loads(out)
    assert "NaN" not in out


def test_no_command_is_left_out_above():
    assert set(get_command(app).commands) == set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ("path-patch", "{task}", "a0.h1 -> a1.h2<k> -> logits"),
        ("path-map", "{task}", "a1.h2<k>"),
        ("roles", "{task}"),
        ("activation-patch", "{task}", "--what", "head"),
        ("ablate", "{task}", "a1.h2"),
    ],
)
def test_a_task_brings_its_own_model_and_another_may_be_asked_for(run, refused, words):
    """The head a1.h2 is in both models; the words of the task are in its own alone."""
    given = [word.format(task="wired-induction") for word in words]
    code, _, err = run(*given, "--prompts", "4")
    assert (code, err) == (0, "")
    assert "does not know the word 'BOS'" in refused(*given, "--model", "induction-2l", "--prompts", "4")
    of_file = [word.format(task="mine.csv") for word in words]
    write_pairs(cf.TASKS["ioi"].pairs(6), "mine.csv")
    assert run(*of_file, "--prompts", "4")[0] == 0  # pairs of one's own are for tasks-4l


@pytest.mark.parametrize("words", [("tasks",), ("models",), ("models", "tasks-4l", "--words")])
def test_lists_are_json_too(run, words):
    assert json.loads(run(*words, "--json")[1])
