"""Losses that balance experts: ops and bytes by hand, in both traces."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import foreign_files
from costing import cluster, costs
from explained import agrees, everything_below
from moesweep.cost.model import cost, with_constants
from moesweep.evaluate.batch import Batch
from moesweep.evaluate.costs import costed
from moesweep.explain.ledger import Ledger
from moesweep.explain.metrics import metric
from moesweep.export.simai_megatron import inexpressible
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.transformers import read_config
from moesweep.trace.programs import folded, programs
from naive_trace import naive_program
from public_configs import DEEPSEEK_V3
from small import DENSE, FSDP, small

LOSS, GLOBAL = "moe_router_load_balancing_type", "global_aux_loss"


def columnar(**changes: Any) -> list[dict[str, Any]]:
    """The first stage's rows as the library makes them."""
    return programs(small(**changes)).filter(stage=0).to_dicts()


def naive(**changes: Any) -> list[dict[str, Any]]:
    """The same as plain loops do."""
    return naive_program(small(**changes).row(0, named=True), 0)


def of_losses(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What the first layer's rows of a loss move."""
    columns = ("phase", "op", "hbm_bytes", "group_kind", "group_size", "comm_bytes", "wire_bytes")
    return [
        tuple(row[name] for name in columns) for row in rows if "balancing" in row["op"] and row["layer"] == 0
    ]


both = pytest.mark.parametrize("trace", [columnar, naive])


@both
def test_tokens_are_counted_over_who_shares_them(trace: Any) -> None:
    # 64 tokens over tp 2 and 4 experts: 26 and 28 B a logit, counts of 8 B summed over both ranks
    forward = ("forward", "balancing_loss", 26 * 32 * 4, None, 0, 0, 0)
    backward = ("backward", "balancing_loss", 28 * 32 * 4, None, 0, 0, 0)
    rows = [forward, ("forward", "balancing_loss_reduce", 0, "tp", 2, 32, 32), backward]
    assert of_losses(trace(**{LOSS: "aux_loss"})) == rows
    assert of_losses(trace(**{LOSS: "seq_aux_loss"})) == rows
    # Of two sequences each has its own counts.
    two = of_losses(trace(**{LOSS: "seq_aux_loss", "micro_batch_size": 2}))
    assert two[1] == ("forward", "balancing_loss_reduce", 0, "tp", 2, 64, 64)
    assert of_losses(trace(**{LOSS: "aux_loss", "micro_batch_size": 2}))[1] == rows[1]
    shared = {"cp": 2, "tp": 1, "flash_attention": True}
    assert of_losses(trace(**{LOSS: "aux_loss"} | shared))[1] == (
        *("forward", "balancing_loss_reduce", 0, "cp", 2, 32, 32),
    )
    # Ranks of one micro-batch are tp 2 x cp 2: 2 x 3/4 x 32 B each
    both_ways = {"cp": 2, "flash_attention": True, "world_size": 16}
    assert of_losses(trace(**{LOSS: "aux_loss"} | both_ways))[1] == (
        *("forward", "balancing_loss_reduce", 0, "tp_cp", 4, 32, 48),
    )
    alone = of_losses(trace(**{LOSS: "aux_loss", "tp": 1}))
    assert [row[1] for row in alone] == ["balancing_loss", "balancing_loss"]


@both
@pytest.mark.parametrize("cp", [1, 2])
def test_a_loss_of_global_batches_counts_over_a_stage(trace: Any, cp: int) -> None:
    """Of 16 ranks on 2 stages 8 sum 8 B for each of 4 experts: 2 x 7/8 x 32 B on the wire.

    Whether two of them have parts of one sequence moves the tokens of a rank alone.
    """
    rows = of_losses(trace(**{LOSS: GLOBAL, "world_size": 16, "cp": cp, "flash_attention": True}))
    assert rows == [
        ("forward", "balancing_loss", 26 * 32 // cp * 4, None, 0, 0, 0),
        ("forward", "balancing_loss_reduce", 0, "tp_cp_dp", 8, 32, 56),
        ("backward", "balancing_loss", 28 * 32 // cp * 4, None, 0, 0, 0),
    ]
    alone = {"world_size": 2, "tp": 1, "ep": 1, "global_batch_size": 8}
    assert [row[1] for row in of_losses(trace(**{LOSS: GLOBAL} | alone))] == ["balancing_loss"] * 2


def test_what_counting_over_a_stage_takes() -> None:
    """Of 8 ranks of a node at 100 GB/s, 56 B and 1 ms: two layers a stage, 4 micro-batches.

    A pass waits for it, but for what its host takes longer than its kernels; nothing else changes.
    """
    changes: dict[str, Any] = {"world_size": 16, "global_batch_size": 16, "tp": 2}
    slow = {"node_latency_8_seconds": 1e-3}
    with_loss = {kind: costs({LOSS: kind} | changes, **slow) for kind in (GLOBAL, "aux_loss")}
    once = 1e-3 + 56 / 100e9
    found, plain = (with_loss[kind].workloads.row(0, named=True) for kind in (GLOBAL, "aux_loss"))
    assert (found["num_microbatches"], found["pp"]) == (4, 2)
    assert found["other_comm_seconds"] - plain["other_comm_seconds"] == pytest.approx(4 * 2 * once)
    # tp ranks counted in 32 B and no time to speak of
    counted = 32 / 100e9
    assert plain["tp_comm_seconds"] - found["tp_comm_seconds"] == pytest.approx(4 * 2 * counted)
    longer = (4 + 1) * 2 * (once - counted)
    assert found["iteration_seconds"] - plain["iteration_seconds"] == pytest.approx(longer)
    # host of 10 ms a layer, kernels of much less: what is summed meanwhile costs nothing
    lazy = [costs({LOSS: kind} | changes, **slow, host_seconds=1e-2) for kind in (GLOBAL, "aux_loss")]
    first, second = (each.workloads["iteration_seconds"].item() for each in lazy)
    assert first == pytest.approx(second)


WORLDS = st.sampled_from([8, 16, 32, 64])


@settings(max_examples=6, deadline=None)
@given(
    worlds=st.lists(WORLDS, min_size=2, max_size=4),
    host=st.sampled_from([0.0, 1e-5, 1e-3]),
    blocking=st.booleans(),
    again=st.sampled_from(["none", "full"]),
    sharded=st.booleans(),
)
def test_what_is_evaluated_apart_is_what_rows_say(
    worlds: list[int], host: float, blocking: bool, again: str, sharded: bool
) -> None:
    """Workloads of several sizes, with losses of both kinds, in one batch: as each row by row."""
    values = cluster().values | {"host_seconds": host}
    options = {"blocking_launches": blocking, "recompute": again} | (FSDP if sharded else {})
    cases = [
        options | {LOSS: kind, "world_size": world, "global_batch_size": 64}
        for kind in (GLOBAL, "aux_loss")
        for world in worlds
    ]
    frames = [small(**case).with_columns(workload=pl.lit(f"{at}")) for at, case in enumerate(cases)]
    workloads = pl.concat(frames)
    found = costed(workloads, pl.DataFrame([values]))
    wanted = cost(folded(workloads), with_constants(workloads, values)).workloads
    for name in ("iteration_seconds", "other_comm_seconds", "exposed_comm_seconds", "dp_hidden_seconds"):
        assert found[name].to_list() == pytest.approx(wanted[name].to_list(), rel=1e-11, abs=1e-12), name
    by_world = dict(zip(worlds, found["other_comm_seconds"], strict=False))
    without = dict(zip(worlds, found["other_comm_seconds"][len(worlds) :], strict=True))
    assert all(by_world[world] > without[world] for world in worlds)


def test_other_sizes_do_not_split_passes() -> None:
    """Workloads without such a loss are evaluated as often beside one that has it as alone."""
    worlds = (8, 16, 32)
    frames = [small(world_size=world, global_batch_size=64) for world in worlds]
    alone = [frame.with_columns(workload=pl.lit(f"{at}")) for at, frame in enumerate(frames)]
    one = small(**{LOSS: GLOBAL}).with_columns(workload=pl.lit("global"))
    scope = ("moe", "forward")
    sizes = []
    for some in (alone, [*alone, one]):
        batch = Batch(pl.concat(some), pl.DataFrame([cluster().values]), np.zeros(len(some), dtype=np.int64))
        sizes.append(len(set(batch.passes(scope).codes.of[:3].tolist())))
    assert sizes == [1, 1]


def test_simai_s_passes_add_up_over_tp_alone() -> None:
    row = small(**{LOSS: GLOBAL}).row(0, named=True)
    (problem,) = inexpressible(row)
    assert (problem.path, problem.suggestion) == (LOSS, "only aux_loss")
    assert not inexpressible(row | {LOSS: "aux_loss"})


def test_its_seconds_have_an_explanation() -> None:
    ledger = Ledger(small(**{LOSS: GLOBAL}), cluster(), {})
    nodes = list(everything_below(metric(ledger, "other_comm_seconds")))
    assert [node.key for node in nodes if not agrees(node)] == []
    assert any("balancing_loss_reduce" in node.key for node in nodes)


@both
def test_biases_follow_the_tokens_of_a_stage_once_an_iteration(trace: Any) -> None:
    """Of 2 layers with 4 experts each 4 B a count; 9 B a logit of 32 tokens when experts are chosen."""
    rows = trace(moe_router_enable_expert_bias=True, world_size=16)
    bias = [row for row in rows if row["op"] == "expert_bias"]
    assert [(row["phase"], row["layer"], row["hbm_bytes"]) for row in bias] == [
        ("forward", layer, 9 * 32 * 4) for layer in (0, 1)
    ]
    (reduced,) = [row for row in rows if row["op"] == "expert_bias_reduce"]
    assert (reduced["group_kind"], reduced["group_size"], reduced["comm_bytes"]) == ("tp_cp_dp", 8, 2 * 4 * 4)
    assert (reduced["wire_bytes"], reduced["num_microbatches"]) == (56, 1)
    order = [row["op"] for row in rows]
    assert order[order.index("expert_bias_reduce") + 1] == "grad_norm"
    fused = trace(moe_router_enable_expert_bias=True, moe_router_fusion=True)
    assert next(row for row in fused if row["op"] == "expert_bias")["hbm_bytes"] == 32 * 4
    # A stage without experts has nothing to count.
    dense = trace(moe_router_enable_expert_bias=True, world_size=16, moe_layer_freq="[0,0,1,1]")
    assert "expert_bias_reduce" not in {row["op"] for row in dense}


@both
@pytest.mark.parametrize(
    "again", [{"recompute": "selective", "recompute_modules": "moe"}, {"recompute": "full"}]
)
def test_what_is_recomputed_counts_where_its_gradients_are(trace: Any, again: dict[str, Any]) -> None:
    """Megatron leaves the loss out of a pass that keeps nothing: what runs again has it alone."""
    rows = of_losses(trace(**{LOSS: "aux_loss"} | again))
    names = ["recompute_balancing_loss", "recompute_balancing_loss_reduce", "balancing_loss"]
    assert [row[:2] for row in rows] == [("backward", name) for name in names]


@both
def test_layers_that_are_not_recomputed_count_at_once(trace: Any) -> None:
    # Of the first stage's two layers and a module of prediction, alone on the last, blocks repeat the first.
    again = {"recompute": "full", "recompute_method": "block", "mtp_num_layers": 1, "pp": 1, "tp": 1}
    rows = trace(**{LOSS: "aux_loss", "cp": 2, "flash_attention": True} | again)
    found = [(row["layer"], row["phase"]) for row in rows if row["op"].endswith("balancing_loss_reduce")]
    assert found == [(1, "forward"), (2, "forward"), (3, "forward"), (4, "forward"), (0, "backward")]


def test_without_a_loss_or_experts_nothing_changes() -> None:
    assert folded(small()).rows() == folded(small(**{LOSS: "none"})).rows()
    assert folded(small(**DENSE)).rows() == folded(small(**DENSE | {LOSS: "aux_loss"})).rows()


@pytest.mark.parametrize("said", [True, False])
def test_a_bias_is_read_alike_from_recipes_and_checkpoints(said: bool) -> None:
    name = "moe_router_enable_expert_bias"
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {name: said}
    found = [read_recipe(recipe, "recipe.yaml"), read_config(DEEPSEEK_V3 | {name: said}, "config.json")]
    assert [(draft.model | draft.row)[name][0] for draft in found] == [said, said]
    assert not any(name in draft.unread or name in draft.idle for draft in found)


@pytest.mark.parametrize(
    ("said", "read", "unread"),
    [
        ("aux_loss", "aux_loss", None),
        (["seq_aux_loss"], "seq_aux_loss", None),
        ("global_aux_loss", "global_aux_loss", None),
        (["aux_loss", "global_aux_loss"], None, ["aux_loss", "global_aux_loss"]),
    ],
)
def test_a_recipe_s_loss_is_read(said: Any, read: Any, unread: Any) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {LOSS: said}
    draft = read_recipe(recipe, "recipe.yaml")
    assert (draft.row.get(LOSS, (None,))[0], draft.unread.get(LOSS)) == (read, unread)
