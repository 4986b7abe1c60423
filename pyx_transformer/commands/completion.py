"""The subcommand that prints what completes all of them in a shell."""

from __future__ import annotations

import shlex
from functools import partial

from pyx_transformer.commands.arguments import add_command

# Words of the last one's commands, options and values; where there are none, names of files.
BASH = """\
_pyx_transformer() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    case "${{COMP_WORDS[1]}}" in
{options}
    esac
    [[ "$word" == -* ]] || words=""
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    esac
    [[ "$COMP_CWORD" == 1 ]] && words="{commands} --help --version"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _pyx_transformer pyx-transformer
"""
ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\n"
ZSH += "autoload -Uz bashcompinit && bashcompinit\n"


def add_completion(commands):
    """Declare `completion`."""
    command = add_command(
        commands,
        "completion",
        "print what completes commands with the Tab key",
        """
        Print a script for a shell that completes commands, options and their values with Tab.
        """,
        """
        echo 'eval "$(pyx-transformer completion bash)"' >> ~/.bashrc
        echo 'eval "$(pyx-transformer completion zsh)"' >> ~/.zshrc
        pyx-transformer completion fish > ~/.config/fish/completions/pyx-transformer.fish
        """,
    )
    command.add_argument("shell", choices=SHELLS, help="the shell that it is for")
    command.set_defaults(run=partial(_completion, commands))


def _completion(commands, arguments):
    print(SHELLS[arguments.shell](commands), end="")


def for_bash(commands) -> str:
    """The script for bash."""
    options, values = [], []
    for name, command in commands.choices.items():
        names = [option for action in command._actions for option in action.option_strings]
        options.append(f'        {name}) words="{" ".join(names)}" ;;')
        for action in command._actions:
            if action.choices:
                # A value stands behind its option or, of an argument, behind the command.
                before = action.option_strings or [""]
                known = "|".join(f'"{name} {option or name}"' for option in before)
                words = " ".join(map(str, action.choices))
                values.append(f'        {known}) words="{words}" ;;')
    return BASH.format(
        options="\n".join(options), values="\n".join(values), commands=" ".join(commands.choices)
    )


def for_zsh(commands) -> str:
    """That for bash, which zsh takes too."""
    return ZSH + for_bash(commands)


def for_fish(commands) -> str:
    """The script for fish."""
    lines = []
    for choice in commands._choices_actions:
        name, said = choice.dest, shlex.quote(choice.help)
        lines.append(f"complete -c pyx-transformer -n __fish_use_subcommand -f -a {name} -d {said}")
        seen = f"complete -c pyx-transformer -n '__fish_seen_subcommand_from {name}'"
        for action in commands.choices[name]._actions:
            words = "" if not action.choices else f" -x -a '{' '.join(map(str, action.choices))}'"
            said = shlex.quote(action.help.partition(";")[0])
            for option in action.option_strings:
                kind = "-l" if option.startswith("--") else "-s"
                takes = "" if action.nargs == 0 else words or " -r"
                lines.append(f"{seen} {kind} {option.lstrip('-')}{takes} -d {said}")
            if words and not action.option_strings:
                lines.append(f"{seen}{words}")
    return "".join(f"{line}\n" for line in lines)


SHELLS = {"bash": for_bash, "zsh": for_zsh, "fish": for_fish}
