"""Explanations cannot disagree with the costs: every root is the table's value, every node its formula's."""

import json
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from explained import agrees, everything_below
from moesweep.cli import main
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.edge.problems import BadInput
from moesweep.evaluate.costs import constants_frame, costed
from moesweep.explain.formula import Call, Constant, Reference, evaluate, shown, text
from moesweep.explain.ledger import QUANTITIES, Ledger
from moesweep.explain.metrics import cost_metrics, metric
from moesweep.explain.node import Node, Reading
from moesweep.explain.number_units import with_unit
from moesweep.explain.origins import origins
from moesweep.explain.reader import _Reader
from moesweep.explain.text_tree import TextTree, as_json
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.study.sweep import enumerate_sweep
from moesweep.trace.programs import folded
from sampled import outside, sampled
from small import small
from varied import VARIED

ROOT = Path(__file__).resolve().parents[1]
SWEEP = "config/sweeps/moe-a100-123.yaml"
CLUSTER = "dgx-a100-80gb-8xhdr200"
BAND = ("iteration_seconds_low", "iteration_seconds_high")
EXAMPLE = "gpt_13B-ws1024-tp16-pp2-ep16-gbs2048-mbs1-seq4096-moe"
NODE_KINDS = {"Agg", "Alias", "BinaryExpr", "Cast", "Column", "Function", "Gather", "Literal", "Ternary"}
"""Every kind of node that the expressions of costs and memory have, as polars 2.1 names it."""


@cache
def cluster() -> Cluster:
    return load_cluster(ROOT, CLUSTER)


@cache
def sixty() -> pl.DataFrame:
    """Every variation of the small workload, then workloads of the default sweep, both kinds."""
    varied = [small(**changes).with_columns(workload=pl.lit(name)) for name, changes in VARIED.items()]
    swept = enumerate_sweep(ROOT, SWEEP)
    few = 60 - len(varied)
    return pl.concat([*varied, swept.gather_every(swept.height // few)[:few]])


@cache
def costs() -> Costs:
    return cost(folded(sixty()), with_constants(sixty(), cluster().values))


@cache
def ledger(place: int) -> Ledger:
    return Ledger(sixty()[place], cluster(), {})


def test_there_are_sixty_workloads_of_every_sort() -> None:
    assert sixty().height == 60
    assert set(sixty()["kind"]) == {"moe", "dense"}


@pytest.mark.parametrize("place", sampled(range(60), 3))
def test_every_cost_metric_is_the_tables_value_and_its_formulas(place: int) -> None:
    row = costs().workloads.row(place, named=True)
    for name in cost_metrics():
        if name in BAND:
            continue
        node = metric(ledger(place), name)
        if isinstance(row[name], str):
            assert node.value == row[name]
            continue
        assert isinstance(node.value, float | bool)
        assert abs(node.value - row[name]) <= math.ulp(row[name]), name
        assert agrees(node), name


@pytest.mark.parametrize("place", [1, 12, 30])
def test_the_band_is_the_tables_value_and_its_formulas(place: int) -> None:
    frame = sixty()[place].with_columns(cluster=pl.lit(CLUSTER))
    row = costed(frame, constants_frame([cluster()])).row(0, named=True)
    for name in BAND:
        node = metric(ledger(place), name)
        assert node.value == pytest.approx(row[name], rel=1e-12)
        assert all(agrees(below) for below in (node, *node.children))
        end = name.removeprefix("iteration_seconds_")
        spread = next(child for child in node.children if child.name == f"{end}_spread")
        assert spread.value == cluster().value(f"band_{row['regime']}_{end}_spread")


# The trees of the default sweep's workloads are the deepest: one of them takes minutes.
@pytest.mark.parametrize(
    "place",
    [14, *map(outside, (0, 7, 21, 42))],
)
def test_every_number_down_to_the_catalogue_is_what_its_formula_comes_to(place: int) -> None:
    for name in ("usd_per_billion_tokens", "peak_memory_bytes", "mfu", "bubble_fraction", "fits"):
        wrong = [node for node in everything_below(metric(ledger(place), name)) if not agrees(node)]
        assert wrong == []


@pytest.mark.parametrize("place", range(0, 50, 6))
def test_every_op_has_an_explanation_of_its_seconds_and_quantities(place: int) -> None:
    table = ledger(place).ops
    for number in range(0, table.frame.height, 5):
        row = table.frame[number]
        for name in ("seconds", *QUANTITIES):
            node = table.column(row, name)
            assert node.value == row[name][0]
            assert agrees(node), (row["op"][0], name)


def test_the_kinds_of_node_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """polars calls this form unstable: docs/decisions/polars.md."""
    met: set[str] = set()
    walk = _Reader.walk

    def noted(self: _Reader, tree: Any, *rest: Any, **named: Any) -> Any:
        met.add(next(iter(tree)) if isinstance(tree, dict) else tree)
        return walk(self, tree, *rest, **named)

    monkeypatch.setattr(_Reader, "walk", noted)
    # Trees of seconds have some of these kinds; one that nobody knows is an error wherever it is met.
    for place in (0, 12):
        list(everything_below(metric(Ledger(sixty()[place], cluster(), {}), "peak_memory_bytes")))
    assert met == NODE_KINDS


def test_every_leaf_says_where_it_is_from() -> None:
    # A dense one: the tree of one with experts has twice the nodes.
    workload = enumerate_sweep(ROOT, SWEEP).filter(kind="dense", model="gpt_7B", pp=1)
    from_sweep = origins(ROOT, SWEEP, workload.row(0, named=True))
    tree = metric(Ledger(workload, cluster(), from_sweep), "iteration_seconds")
    leaves = {node.name: node.origin for node in everything_below(tree) if node.origin}
    peak, world, hidden = (leaves[name] for name in ("matrix_flops_per_second", "world_size", "hidden_size"))
    assert (peak.file, peak.tag) == ("config/gpus/a100-sxm-80gb.yaml", "paper")
    assert "data sheet" in peak.source
    assert world.file.startswith(f"{SWEEP}: ")
    assert world.file.endswith(".world_size")
    assert hidden.file == "config/models/gpt_7B.yaml"
    assert hidden.source
    assert [name for name, origin in leaves.items() if not (origin.file or origin.source)] == []


def test_a_sum_lists_its_largest_parts_and_what_remains() -> None:
    parts = [Node(f"part {n}", f"part {n}", float(n), origin=None) for n in range(1, 11)]
    total = Node(
        "t", "total", 55.0, read=lambda: Reading(Call("sum", tuple(Reference(p) for p in reversed(parts))))
    )
    lines = list(TextTree(80, 3, 4).lines(total))
    assert [line.split()[-3:] for line in lines[2:6]] == [[str(n), "=", str(n)] for n in (10, 9, 8, 7)]
    assert lines[-1] == "└─ 6 more = 21 together"


def test_a_formula_reads_as_it_is_computed() -> None:
    a, b, c = (Reference(Node(name, name, value)) for name, value in (("a", 6.0), ("b", 4.0), ("c", 2.0)))
    formula = Call("-", (a, Call("-", (b, Call("/", (a, Call("×", (b, c))))))))
    assert text(formula, lambda node: node.name) == "a - (b - a / (b × c))"
    assert evaluate(formula) == 2.75
    whole = Call("//", (Call("+", (a, b)), Call("^", (c, Constant(2)))))
    assert text(whole, lambda node: shown(node.value)) == "⌊(6 + 4) / 2 ^ 2⌋"
    assert evaluate(whole) == 2


@pytest.mark.parametrize(
    ("value", "unit", "reads"),
    [
        (0.00215, "s", "0.00215 s (2.15 ms)"),
        (12.5, "s", "12.5 s"),
        (3 * 2**30, "byte", "3221225472 byte (3 GiB)"),
        (312e12, "flop/s", "3.12e+14 flop/s"),
        (True, "", "true"),
    ],
)
def test_values_are_shown_in_base_units_first(value: float, unit: str, reads: str) -> None:
    assert with_unit(value, unit) == reads


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explain", *arguments, "--results", "no-results"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("_in_the_checkout")
class TestCommand:
    def test_prints_a_tree(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, EXAMPLE, "op:moe_dispatch:comm_bytes")
        assert (code, err) == (0, "")
        # 2 bytes × (top-k 2 × 4096 tokens / tp 16) copies × hidden 5120.
        assert out.startswith(
            "comm_bytes[stage 1, forward of a moe layer, moe_dispatch] = 5242880 byte (5 MiB)\n"
        )
        assert "= 2 × token_copies[stage 1] × hidden_size\n" in out
        assert "= 2 × 512 × 5120\n" in out

    def test_fits_the_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "70")
        _, out, _ = run(capsys, EXAMPLE, "op:expert_fc1:forward:seconds", "--depth", "3")
        assert max(map(len, out.splitlines())) <= 70

    def test_depth_0_is_the_number_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capsys, EXAMPLE, "iteration_seconds", "--depth", "0")
        assert len(out.splitlines()) == 1

    def test_json_holds_the_same_tree(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capsys, EXAMPLE, "peak_memory_bytes", "--format", "json", "--depth", "3")
        tree = json.loads(out)
        assert code == 0
        assert tree["name"] == "peak_memory_bytes"
        assert tree["children"][0]["children"][0]["numbers"]
        assert sum(part["value"] for part in tree["children"][0]["children"]) == tree["value"]

    @pytest.mark.parametrize(
        ("workload", "name", "message"),
        [
            (EXAMPLE, "iteration_second", "did you mean iteration_seconds"),
            (EXAMPLE, "op:moe_dispach:comm_bytes", "did you mean moe_dispatch"),
            (EXAMPLE, "op:moe_dispatch:com_bytes", "did you mean comm_bytes"),
            (EXAMPLE, "op:moe_dispatch:forwards:comm_bytes", "did you mean forward"),
            (EXAMPLE, "op:attention_norm:hbm_bytes", "op:attention_norm:backward:moe:hbm_bytes"),
            (EXAMPLE, "op:moe_dispatch", "needed: a cost column"),
            (EXAMPLE, "stage:7:seconds", "there is no stage 7"),
            (EXAMPLE, "stage:0:second", "did you mean seconds"),
            (EXAMPLE.replace("ws1024", "ws1025"), "mfu", f"did you mean {EXAMPLE}"),
            ("nothing", "mfu", "there is no workload nothing in the sweep; "),
        ],
    )
    def test_refuses_what_it_does_not_know(
        self, capsys: pytest.CaptureFixture[str], workload: str, name: str, message: str
    ) -> None:
        code, out, err = run(capsys, workload, name)
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err

    def test_refuses_depths_below_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, EXAMPLE, "mfu", "--depth", "-1", "--top", "0")
        assert code == 2
        assert len(err.splitlines()) == 2


@pytest.mark.usefixtures("_in_the_checkout")
def test_letters_that_the_terminal_lacks_are_written_as_numbers() -> None:
    words = [Path(sys.executable).parent / "moesweep", "explain", EXAMPLE, "mfu", "--results", "no-results"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\xd7" in done.stdout


def test_stages_and_workload_columns_have_explanations_too() -> None:
    book = ledger(0)
    row = book.memory.frame.filter(pl.col("stage") == 1).row(0, named=True)
    assert metric(book, "stage:1:activations_bytes").value == row["activations_bytes"]
    assert agrees(metric(book, "stage:1:tp_comm"))
    assert text(metric(book, "dp").reading.formula, lambda node: node.name) == (  # type: ignore[union-attr]
        "max(⌊world_size / (tp × cp × pp)⌋, 1)"
    )


def test_an_op_of_several_values_must_be_named_in_full() -> None:
    with pytest.raises(BadInput) as raised:
        metric(ledger(0), "op:core_attention:flops")
    assert "op:core_attention:forward:moe:flops" in raised.value.problems[0].suggestion
    forward = metric(ledger(0), "op:core_attention:forward:flops")
    again = metric(ledger(0), "op:core_attention:forward:moe:stage=1:flops")
    assert (forward.value, again.where) == (again.value, "stage 1, forward of a moe layer, core_attention")


def test_json_ends_at_its_depth() -> None:
    assert "children" not in as_json(metric(ledger(0), "mfu"), 0)


@pytest.mark.usefixtures("_in_the_checkout")
def test_the_examples_of_the_documentation_are_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "docs/explain.md").read_text(encoding="utf-8")
    examples = re.findall(r"```\n\$ moesweep explain (.+)\n([^`]+)```", page)
    assert len(examples) == 2
    for arguments, shown_there in examples:
        assert run(capsys, *arguments.split()) == (0, shown_there, "")
