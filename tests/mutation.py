"""Change one thing at a time in the formulas, and see whether a test notices.

    python tests/mutation.py [COUNT] [--of FILE] [--seed N] [--jobs N]

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
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import cache_from_source
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "workflow/moesweep"
ROOMS = ("shapes", "trace", "cost")
NOT_FORMULAS = ("__init__.py", "command.py", "files.py", "words.py")
SIZES = (
    *("CACHED_ELEMENTS", "KNOWN_ORDERS", "LONGER", "WINDOW", "STEADY", "_SHIFT", "RESOLUTION"),
    "MAX_TABLE_BYTES",
)
"""Sizes of caches and of files, tolerances, terms of a series: with others near them the same comes out."""

TRACE = ("device_bytes", "hand_worked", "hand_worked_recompute", "programs")
MEMORY = ("memory", "static_memory")
COSTS = ("costs", "iteration_costs")
OVERLAP = ("overlap", "overlap_in_layers")
SKEWED = ("routing_input", "routing", "routing_costs")
TESTS = {
    "shapes": (*TRACE, "capacity", *MEMORY, "dispatchers", "context_parallelism"),
    "trace": (*TRACE, "balancing_losses", "capacity", "dispatchers", "context_parallelism"),
    "cost": (*COSTS, "capacity", *OVERLAP, "dispatchers"),
    "study": SKEWED,
    "shapes/distinct": ("space", "factored"),
    "shapes/layer_kinds": ("states", "placement", "programs", "hand_worked", "hand_worked_recompute"),
    "shapes/parallelism": ("rings", "placement", "parallelism", "rank_order", "two_steps"),
    "shapes/placement": (
        *("placement", "parallelism", "programs", "hand_worked", "hand_worked_recompute"),
        "activation_offload",
    ),
    "shapes/standing": ("rank_order", "parallelism", "collectives", "two_steps"),
    "shapes/precision": ("fp8", "offload"),
    **dict.fromkeys(("shapes/sharding", "trace/sharding", "cost/sharding"), ("sharding",)),
    **dict.fromkeys(("shapes/offloading", "trace/offloading", "cost/offloading"), ("activation_offload",)),
    "shapes/recomputed": (*TRACE, "balancing_losses"),
    "shapes/rings": ("rings", "collectives", "parallelism"),
    "shapes/schedule": ("steps", *MEMORY, "activation_offload"),
    "shapes/spread": ("dispatchers",),
    "shapes/states": ("states", *MEMORY, "offload", "sharding", "fp8"),
    "shapes/steps": ("steps", *OVERLAP, "pairs"),
    **dict.fromkeys(("trace/ends", "trace/vocabulary"), TRACE),
    "trace/moe": (*TRACE, "balancing_losses", "fp64_routers", "capacity", "dispatchers"),
    "trace/optimizer": (*TRACE, "balancing_losses", "offload", "sharding"),
    "trace/balanced": ("balanced",),
    "trace/context": ("context_parallelism", "two_steps"),
    "trace/ops": (*TRACE, "routing"),
    "trace/dispatch": ("capacity", "balancing_losses", "dispatchers", *TRACE),
    **dict.fromkeys(("trace/skewed_copies", "trace/skewed_programs", "cost/skewed_ranks"), SKEWED),
    "cost/buckets": OVERLAP,
    "cost/collectives": (
        "collectives",
        "parallelism",
        "network_costs",
        *COSTS,
        *OVERLAP,
        "determinism",
        "two_steps",
    ),
    "cost/compute": (
        *(*COSTS, "offload", "fp64_routers", "fp8", "capacity", "dispatchers", "determinism"),
        "context_parallelism",
    ),
    "cost/fused_exchange": ("dispatchers",),
    "cost/memory": (
        "capacity",
        *MEMORY,
        "context_parallelism",
        "dispatchers",
        "activation_offload",
        "memory_programs",
    ),
    "cost/pairs": ("pairs",),
    "cost/predicted_collectives": ("collectives",),
    "cost/skew": ("capacity", *COSTS, *SKEWED),
    "cost/uncertainty": ("uncertainty",),
    "cost/stages": (*COSTS, *OVERLAP, "balancing_losses", "activation_offload", "two_steps"),
    "cost/validity": ("validity", "sharding"),
    "cost/workspace": ("workspace", "dispatchers", "context_parallelism", "two_steps"),
}
"""The hand-worked layer: the tests of a room, or of a file unlike its room's others; quick ones first."""

PRELOADED = ["polars", "numpy", "yaml", "hypothesis", "hypothesis.strategies", "pytest", "_pytest.python"]
"""What every run of tests imports and no mutant changes: imported once, before each run forks."""

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)

SAID = "said.txt"
"""What the last run of tests on a copy said."""

SECONDS = 600
"""Beyond them a mutant counts as killed: it does not end."""

SWAPPED: dict[type[ast.AST], Any] = {
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
    """Yield annotations, what a dataclass or a cache is told, messages of exceptions, sizes of caches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            yield node.annotation
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from node.decorator_list
        if isinstance(node, ast.FunctionDef) and node.returns:
            yield node.returns
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
            yield node
        if isinstance(node, ast.Assign) and any(ast.unparse(name) in SIZES for name in node.targets):
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
    _write(file, mutant.source)
    try:
        return not passes(copy_of, tests_of(mutant.file))
    finally:
        _write(file, sound)


def _write(file: Path, source: str) -> None:
    """Write code and forget what was compiled of it: two mutants may be as long, and of the same second."""
    file.write_text(source, encoding="utf-8")
    Path(cache_from_source(str(file))).unlink(missing_ok=True)


def tests_of(file: str) -> tuple[str, ...]:
    """Return the tests that know a file's formulas."""
    return TESTS.get(file.removesuffix(".py")) or TESTS[file.split("/", maxsplit=1)[0]]


def passes(copy_of: Path, names: Iterable[str]) -> bool:
    """Return whether these tests pass on a copy of the project, in a process forked for them."""
    process = FORKS.Process(target=_run, args=(copy_of, list(names)))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def _run(copy_of: Path, names: list[str]) -> None:
    os.chdir(copy_of)
    os.environ |= {"PYTHONPATH": str(copy_of / "workflow"), "POLARS_MAX_THREADS": "1"}
    sys.path[:0] = [str(copy_of / "workflow"), str(copy_of / "tests")]
    with (copy_of / SAID).open("w", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    import pytest

    chosen = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not long"]
    chosen += ["-W", "ignore:Module already imported"]
    outcome = pytest.main([*chosen, *(f"tests/test_{name}.py" for name in names)])
    here = str(sys.modules["moesweep"].__file__).startswith(str(copy_of))
    sys.exit(int(outcome) if here else "other code was tested")


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

    def somewhere(does: Callable[[Path], T]) -> T:
        place = free.get()
        try:
            return does(place)
        finally:
            free.put(place)

    def fails(name: str) -> str:
        """Return the end of what tests say that fail on the code as it is."""

        def tried(place: Path) -> str:
            if passes(place, [name]):
                return ""
            return (place / SAID).read_text(encoding="utf-8", errors="replace")[-2000:] or "nothing said"

        return somewhere(tried)

    def survives(mutant: Mutant) -> bool:
        dead = somewhere(lambda place: killed(mutant, place))
        print(f"{'killed' if dead else 'SURVIVED'} {mutant}", flush=True)
        return not dead

    needed = sorted({name for mutant in drawn for name in tests_of(mutant.file)})
    with ThreadPoolExecutor(jobs) as pool:
        failed = {name: said for name, said in zip(needed, pool.map(fails, needed), strict=True) if said}
        if failed:
            sys.exit(f"tests fail on the code as it is: {', '.join(failed)}\n{''.join(failed.values())}")
        return [mutant for mutant, alive in zip(drawn, pool.map(survives, drawn), strict=True) if alive]


def main() -> None:
    """Draw mutants, try each, print the share that is killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=200, help="how many mutants (200)")
    parser.add_argument("--of", default="", metavar="FILE", help="of files that begin so: cost/memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    every = [mutant for file in files() for mutant in mutants(file) if mutant.file.startswith(asked.of)]
    drawn = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    with tempfile.TemporaryDirectory() as folder:
        survivors = score(drawn, asked.jobs, Path(folder))
    share = 1 - len(survivors) / len(drawn)
    print(f"{len(drawn)} of {len(every)} mutants (seed {asked.seed}): {share:.1%} killed; survivors:")
    print("\n".join(map(str, survivors)))


if __name__ == "__main__":
    main()
