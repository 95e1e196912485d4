"""Every command with its options, as `--help` says them.

    python tests/commands_page.py > docs/commands.md

tests/test_commands_page.py fails when that page is stale.
"""

import argparse

from moesweep.arguments import parser

HEADER = """\
# Commands

Made by `python tests/commands_page.py > docs/commands.md` from what `moesweep COMMAND --help` says. Each
ends with 0 for success, 1 for failure, 2 for bad input and 130 when interrupted.
"""


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the commands' parsers by name."""
    (chosen,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    return dict(chosen.choices)


def page() -> str:
    """Return docs/commands.md."""
    return "\n".join([HEADER, *(_section(name, each) for name, each in sorted(commands().items()))])


def _section(name: str, command: argparse.ArgumentParser) -> str:
    said = [f"## moesweep {name}", "", _words(command.description or ""), ""]
    shown = [each for each in command._actions if each.help != argparse.SUPPRESS and each.dest != "help"]
    if shown:
        said += ["| argument | what |", "|---|---|", *(_row(each, command) for each in shown), ""]
    return "\n".join(said)


def _row(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    # As the formatter of any Python expands it: %(default)s and the like.
    told = command.formatter_class(command.prog)._expand_help(action) if action.help else ""
    return f"| {_name(action)} | {_words(told)} |"


def _name(action: argparse.Action) -> str:
    """Return an argument as it is typed, with what it takes."""
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    taken = "" if action.nargs == 0 else metavar or _choices(action) or action.dest.upper()
    more = {"*": f"[{taken}…]", "+": f"{taken}…", "?": f"[{taken}]"}
    taken = more.get(str(action.nargs), taken)
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    return " ".join(part for part in (names, f"`{taken}`" if taken else "") if part)


def _choices(action: argparse.Action) -> str:
    return ", ".join(str(choice) for choice in action.choices or ())


def _words(text: str) -> str:
    """Return a text on one line that Markdown leaves as it is."""
    plain = " ".join(text.split())
    return plain.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


if __name__ == "__main__":
    print(page(), end="")
