"""Help pages: commands grouped by use with two examples each that can be parsed, and the flags of every command."""

import shlex

import pytest
import typer

from circuitfind.cli import app
from circuitfind.cli.help_pages import EXAMPLES, OPTIONS

COMMANDS = typer.main.get_command(app).commands
FEW = ("--model", "induction-2l", "-n", "4", "--held-out", "4", "--random", "0", "--algorithm", "random-edges")
ALL = [(command, example) for group in EXAMPLES.values() for command, examples in group.items() for example in examples]


def test_every_command_stands_in_one_group_with_two_examples():
    listed = [command for group in EXAMPLES.values() for command in group]
    assert sorted(listed) == sorted(COMMANDS)
    assert len(set(listed)) == len(listed)
    assert all(len(set(examples)) == 2 for group in EXAMPLES.values() for examples in group.values())


@pytest.mark.parametrize(("command", "example"), ALL)
def test_every_example_can_be_parsed(command, example):
    name, *arguments = shlex.split(example)
    assert name == command
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_quiet_and_verbose_on_request_and_no_flag_has_a_type(name):
    options = {option.name: option for option in COMMANDS[name].params}
    assert {"-q", "--quiet"} == set(options["quiet"].opts)
    assert {"-v", "--verbose"} == set(options["verbose"].opts)
    assert all(option.metavar == "" for option in options.values() if getattr(option, "is_flag", False))


def test_every_option_in_a_group_is_one_of_a_command():
    known = {option.name for command in COMMANDS.values() for option in command.params}
    assert {name for names in OPTIONS.values() for name in names} <= known


def test_names_of_python_are_understood():
    names = {name for option in COMMANDS["discover"].params for name in option.opts}
    assert {"--top", "--edges", "--n-held-out", "--held-out", "-n", "--prompts"} <= names


def test_quiet_prints_the_result_alone(run, monkeypatch):
    for name in ("CIRCUITFIND_QUIET", "CIRCUITFIND_RESULT_ALONE"):
        monkeypatch.setenv(name, "")  # set back afterwards
    few = (
        "--model",
        "induction-2l",
        "-n",
        "4",
        "--held-out",
        "4",
        "--random",
        "0",
        "--algorithm",
        "random-edges",
        "--top",
        "9",
    )
    code, out, _ = run("discover", "induction", *few, "-q", "--out", "quiet")
    assert code == 0
    assert "train and" not in out
    assert "strongest edges" in out


def test_verbose_shows_where_an_error_was_raised(run, monkeypatch):
    monkeypatch.setenv("CIRCUITFIND_VERBOSE", "")
    assert "Traceback" not in run("discover", "no-such-task")[2]
    code, _, err = run("discover", "no-such-task", "-v")
    assert code == 2
    assert "Traceback" in err


def test_other_flags_give_another_folder_and_the_same_flags_the_same(run, tmp_path):
    usual = tmp_path / "results" / "induction" / "induction-2l"
    assert run("discover", "induction", *FEW, "--top", "9")[0] == 0
    code, out, _ = run("discover", "induction", *FEW, "--top", "12")
    assert code == 0
    (other,) = [folder for folder in usual.iterdir() if folder.name != "random-edges"]
    assert (
        f"random-edges holds a run with other settings, so this one goes into results/induction/induction-2l/{other.name}"
        in out
    )
    code, _, err = run("discover", "induction", *FEW, "--top", "12")
    assert (code, "exists already" in err) == (2, True)
    assert len(list(usual.iterdir())) == 2
