"""The `pyx-transformer` command: what it prints, where, and with which exit status."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

import pyx_transformer as pt
from pyx_transformer.cli import main, parser
from pyx_transformer.explain import explain

COMMAND = [sys.executable, "-m", "pyx_transformer"]
COMMANDS = tuple(parser()._subparsers._group_actions[0].choices)
SMALL = "pyx-transformer: en-ja is a small model"


def test_explain_prints_all_parts_in_english(capsys):
    assert main(["explain"]) == 0
    assert capsys.readouterr() == (explain("en") + "\n", "")


def test_explain_prints_one_part_in_chinese(capsys):
    assert main(["explain", "--lang", "zh", "--part", "2"]) == 0
    assert capsys.readouterr() == (explain("zh", 2) + "\n", "")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"pyx-transformer {pt.__version__}\n", "")


def test_config_prints_the_configuration(capsys):
    assert main(["config"]) == 0
    printed = capsys.readouterr()
    pt.show_config()
    assert printed == capsys.readouterr()
    assert printed.out and not printed.err


def test_help_tells_what_a_status_means(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: pyx-transformer") and err == ""
    assert re.findall(r"^  (\d+) +\w", out, re.M) == ["0", "1", "2", "130"]
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s", out, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_says_what_it_does_with_examples(command, capsys):
    """Each of which is one that there is."""
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: pyx-transformer {command} ") and err == ""
    described, _, examples = out.partition("\nexamples:\n")
    assert re.search(r"^[A-Z][^\n]+\n(?:[^\n]+\n)*\n(positional|options)", described, re.M)
    lines = examples.splitlines()
    assert len(lines) >= 2 and all(f"pyx-transformer {command}" in line for line in lines[:2])
    for line in lines:
        assert len(line) <= 100
        for typed in re.findall(r"pyx-transformer ((?:[^|>'\")]|\"[^\"]*\")+)", line):
            parser().parse_args(shlex.split(typed, comments=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_option_does(command):
    one = parser()._subparsers._group_actions[0].choices[command]
    for action in one._actions:
        assert action.help, action.dest


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "COMMAND"),
        (["explian"], "explian"),
        (["explain", "--lang", "fr"], "--lang"),
        (["explain", "--part", "8"], "--part"),
        (["explain", "--part", "0"], "--part"),
        (["explain", "--part", "two"], "--part"),
        (["explain", "--colour"], "--colour"),
        (["explain", "me"], "me"),
    ],
)
def test_bad_arguments_exit_with_2_and_one_line(arguments, names, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyx-transformer") and names in err
    assert err.count("\n") == 1 and err.endswith("\n")


def test_the_option_that_is_meant_is_named(capsys):
    assert main(["translate", "--nbest", "3", "a"]) == 2
    assert capsys.readouterr().err == (
        "pyx-transformer translate: unrecognized arguments: --nbest (did you mean --n-best?); "
        "see pyx-transformer translate --help\n"
    )
    assert main(["config", "more"]) == 2
    assert capsys.readouterr().err == (
        "pyx-transformer config: unrecognized arguments: more; see pyx-transformer config --help\n"
    )


def test_module_runs_as_the_command(tmp_path):
    run = subprocess.run(
        [*COMMAND, "explain", "--part", "1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, explain("en", 1) + "\n", "")
    run = subprocess.run([*COMMAND, "--part"], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")


def test_closed_pipe_ends_quietly(tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        run = subprocess.run(
            [*COMMAND, "explain"], cwd=tmp_path, stdout=write_end, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write_end)
    assert (run.returncode, run.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["config"],
        ["explain"],
        ["translate", "Yes."],
        ["translate", *["Oh no."] * 700],
    ],
)
def test_a_full_device_gets_one_line(arguments, tmp_path):
    """At the end, or in the middle where there is more than a buffer holds."""
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    err = [line for line in run.stderr.splitlines() if not line.startswith(SMALL)]
    assert run.returncode == 2
    assert len(err) == 1
    assert err[0].startswith("pyx-transformer") and "No space left on device" in err[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_notes_that_cannot_be_written_cost_no_result(tmp_path):
    """The line that en-ja is a small model, and that three texts are one word each."""
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*COMMAND, "translate", "i", "love", "music"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            encoding="utf-8",
        )
    assert run.returncode == 0 and run.stdout.count("\n") == 3


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize(
    ("closed", "status", "out", "err"),
    [
        ("2>&-", 0, "私は音楽が好きです。\n", ""),
        (">&-", 2, "", "pyx-transformer: cannot print: standard output is closed\n"),
        (">&- 2>&-", 2, "", ""),
    ],
)
def test_nothing_but_results_is_ever_on_standard_output(closed, status, out, err, tmp_path):
    """With standard error closed, notes would come out above the translation."""
    command = f"{shlex.join(COMMAND)} translate 'i love music .' {closed}"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    answer = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (status, out, err)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_ctrl_c_while_the_command_loads_ends_it_quietly(tmp_path):
    """At ten moments of it, once Python itself has started."""
    for i in range(10):
        child = subprocess.Popen(
            [*COMMAND, "translate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        time.sleep(0.06 + 0.02 * i)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode in (-signal.SIGINT, 130) and out == b""
        assert b"Traceback" not in err, err.decode()


def test_terminal_that_cannot_show_chinese_gets_one_line(tmp_path):
    run = subprocess.run(
        [*COMMAND, "explain", "--lang", "zh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert "PYTHONIOENCODING=utf-8" in run.stderr


def test_command_imports_a_subcommand_only_when_it_runs(tmp_path):
    script = "import sys, pyx_transformer.cli; print('pyx_transformer.explain' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"
