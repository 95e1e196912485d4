"""Megatron-FSDP worked out by hand: what it gathers, reduces, keeps and hides, and how long that takes.

Sources: Megatron-Core 0.16.1, `distributed/fsdp/src/megatron_fsdp`; docs/trace.md and
docs/costs.md "In shards".
"""

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costing import cluster, constants, costs
from explained import agrees, everything_below
from moesweep.cost.model import cost, with_constants
from moesweep.cost.sharding import beside_passes
from moesweep.evaluate.costs import costed
from moesweep.explain.ledger import Ledger
from moesweep.explain.metrics import metric
from moesweep.export.overlaps import inexpressible
from moesweep.shapes.sharding import gathered_elements, waiting_elements
from moesweep.shapes.states import least_state_bytes
from moesweep.store.tablefile import dtypes
from moesweep.study.runs import read_runs
from moesweep.study.validation import findings
from moesweep.trace.programs import folded, programs
from small import DENSE, FSDP, MODELS, small
from varied import VARIED

STRATEGY = "data_parallel_sharding_strategy"
STRATEGIES = ("optim", "optim_grads", "optim_grads_params")

# 4 layers of width 1024 on 8 GPUs, GELU of 4096: attention 4 h², MLP 8 h², two norms of 2 h
EIGHT: dict[str, Any] = (
    DENSE
    | FSDP
    | {
        **{"world_size": 8, "tp": 1, "pp": 1, "etp": 1, "global_batch_size": 16, "num_layers": 4},
        **{"hidden_size": 1024, "ffn_hidden_size": 4096, "seq_length": 1024, "flash_attention": True},
    }
)
LAYER = 12 * 1024 * 1024 + 4 * 1024
ENDS = 1024 * 1024 + 1024 * 1024 + 2 * 1024  # table of 1024 words, positions, last norm; the head is tied


def rows(changes: dict[str, Any], *words: str) -> list[tuple[Any, ...]]:
    """Op, phase, layer, group kind and bytes of collectives of the first stage whose name has a word."""
    found = programs(small(**changes)).filter(pl.col("stage") == 0, pl.col("comm_bytes") > 0)
    named = found.filter(pl.any_horizontal(pl.col("op").str.contains(word) for word in words))
    return named.select("op", "phase", "layer", "group_kind", "comm_bytes").rows()


@pytest.mark.parametrize("wide", [False, True])
def test_what_travels_in_a_micro_batch(wide: bool) -> None:
    bytes_ = 4 if wide else 2
    found = rows(EIGHT | {"grad_reduce_in_fp32": wide}, "layer_", "_reduce_dense", "param_gather", "grad_red")
    gathers = [("layer_gather_dense", "dp", 2 * LAYER)]
    there = [(op, "forward", layer, kind, size) for layer in range(4) for op, kind, size in gathers]
    back = [("head_reduce_dense", "backward", -1, "dp", bytes_ * 2 * 1024)]
    for layer in (3, 2, 1, 0):
        back += [(op, "backward", layer, kind, size) for op, kind, size in gathers]
        back.append(("layer_reduce_dense", "backward", layer, "dp", bytes_ * LAYER))
    back.append(("embedding_reduce_dense", "backward", -1, "dp", bytes_ * (ENDS - 2 * 1024)))
    assert found == [*there, *back, ("param_gather_dense", "optimizer", -1, "dp", 2 * ENDS)]
    assert rows(EIGHT | {"tied_embeddings": False}, "head_reduce")[0][-1] == 2 * (1024 * 1024 + 2 * 1024)


def test_gradients_alone() -> None:
    found = rows(EIGHT | {STRATEGY: "optim_grads"}, "layer_", "param_gather", "grad_red")
    reduced = [("layer_reduce_dense", "backward", layer, "dp", 2 * LAYER) for layer in (3, 2, 1, 0)]
    assert found == [*reduced, ("param_gather_dense", "optimizer", -1, "dp", 2 * (4 * LAYER + ENDS))]


def test_states_alone_are_the_distributed_optimizer() -> None:
    plain = programs(small(**EIGHT | {"use_megatron_fsdp": False, "grad_reduce_in_fp32": False}))
    assert programs(small(**EIGHT | {STRATEGY: "optim"})).equals(plain)


def test_experts_go_over_their_own_ranks() -> None:
    # 16 ranks, tp 2, pp 2: 4 hold the same dense parameters, 2 the same experts
    found = rows(FSDP, "layer_")
    # attention 4·64²/2, four vectors of 64, the router of 4; 2 local experts of 2·64·256/2
    dense, expert = 4 * 64 * 64 // 2 + 4 * 64 + 4 * 64, 2 * 2 * 64 * 256 // 2
    assert {row[1:2] + row[3:] for row in found if row[0].endswith("_dense")} == {
        (phase, "dp", 2 * dense) for phase in ("forward", "backward")
    }
    assert {row[3:] for row in found if row[0].endswith("_expert")} == {("edp", 2 * expert)}
    # experts that nobody else has stay
    assert not rows(FSDP | {"ep": 4}, "_expert")


def test_what_is_added_up_later_lies_in_shards() -> None:
    plain = {"use_megatron_fsdp": False, "grad_reduce_in_fp32": False}
    for op in ("norm_grad_reduce", "embedding_grad_reduce"):
        ((*_, whole),), ((*_, shard),) = rows(plain, op), rows(FSDP | {STRATEGY: "optim"}, op)
        assert shard == 2 * -(-whole // 2 // 4)


def test_a_pass_with_its_neighbours() -> None:
    """Inside a node at 100 GB/s: s = 7/8 of the bytes over that; 3 of 4 layers have something beside them."""
    plain = costs(EIGHT | {STRATEGY: "optim"}, dp_overlap=0.8)
    found = costs(EIGHT, dp_overlap=0.8)
    s = {"forward": 2 * LAYER * 7 / 8 / 100e9, "backward": 4 * LAYER * 7 / 8 / 100e9}
    for phase, seconds in s.items():
        at = {"phase": phase, "layer_kind": "dense"}
        busy = plain.passes.filter(**at)["seconds"].item()
        hidden = 0.8 * 0.75 * min(seconds, busy)
        row = found.passes.filter(**at).row(0, named=True)
        assert row["seconds"] == pytest.approx(busy + seconds - hidden)
        assert row["dp_comm"] == pytest.approx(seconds)
        assert (row["dp_hidden"], row["edp_hidden"]) == (pytest.approx(hidden), 0)
    ends = found.passes.filter(phase="backward").filter(pl.col("layer_kind").is_null()).row(0, named=True)
    busy = plain.passes.filter(phase="backward").filter(pl.col("layer_kind").is_null())["seconds"].item()
    head, embedding = (2 * size * 7 / 8 / 100e9 for size in (2 * 1024, ENDS - 2 * 1024))
    assert ends["seconds"] == pytest.approx(busy + 0.2 * head + embedding)
    assert ends["dp_hidden"] == pytest.approx(0.8 * head)


def test_an_iteration() -> None:
    """Two micro-batches of four layers; the tail gathers what is in no layer."""
    found = costs(EIGHT, dp_overlap=1.0).workloads.row(0, named=True)
    wire = 7 / 8 / 100e9
    each = 4 * (2 + 2 + 2) * LAYER + 2 * ENDS
    total = (2 * each + 2 * ENDS) * wire
    assert found["dp_comm_seconds"] == pytest.approx(total)
    parts = ("compute_seconds", "exposed_comm_seconds", "bubble_seconds", "optimizer_seconds")
    assert sum(found[part] for part in parts) == pytest.approx(found["iteration_seconds"])
    # all is shorter than kernels: a quarter of the layers' waits, the embedding's, and the end
    assert found["dp_hidden_seconds"] == pytest.approx(
        (2 * (0.75 * 4 * 6 * LAYER + 2 * 2 * 1024)) * wire, rel=1e-9
    )
    assert found["validated"] == "outside"
    assert "parameters or gradients sharded" in found["validated_why"]


@settings(max_examples=50)
@given(
    busy=st.floats(0, 10),
    dp=st.floats(0, 10),
    edp=st.floats(0, 10),
    layers=st.integers(1, 99),
    head=st.floats(0, 1),
)
def test_no_pass_is_shorter_than_either(busy: float, dp: float, edp: float, layers: int, head: float) -> None:
    values = {"seconds": busy, "exposed": 0.0, "dp_sharded": dp, "edp_sharded": edp, "head_reduced": head}
    values |= {"embedding_reduced": 0.0, "dp_overlap": 1.0, "pp": 1, "virtual_pipeline": 1}
    row = pl.DataFrame([values | {"num_layers": layers, **FSDP, STRATEGY: STRATEGIES[2]}])
    found = row.select(**beside_passes({name: pl.col(name) for name in ("seconds", "exposed")})).row(
        0, named=True
    )
    assert max(busy, dp + edp) - 1e-12 <= found["seconds"] <= busy + dp + edp + 1e-12
    hidden = found["dp_hidden"] + found["edp_hidden"]
    assert found["seconds"] + hidden == pytest.approx(busy + dp + edp + head)
    if layers == 1:
        assert hidden == pytest.approx(head)


# Of one stage of 12 layers, all that is in them on a rank: L a layer, and 1 G around them.
@pytest.mark.parametrize(
    ("hidden", "gathered", "waiting"),
    [
        # 12 h² = 201 M: itself and three that hold 500 M; four in a G of 1 G, one being reduced, one at work
        (4096, 1 + 3, 4 + 2),
        # 805 M: itself and one; two of them (2 L are more than 1 G) and two
        (8192, 1 + 1, 2 + 2),
        # 50 M: itself and ten; all there are, where 19 could wait
        (2048, 1 + 10, 12),
    ],
)
def test_what_is_whole_beside_shards(hidden: int, gathered: int, waiting: int) -> None:
    changes = EIGHT | {"hidden_size": hidden, "ffn_hidden_size": 4 * hidden, "num_layers": 12}
    layer, around = 12 * hidden**2 + 4 * hidden, (1024 + 1024 + 2) * hidden
    memory = costs(changes).memory.row(0, named=True)
    owned = -(-(12 * layer + around) // 8)
    assert memory["weights_bytes"] == 2 * (owned + around + gathered * layer)
    more = around if waiting == 12 else 0
    assert memory["gradients_bytes"] == pytest.approx(2 * (owned + waiting * layer + more) + 4 * owned)
    assert memory["optimizer_bytes"] == 12 * owned
    graded = costs(changes | {STRATEGY: "optim_grads"}).memory.row(0, named=True)
    assert graded["weights_bytes"] == 2 * (12 * layer + around)
    assert graded["gradients_bytes"] == memory["gradients_bytes"]


def test_experts_that_nobody_else_has_are_whole_anyway() -> None:
    alone = costs(FSDP | {"ep": 4, "pp": 1, "global_batch_size": 16}).memory
    found = alone.select(gathered=gathered_elements(pl.col("parameters"))).item()
    # 16 ranks, tp 2, ep 4: experts' groups of 2 ranks; with 8 experts on 8 ranks none
    eight = FSDP | {"ep": 8, "num_experts": 8, "pp": 1, "global_batch_size": 16}
    none = costs(eight).memory
    own = none.select(gathered_elements(pl.col("parameters")), waiting_elements(pl.col("parameters"))).row(0)
    # four layers of attention, norms and the router of 8; table, positions and norm; no experts
    dense = 4 * (4 * 64 * 64 // 2 + 4 * 64 + 8 * 64) + 1024 * 64 // 2 + 64 * 64 + 2 * 64
    assert own == (dense, dense)
    assert found > dense
    # Two tp ranks, and whole experts on both: four layers of four experts alone are shared.
    two = FSDP | {"world_size": 2, "tp": 2, "etp": 1, "ep": 1, "pp": 1, "global_batch_size": 4}
    shared = costs(two).memory.select(
        gathered_elements(pl.col("parameters")), waiting_elements(pl.col("parameters"))
    )
    assert shared.row(0) == (4 * 4 * 8 * 64 * 64,) * 2


_OTHERS = {"fp8", "use_megatron_fsdp", "use_precision_aware_optimizer", "fine_grained_activation_offloading"}
LEGAL = {name: case for name, case in (VARIED | MODELS).items() if not _OTHERS & case.keys()}


@cache
def sharded_names() -> list[str]:
    """Every seventh of them that may be sharded whole."""
    frames = (small(**LEGAL[name] | FSDP).with_columns(workload=pl.lit(name)) for name in list(LEGAL)[::7])
    workloads = pl.concat(frames)
    broken = findings(workloads).filter(severity="error")["workload"]
    names = workloads.filter(~pl.col("workload").is_in(broken.implode()))["workload"].to_list()
    assert len(names) > 6
    return names


@cache
def every(strategy: str | None) -> pl.DataFrame:
    """Them, resolved, with a strategy or none; gradients are of fp32."""
    sharded = {} if strategy is None else FSDP | {STRATEGY: strategy}
    return pl.concat(
        small(**LEGAL[name] | {"grad_reduce_in_fp32": True} | sharded).with_columns(workload=pl.lit(name))
        for name in sharded_names()
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_flops_stay_and_bytes_are_conserved(strategy: str) -> None:
    plain, found = programs(every(None)), programs(every(strategy))
    same = ["workload", "op", "phase", "layer", "kind", "m", "n", "k", "groups", "flops", "num_microbatches"]
    kernels = [frame.filter(pl.col("collective").is_null()).select(same) for frame in (found, plain)]
    assert kernels[0].equals(kernels[1])
    mine = pl.col("group_kind").is_in(["dp", "edp"])
    own, before = found.filter(mine), plain.filter(mine)
    assert found.filter(~mine).height == plain.filter(~mine).height

    def bytes_of(frame: pl.DataFrame, collective: str, *, without: str = "") -> dict[Any, int]:
        """Bytes of a workload's stages and communicators; what is gathered anew in backward counts once."""
        named = frame.filter(pl.col("collective") == collective, pl.col("phase") != without)
        sums = named.group_by("workload", "stage", "group_kind").agg(pl.col("comm_bytes").sum())
        return {tuple(row[:3]): row[3] for row in sums.iter_rows()}

    assert bytes_of(own, "reduce_scatter") == bytes_of(before, "reduce_scatter")
    assert bytes_of(own, "all_gather", without="backward") == bytes_of(before, "all_gather")
    if strategy == "optim_grads_params":
        both = [own.filter(collective="all_gather", phase=phase) for phase in ("forward", "backward")]
        assert both[0].height == both[1].height > 0
        assert both[0]["comm_bytes"].sum() == both[1]["comm_bytes"].sum()


def test_shards_take_less_and_layers_no_more_than_all() -> None:
    values = cluster("dgx-b200-180gb-8xndr400").values
    found = {strategy: costed(every(strategy), pl.DataFrame([values])) for strategy in STRATEGIES}
    least = {strategy: every(strategy).select(least_state_bytes()).to_series() for strategy in STRATEGIES}
    for part, shards in (("weights", 2), ("gradients", 4)):
        name = f"{part}_bytes"
        most = found["optim"][name] + shards * found["optim"]["optimizer_bytes"] / 12
        for strategy in STRATEGIES[1:]:
            # Another stage may be the fullest one, which has other weights.
            alike = found[strategy]["activations_bytes"] == found["optim"]["activations_bytes"]
            assert alike.sum() > 6
            assert ((found[strategy][name] <= most + 1e-6) | ~alike).all()
    assert (least["optim"] >= least["optim_grads"]).all()
    assert (least["optim_grads"] >= least["optim_grads_params"]).all()
    assert least["optim"].sum() > least["optim_grads_params"].sum()
    for strategy in STRATEGIES:
        states = found[strategy].select(
            pl.sum_horizontal("weights_bytes", "gradients_bytes", "optimizer_bytes")
        )
        assert (states.to_series() >= least[strategy] - 1e-6).all()
        assert found[strategy]["model_flops_per_second_per_gpu"].is_not_null().all()


CASES = {name: case for name, case in MODELS.items() if "use_megatron_fsdp" in case}
ROUTED = {"zipf": FSDP | {"routing": "zipf(alpha=1,seed=1)", "num_layers": 8}}


def agree(cases: dict[str, dict[str, Any]], wanted: pl.DataFrame) -> None:
    """Hold the factored form against rows."""
    workloads = pl.concat(small(**case).with_columns(workload=pl.lit(name)) for name, case in cases.items())
    found = costed(workloads, pl.DataFrame([cluster().values]))
    for name, dtype in dtypes("costs").items():
        if dtype == pl.Float64:
            assert found[name].to_list() == pytest.approx(wanted[name].to_list(), rel=1e-11, abs=1e-12), name


def test_both_forms_of_the_engine_agree() -> None:
    cases = CASES | {f"{name}, in whole": case | {"use_megatron_fsdp": False} for name, case in CASES.items()}
    cases = {
        name: {key: value for key, value in case.items() if key != STRATEGY or case["use_megatron_fsdp"]}
        for name, case in cases.items()
    }
    frames = (small(**case).with_columns(workload=pl.lit(name)) for name, case in cases.items())
    workloads = pl.concat(frames)
    agree(cases, cost(folded(workloads), with_constants(workloads, cluster().values)).workloads)


def test_other_constants_move_sharded_passes() -> None:
    workloads = small(**EIGHT)
    values = [constants(), constants(dp_overlap=0.0), constants(node_link_bytes_per_second=50e9)]
    frame = pl.DataFrame([{"cluster": f"{i}"} | each for i, each in enumerate(values)])
    asked = pl.concat(workloads.with_columns(cluster=pl.lit(f"{i}")) for i in range(3))
    found = costed(asked, frame)["iteration_seconds"].to_list()
    alone = [costed(workloads, pl.DataFrame([each]))["iteration_seconds"].item() for each in values]
    assert found == pytest.approx(alone, rel=1e-12)
    assert found[1] > found[0]


@pytest.mark.parametrize(
    ("wanted", "through"),
    [("iteration_seconds", "sharded_overlap"), ("peak_memory_bytes", "waiting_elements")],
)
def test_numbers_have_explanations(wanted: str, through: str) -> None:
    ledger = Ledger(small(**EIGHT), cluster(), {})
    nodes = list(everything_below(metric(ledger, wanted)))
    assert [node.key for node in nodes if not agrees(node)] == []
    assert through in {node.name for node in nodes}


def test_formats_that_run_one_op_after_the_other_refuse_it() -> None:
    row = small(**EIGHT).row(0, named=True)
    for format_ in ("simai", "chakra", "goal", "perfetto", "unrolled"):
        (problem,) = inexpressible(format_, row)
        assert (problem.path, problem.suggestion) == (STRATEGY, "only optim")
        assert not inexpressible(format_, row | {STRATEGY: "optim"})
    assert not inexpressible("htsim", row)


def test_a_list_of_runs_says_it(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    head = "cluster,model,world_size,ep,global_batch_size,seq_length,use_megatron_fsdp,"
    lines = [f"c,mixtral_8x7B,16,8,64,4096,{on},{strategy}\n" for on, strategy in ((1, ""), (0, "optim"))]
    path.write_text(f"{head}{STRATEGY}\n{''.join(lines)}", encoding="utf-8")
    found = read_runs(path, ["c"], root)
    assert {row: [each.rule for each in problems] for row, problems in found.problems.items()} == {
        1: ["strategy_of_fsdp"]
    }
    assert found.workloads.select("use_megatron_fsdp", STRATEGY).rows() == [(True, "optim_grads_params")]
