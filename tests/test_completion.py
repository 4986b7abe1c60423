"""Scripts that complete commands in shells."""

import shutil
import subprocess

import pytest

from pyx_transformer.cli import main, parser

CASES = [
    ("tr", {"train", "translate"}),
    ("--v", {"--version"}),
    ("translate --b", {"--beam-size"}),
    ("explain --lang ", {"en", "zh"}),
    ("explain --part ", {"1", "2", "3", "4", "5", "6", "7"}),
    ("tag --model x --aggregation f", {"first"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("translate --input in", {"in.txt"}),
    ("train rec", {"recipe.toml"}),
]
COMMANDS = sorted(parser()._subparsers._group_actions[0].choices)
# What bash offers for the words in $@, names of files included.
ASK_BASH = """
source ./script
COMP_WORDS=(pyx-transformer "$@") COMP_CWORD=$#
_pyx_transformer
[[ "${COMPREPLY[*]}" ]] && printf '%s\\n' "${COMPREPLY[@]}" || compgen -f -- "${COMP_WORDS[-1]}"
"""


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """A function that puts the script of a shell into the folder that is there then."""
    monkeypatch.chdir(tmp_path)
    for name in ("in.txt", "recipe.toml"):
        (tmp_path / name).touch()

    def put(shell):
        if shutil.which(shell) is None:
            pytest.skip(f"needs {shell}")
        assert main(["completion", shell]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        (tmp_path / "script").write_text(out)

    return put


def answer(*command):
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout.splitlines()


def test_bash(script):
    script("bash")
    for typed, expected in CASES:
        assert {*answer("bash", "-c", ASK_BASH, "-", *typed.split(" "))} == expected, typed
    assert {*COMMANDS} < {*answer("bash", "-c", ASK_BASH, "-", "")}


def test_fish(script):
    script("fish")
    for typed, expected in CASES:
        if typed == "--v":  # its own completion of options has no command yet
            continue
        ask = f"source ./script; complete -C 'pyx-transformer {typed}'"
        assert {line.partition("\t")[0] for line in answer("fish", "-c", ask)} == expected, typed


def test_zsh_takes_it(script):
    script("zsh")
    ask = "compdef() {}; source ./script; whence -w _pyx_transformer"
    assert answer("zsh", "-f", "-c", ask) == ["_pyx_transformer: function"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_there(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for name, command in parser()._subparsers._group_actions[0].choices.items():
        assert name in out
        for option in (one for action in command._actions for one in action.option_strings):
            if shell == "fish":
                option = f" -l {option[2:]} " if option.startswith("--") else f" -s {option[1:]} "
            assert option in out
