"""The page of the command line, from the parser that also prints `--help`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bitgolf.cli.main import command_parser
from reference_text import cell, code, escaped, table

HEAD = """# Command line

All commands, generated from the same source as `bitgolf COMMAND --help`. [Architecture](../architecture.md#3-the-command-line) describes what they have in common: exit status, JSON output, folders of runs, locks.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Name and parser of each command; of a group (`data`), those of its commands."""
    for name, command in command_parser().commands.items():
        for below, found in getattr(command, "commands", {"": command}).items():
            yield f"{name} {below}".strip(), found


def commands_page() -> str:
    """Return the page: the options of every command, and a section for each command."""
    program = command_parser()
    context = program.context_class(program, info_name="bitgolf")
    general = [
        "## Options of every command",
        "They may stand anywhere in the command line.",
        options_table(program.params, context),
    ]
    return "\n\n".join([HEAD, *general, *(command_section(name, command) for name, command in commands())]) + "\n"


def command_section(name: str, command: Any) -> str:
    """Heading, usage, help, arguments and options of a command."""
    context = command.context_class(command, info_name=f"bitgolf {name}")
    usage = " ".join([f"bitgolf {name}", *command.collect_usage_pieces(context)])
    return "\n\n".join(
        [f"## bitgolf {name}", f"```text\n{usage}\n```", escaped(command.help), options_table(command.params, context)]
    )


def options_table(parameters: list[Any], context: Any) -> str:
    """A row for each argument and option that `--help` shows."""
    rows = []
    for parameter in parameters:
        if not getattr(parameter, "hidden", False):
            name, text = parameter.get_help_record(context)
            rows.append([code(name), cell(text)])
    return table(["argument or option", "meaning"], rows)
