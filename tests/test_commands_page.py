"""docs/commands.md holds every command and option, in the words of `--help`."""

from pathlib import Path

import commands_page


def test_the_page_of_commands_is_current(root: Path) -> None:
    """An option that nobody finds in the docs is half an option."""
    written = (root / "docs/commands.md").read_text(encoding="utf-8")
    assert written == commands_page.page(), "run: python tests/commands_page.py > docs/commands.md"


def test_the_page_says_what_a_command_takes() -> None:
    """A positional argument, an option with a value, a flag and choices each have their row."""
    rows = commands_page.page().splitlines()
    assert any(row.startswith("| `--dry-run` |") for row in rows)
    assert any(row.startswith("| `--gpus` `N` |") for row in rows)
    assert any(row.startswith("| `WORKLOAD` |") for row in rows)
    assert any(row.startswith("| `--format` `text, json` |") for row in rows)
