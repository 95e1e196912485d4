"""The rooms of the library and the arrows between them, found from its imports.

    python tests/architecture.py > docs/architecture.md

tests/test_architecture.py fails when that page is stale.
"""

import ast
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "workflow" / "moesweep"

HEADER = """\
# Architecture: rooms, and who imports whom

Made by `python tests/architecture.py > docs/architecture.md`. Data flows upwards: a room imports those below
it alone (`make check`). An arrow points to what a room imports; those that follow from others are left out.
Stages meet in files: each reads what the stages before it wrote.

"""


def layers() -> list[list[str]]:
    """Return the rooms of each floor, from the command line down, as pyproject.toml orders them."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ordered = next(each for each in told["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [[room.strip() for room in floor.split("|")] for floor in ordered["layers"]]


def arrows() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    graph = grimp.build_graph("moesweep", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for floor in layers() for room in floor}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            room, below = (name.partition(".")[2].partition(".")[0] for name in (module, other))
            if room and below and room != below:
                found[room].add(below)
    return found


def needed(imported: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows that do not follow from others, in the order of the floors."""
    below: dict[str, set[str]] = {}
    for floor in reversed(layers()):
        for room in floor:
            below[room] = set().union(*(below[other] | {other} for other in imported[room]))
    return [
        (room, other)
        for room, others in imported.items()
        for other in sorted(others)
        if not any(other in below[between] for between in others)
    ]


def meaning(room: str) -> str:
    """Return the first line of a room's docstring."""
    path = LIBRARY / room / "__init__.py" if (LIBRARY / room).is_dir() else LIBRARY / f"{room}.py"
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]


def page() -> str:
    """Return docs/architecture.md."""
    drawn = ["```mermaid", "flowchart TD"]
    drawn += [f"    {room} --> {other}" for room, other in needed(arrows())]
    listed = [f"| `{room}` | {meaning(room)} |" for floor in layers() for room in floor]
    table = ["| room | what it is for |", "|---|---|", *listed]
    return HEADER + "\n".join([*drawn, "```", "", *table]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
