"""A hook of MkDocs: the page of commands has what `--help` of each prints."""

import argparse
import os

PAGE = "reference/commands.md"


def on_page_markdown(markdown, page, **_):
    return markdown + helps() if page.file.src_uri == PAGE else markdown


def helps():
    from pyx_transformer import cli

    os.environ["COLUMNS"] = "90"
    parser = cli.parser()
    (commands,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    parts = [f"\n```text\n{parser.format_help()}```\n"]
    for name, command in commands.choices.items():
        parts.append(f"\n## {name}\n\n```text\n{command.format_help()}```\n")
    return "".join(parts)
