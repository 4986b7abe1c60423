"""The subcommands that look at models on disk, and write them anew."""

from __future__ import annotations

import json

from pyx_transformer.commands.arguments import add_command, note, path


def add_inspect(commands):
    """Declare `inspect`."""
    command = add_command(
        commands,
        "inspect",
        "say what is in a model's folder",
        """
        Say what a folder holds and what it can do, without reading its weights.
        """,
        """
        pyx-transformer inspect en-ja
        pyx-transformer inspect all-MiniLM-L6-v2 --json
        """,
    )
    command.add_argument(
        "model", type=path, metavar="FOLDER", help="of any layout, or en-ja or shakespeare"
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(run=_inspect)


def _inspect(arguments):
    from pyx_transformer.pipelines.inspection import inspect

    found = inspect(arguments.model)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{name:<{width}}  {shown or 'none'}")


def add_convert(commands):
    """Declare `convert`."""
    command = add_command(
        commands,
        "convert",
        "write a model in this package's own layout",
        """
        Read a model of any layout and write it in this package's own, its tokenizers and what
        sentence-transformers wrote beside it included. It then loads with the same bits.
        """,
        """
        pyx-transformer convert opus-mt-en-jap mine
        pyx-transformer convert opus-mt-en-jap small --dtype int8
        """,
    )
    command.add_argument(
        "source", type=path, metavar="IN", help="a folder of any layout, or en-ja or shakespeare"
    )
    command.add_argument("target", type=path, metavar="OUT", help="the folder to write")
    command.add_argument(
        "--dtype",
        choices=("float32", "int8"),
        default="float32",
        help="of the weights; int8 takes a quarter of the space and changes them; default: "
        "%(default)s",
    )
    command.set_defaults(run=_convert)


def _convert(arguments):
    from pyx_transformer.pipelines.conversion import convert

    model = convert(arguments.source, arguments.target, dtype=arguments.dtype)
    note(f"{arguments.target}: a {type(model).__name__} of {model.num_parameters} parameters")
