# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes docs/completion/ddtb6, which completes the tool's words in bash; run as ``python docs/completion.py``.

Commands and options come from the tool's parsers, as in its manual page.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ddtb6.cli.main import COMMANDS, _parser

PAGE = Path(__file__).parent / "completion" / "ddtb6"

SCRIPT = """\
# bash completion for ddtb6(1). Written by docs/completion.py from the tool's parsers.

declare -gA _ddtb6_words=(
{table}
)

_ddtb6() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command=ddtb6 each
    for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ "$each" != -* && -n "${{_ddtb6_words[$command $each]+there}}" ]]; then
            command+=" $each"
        fi
    done
    if [[ "${{COMP_WORDS[COMP_CWORD-1]}}" == @({files}) ]]; then
        COMPREPLY=($(compgen -f -- "$word"))
    else
        COMPREPLY=($(compgen -W "${{_ddtb6_words[$command]}}" -- "$word"))
    fi
}}

complete -o bashdefault -F _ddtb6 ddtb6
"""


def text() -> str:
    """The whole script."""
    whole = _parser([])
    root = [option for action in whole._actions for option in action.option_strings]
    found = {"ddtb6": [*COMMANDS, *root]}
    files = {option for action in whole._actions if action.type is Path for option in action.option_strings}
    for command in COMMANDS:
        for action in _parser([command])._actions:
            if isinstance(action, argparse._SubParsersAction):
                for path, words, of_files in _walk(f"ddtb6 {command}", action.choices[command]):
                    found[path] = words
                    files |= of_files
    table = "\n".join(f"    ['{path}']='{' '.join(words)}'" for path, words in found.items())
    return SCRIPT.format(table=table, files="|".join(sorted(files)))


def _walk(path: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str], set[str]]]:
    """By path of commands the words that may follow, and which options take a file."""
    words: list[str] = []
    files: set[str] = set()
    for action in parser._actions:
        words += [option for option in action.option_strings if action.help != argparse.SUPPRESS]
        if action.type is Path:
            files |= {*action.option_strings}
        if isinstance(action, argparse._SubParsersAction):
            words += action.choices
            for name, each in action.choices.items():
                yield from _walk(f"{path} {name}", each)
        elif action.choices and not action.option_strings:
            words += map(str, action.choices)
    yield path, words, files


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text())
