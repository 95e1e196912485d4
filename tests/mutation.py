"""Change one thing at a time in the formulas, and see whether a test notices.

    python tests/mutation.py [COUNT] [--seed N] [--jobs N]

A mutant is the code with one number, sign, factor or comparison changed in shapes, trace, cost or routing. It
is killed if a test of the hand-worked layer fails. What survives is printed with its line, to be looked at: a
survivor is a missing test, or a change that means the same. Mutants are drawn with a seed, from all places of
all files alike; the tests of the room that was changed come first.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "workflow/moesweep"
ROOMS = ("shapes", "trace", "cost")
NOT_FORMULAS = ("__init__.py", "command.py", "files.py", "words.py")
SHAPES = ("steps", "parallelism", "placement", "rings")
TESTS = {
    "shapes": (*SHAPES, "device_bytes", "hand_worked", "memory", "dispatchers", "capacity"),
    "trace": (
        *("device_bytes", "hand_worked", "context_parallelism", "trace_files", "programs"),
        *("dispatchers", "capacity", "balancing_losses"),
    ),
    "cost": ("dispatchers", "costs", "collectives", "memory", "cost_properties"),
    "study": ("routing", "routing_costs"),
}
"""The hand-worked layer, by the room whose formulas a file is about."""

SECONDS = 600
"""Beyond them a mutant counts as killed: it does not end."""

SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: which node of its tree, in the order of the walk, and what becomes of it."""

    file: str
    line: int
    node: int
    how: str
    before: str
    after: str

    def __str__(self) -> str:
        """Return file, line and change on one line."""
        return f"{self.file}:{self.line}: {self.before} -> {self.after}"

    @property
    def source(self) -> str:
        """The whole file, changed."""
        tree = ast.parse((PACKAGE / self.file).read_text(encoding="utf-8"))
        parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        node = list(ast.walk(tree))[self.node]
        _replace(parents[node], node, _changed(node, self.how))
        return ast.unparse(ast.fix_missing_locations(tree))


def files() -> list[Path]:
    """Return the files of formulas."""
    found = [file for room in ROOMS for file in sorted((PACKAGE / room).glob("*.py"))]
    return [*(file for file in found if file.name not in NOT_FORMULAS), PACKAGE / "study/routing.py"]


def mutants(file: Path) -> Iterator[Mutant]:
    """Yield every change of a file that this module knows."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    barred = {id(node) for said in _not_formulas(tree) for node in ast.walk(said)}
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in barred:
            continue
        for how in _ways(node):
            said = ast.unparse(node), ast.unparse(_changed(node, how))
            yield Mutant(str(file.relative_to(PACKAGE)), getattr(node, "lineno", 0), place, how, *said)


def _not_formulas(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield annotations, what a dataclass or a cache is told, messages of exceptions, versions of widths."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            yield node.annotation
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from node.decorator_list
        if isinstance(node, ast.FunctionDef) and node.returns:
            yield node.returns
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
            yield node
        # A type's name: `Program | None = ...`.
        if isinstance(node, ast.Assign) and ast.unparse(node.value).endswith("| None"):
            yield node


def _ways(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return ("another number",)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        drops = isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv | ast.Add)
        return ("swapped", "dropped") if drops else ("swapped",)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPPED:
        return ("swapped",)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.USub | ast.Not):
        return ("dropped",)
    return ()


def _changed(node: ast.AST, how: str) -> ast.expr:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float)
        return ast.Constant(node.value + 1 if node.value < 2 else node.value - 1)
    new = copy.deepcopy(node)
    if isinstance(new, ast.UnaryOp):
        return new.operand
    if isinstance(new, ast.Compare):
        new.ops = [SWAPPED[type(new.ops[0])]()]
        return new
    assert isinstance(new, ast.BinOp)
    if how == "dropped":
        return new.left
    new.op = SWAPPED[type(new.op)]()
    return new


def _replace(parent: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for name, value in ast.iter_fields(parent):
        if value is old:
            setattr(parent, name, new)
        elif isinstance(value, list) and any(each is old for each in value):
            setattr(parent, name, [new if each is old else each for each in value])


def killed(mutant: Mutant, copy_of: Path) -> bool:
    """Run the tests on a copy of the project that holds the mutant, until one fails; put the code back."""
    file = copy_of / "workflow/moesweep" / mutant.file
    sound = file.read_text(encoding="utf-8")
    file.write_text(mutant.source, encoding="utf-8")
    try:
        return not _passes(copy_of, mutant.file.split("/")[0])
    finally:
        file.write_text(sound, encoding="utf-8")


def _passes(copy_of: Path, room: str) -> bool:
    first, rest = TESTS[room], [name for names in TESTS.values() for name in names]
    names = dict.fromkeys([*first, *rest])
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-m", "not slow and not long", *(f"tests/test_{name}.py" for name in names)]
    environment = os.environ | {"PYTHONPATH": str(copy_of / "workflow"), "POLARS_MAX_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy_of, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def project(folder: Path) -> Path:
    """Copy what the tests of the hand-worked layer need."""
    for name in ("config", "schemas", "tests", "workflow", "docs"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, folder)
    return folder


def score(drawn: list[Mutant], jobs: int, folder: Path) -> list[Mutant]:
    """Return the survivors; each is printed when it is found."""
    free: SimpleQueue[Path] = SimpleQueue()
    for job in range(jobs):
        free.put(project(folder / str(job)))
    if not _passes(folder / "0", "study"):
        sys.exit("the tests fail on the code as it is")

    def survives(mutant: Mutant) -> bool:
        place = free.get()
        survived = not killed(mutant, place)
        free.put(place)
        print(f"{'SURVIVED' if survived else 'killed'} {mutant}", flush=True)
        return survived

    with ThreadPoolExecutor(jobs) as pool:
        return [mutant for mutant, alive in zip(drawn, pool.map(survives, drawn), strict=True) if alive]


def main() -> None:
    """Draw mutants, try each, print the share that is killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=200, help="how many mutants (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    every = [mutant for file in files() for mutant in mutants(file)]
    drawn = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    with tempfile.TemporaryDirectory() as folder:
        survivors = score(drawn, asked.jobs, Path(folder))
    share = 1 - len(survivors) / len(drawn)
    print(f"{len(drawn)} of {len(every)} mutants (seed {asked.seed}): {share:.1%} killed; survivors:")
    print("\n".join(map(str, survivors)))


if __name__ == "__main__":
    main()
