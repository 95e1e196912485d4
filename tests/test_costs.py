"""Costs worked out by hand, with round constants: 100 Tflop/s, 1 TB/s of memory, 100 GB/s inside a node."""

import os
import subprocess
import sys
from typing import Any

import polars as pl
import pytest

from costing import ROOT, constants, costs, seconds
from moesweep.cost.compute import wave_efficiency
from moesweep.cost.fold import KEY, fold
from moesweep.cost.model import cost, with_constants
from moesweep.cost.timing import Timing
from moesweep.trace.programs import folded, programs
from sampled import sampled
from small import DENSE, VARIED, small

# tp 4, one stage: bs = 1024 tokens, h 1024, f 4096
WIDE: dict[str, Any] = DENSE | {
    "world_size": 4,
    "tp": 4,
    "pp": 1,
    "global_batch_size": 2,
    "seq_length": 1024,
    "hidden_size": 1024,
    "ffn_hidden_size": 4096,
    "num_layers": 1,
}
MOE = WIDE | {"num_experts": 4, "moe_router_topk": 2, "world_size": 16, "ep": 4, "global_batch_size": 8}


def waves(m: int, n: int, batch: int = 1, **changes: float) -> float:
    frame = pl.DataFrame([constants(**changes)])
    literal = [pl.lit(float(x)) for x in (m, n, batch)]
    return float(frame.select(wave_efficiency(*literal)).item())


@pytest.mark.parametrize(
    ("m", "n", "batch", "share"),
    [
        # 10 x 10 tiles of 256 x 128: exactly one wave of 100
        (2560, 1280, 1, 1.0),
        # 101 tiles of 256 x 128 take two waves, half of them idle; 404 of 128 x 64 take five: 404/500
        (256 * 101, 128, 1, 404 / 500),
        # a lone row still takes a whole tile, the smallest of 128 x 64, and a whole wave
        (1, 64, 1, 64 / (100 * 128 * 64)),
        # 25 products of 4 tiles share one wave
        (512, 256, 25, 1.0),
    ],
)
def test_waves_of_tiles(m: int, n: int, batch: int, share: float) -> None:
    assert waves(m, n, batch) == pytest.approx(share)


def test_gemm_on_the_real_gpu() -> None:
    # m 4096, n 960 on 108 processors. 128 x 128: 32 x 8 = 256 tiles, 3 waves, 4096 x 960/(324 x 16384)
    # = 0.7407, x 0.952 = 0.7052; 256 x 128 and 128 x 256: 128 tiles, 2 waves, 0.5556; 128 x 64: 480 tiles,
    # 5 waves, 0.8889 x 0.544 = 0.4836.
    real = {
        "streaming_multiprocessors": 108.0,
        "gemm_tile_128x128_efficiency": 0.952,
        "gemm_tile_128x64_efficiency": 0.544,
    }
    assert waves(4096, 960, **real) == pytest.approx(0.952 * 4096 * 960 / (324 * 128 * 128))


def test_gemm_takes_the_longer_of_arithmetic_and_memory() -> None:
    found = costs(WIDE)
    # fc1: 2 x 1024 x 1024 x 1024 flops. 128 x 64 tiles: 8 x 16 = 128, two waves: 1024^2/(200 x 8192) = 0.64
    assert seconds(found, "fc1") == pytest.approx(2 * 1024**3 / (100e12 * 0.64))
    slow = costs(WIDE, hbm_bytes_per_second=1e9)
    # 3 x 1024^2 elements of 2 bytes at 1 GB/s
    assert seconds(slow, "fc1") == pytest.approx(3 * 1024**2 * 2 / 1e9)
    assert slow.ops.filter(pl.col("op") == "fc1")["bound"].item() == "memory"


def test_directions_have_their_own_efficiencies() -> None:
    even = costs(WIDE)
    half = costs(WIDE, gemm_wgrad_efficiency=0.5, gemm_dgrad_efficiency=0.25)
    assert seconds(half, "fc1") == seconds(even, "fc1")
    assert seconds(half, "fc1_dgrad", "backward") == pytest.approx(4 * seconds(even, "fc1_dgrad", "backward"))
    assert seconds(half, "fc1_wgrad", "backward") == pytest.approx(2 * seconds(even, "fc1_wgrad", "backward"))


def test_a_launch_is_the_least() -> None:
    found = costs(WIDE | {"seq_length": 4, "global_batch_size": 1}, kernel_seconds=4e-6)
    # 4 tokens of 1024 elements, 2 of them here: 4 bytes each in memory
    assert seconds(found, "attention_norm") == pytest.approx(4e-6 + 4 * 1 * 1024 / 1e12)
    assert found.ops.filter(pl.col("op") == "attention_norm")["bound"].to_list() == ["latency", "latency"]


@pytest.mark.parametrize(
    ("arithmetic", "memory", "launch", "extra", "seconds", "bound"),
    [
        (3, 2, 1, 0, 4, "compute"),
        (2, 3, 1, 0, 4, "memory"),
        (3, 2, 1, 2, 6, "memory"),
        # of equals arithmetic, then memory
        (3, 2, 1, 1, 5, "compute"),
        (2, 3, 3, 0, 6, "memory"),
        (2, 3, 4, 0, 7, "latency"),
        (1, 1, 3, 1, 5, "latency"),
    ],
)
def test_the_largest_part_bounds_an_op(
    arithmetic: int, memory: int, launch: int, extra: int, seconds: int, bound: str
) -> None:
    found = Timing.roofline(pl.lit(arithmetic), pl.lit(memory), pl.lit(launch), pl.lit(extra))
    assert pl.select(found.seconds, bound=found.bound).row(0) == (seconds, bound)


@pytest.mark.parametrize(
    ("ways", "seconds", "bound"),
    [
        ([(1, 2)], 3, "bandwidth"),
        ([(2, 1)], 3, "latency"),
        ([(2, 2)], 4, "latency"),
        ([(2, 2), (2, 1)], 3, "latency"),
        # of equals the first
        ([(1, 3), (3, 1)], 4, "bandwidth"),
        ([(3, 1), (1, 3)], 4, "latency"),
    ],
)
def test_the_fastest_way_counts(ways: list[tuple[int, int]], seconds: int, bound: str) -> None:
    found = Timing.fastest(
        {str(place): (pl.lit(latency), pl.lit(transfer)) for place, (latency, transfer) in enumerate(ways)}
    )
    assert pl.select(found.seconds, bound=found.bound).row(0) == (seconds, bound)


def test_grouped_gemm_is_a_batch_of_its_experts() -> None:
    found = costs(MOE, grouped_gemm_efficiency=0.5)
    # one expert of 2048 rows, n 1024, k 1024. 256 x 128 and 128 x 256: 64 tiles, one wave, 0.64; 128 x 128:
    # 128 tiles, two waves, 0.64; 128 x 64: 256 tiles, three waves, 2048 x 1024/(300 x 8192) = 0.853
    assert seconds(found, "expert_fc1") == pytest.approx(
        2 * 2048 * 1024 * 1024 / (100e12 * 0.5 * 2048 * 1024 / (300 * 8192))
    )


def test_unfused_attention_moves_its_scores() -> None:
    found = costs(WIDE, attention_gemm_efficiency=0.5)
    # 2 heads of 128 here, 1024 x 1024 scores each. Scores, 128 x 64: 2 x 8 x 16 = 256 tiles, three waves;
    # output [1024, 128]: 2 x 8 x 2 = 32 tiles, one wave
    flops = 2 * 2 * 1024 * 1024 * 128
    products = flops / (100e12 * 0.5) * (300 * 8192 / (2 * 1024**2) + 100 * 8192 / (2 * 1024 * 128))
    memory = 9 * 2 * 1024**2 + 2 * 1024 * (3 * 1024 // 4) + 2 * 1024 * 1024 // 4
    assert seconds(found, "core_attention") == pytest.approx(products + memory / 1e12)


def test_flash_attention_needs_heads() -> None:
    found = costs(
        WIDE | {"flash_attention": True}, flash_forward_efficiency=0.5, flash_forward_half_heads=2.0
    )
    # causal: 2 b s^2 h/t flops at 0.5 of peak, and 2 heads of 2 + 2
    memory = 2 * 1024 * (3 * 1024 // 4) + 2 * 1024 * 1024 // 4
    assert seconds(found, "core_attention") == pytest.approx(
        2 * 1024**2 * 256 / (100e12 * 0.5 * 0.5) + memory / 1e12
    )


def test_rings_inside_a_node() -> None:
    found = costs(WIDE, node_latency_4_seconds=1e-5)
    # T = 2 x 1024 x 1024 bytes, 3/4 of it on the wire at 100 GB/s, half an all_reduce's latency
    assert seconds(found, "attention_gather") == pytest.approx(0.5e-5 + 0.75 * 2 * 1024**2 / 100e9)
    assert seconds(found, "embedding_reduce") == pytest.approx(1e-5 + 2 * 0.75 * 2 * 1024**2 / 100e9)


@pytest.mark.parametrize(
    ("tp", "world", "share"),
    # One ring of 16 has the 80 GB/s of its nodes' eight NICs; data-parallel rings over two nodes share them.
    [(16, 16, 80e9), (8, 16, 10e9), (4, 16, 20e9)],
)
def test_rings_across_nodes_share_nics(tp: int, world: int, share: float) -> None:
    changes = WIDE | {"tp": tp, "world_size": world, "global_batch_size": 16, "num_attention_heads": 16}
    found = costs(changes)
    op, phase = ("attention_gather", "forward") if tp == 16 else ("grad_reduce_dense", "optimizer")
    row = found.ops.filter((pl.col("op") == op) & (pl.col("phase") == phase)).row(0, named=True)
    assert row["seconds"] == pytest.approx(row["wire_bytes"] / share)


def test_latency_of_a_ring_across_nodes() -> None:
    changes = WIDE | {"tp": 16, "world_size": 16, "num_attention_heads": 16}
    found = costs(changes, ring_base_seconds=1.0, node_hop_seconds=0.1, network_hop_seconds=10.0)
    # 15 steps between 16 ranks, one of them from node to node
    assert seconds(found, "attention_gather") == pytest.approx(1 + 14 * 0.1 + 10, rel=1e-3)
    low = costs(changes, ring_base_seconds=1.0, ll_network_hop_seconds=0.5, ll_bytes_per_second=1e12)
    # the low-latency protocol at half the bandwidth is the faster one
    expected = 0.5 + seconds(costs(changes), "attention_gather") * 2
    assert seconds(low, "attention_gather") == pytest.approx(expected)


def test_all_to_all_over_four_nodes() -> None:
    changes = MOE | {"world_size": 64, "tp": 4, "etp": 4, "ep": 4, "num_experts": 4, "global_batch_size": 16}
    found = costs(changes, all_to_all_latency_seconds=1e-3, all_to_all_efficiency=0.5)
    # ep ranks stand 4 apart, two a node. Of kT/t bytes a quarter goes to the neighbour, half beyond
    buffer = 2 * 2 * 1024 * 1024 // 4
    assert seconds(found, "moe_dispatch") == pytest.approx(1e-3 + buffer / 2 / (10e9 * 0.5))


BOTH = ("balanced", "uncontrolled")


def test_busiest_rank_of_uncontrolled_routing() -> None:
    even = costs(MOE, expert_load_variation=0.5)
    uneven = costs(MOE | {"routing": "uncontrolled"}, expert_load_variation=0.5)
    # four ranks of one expert each: 1 + 0.5 x 0.564 x 2^0.8; of four each, whose mean scatters half as much
    share = 1 + 0.5 * 0.564 * 2**0.8
    several = [costs(MOE | {"num_experts": 16, "routing": of}, expert_load_variation=0.5) for of in BOTH]
    assert seconds(several[1], "moe_dispatch") / seconds(several[0], "moe_dispatch") == pytest.approx(
        1 + 0.25 * 0.564 * 2**0.8
    )
    for op in ("expert_fc1", "moe_dispatch", "expert_activation"):
        assert seconds(uneven, op) == pytest.approx(share * seconds(even, op))
    assert seconds(uneven, "qkv") == seconds(even, "qkv")


def test_uneven_parts_are_gathered_by_one_broadcast_each() -> None:
    # over etp 4: on the wire n parts for n - 1, of a rank with 1 + 0.5 x 0.564 of the rows (of two ep ranks)
    changes = MOE | {"etp": 4, "ep": 2, "num_experts": 2, "world_size": 8}
    gathers = [
        seconds(costs(changes | {"routing": routing}, expert_load_variation=0.5), "expert_gather")
        for routing in BOTH
    ]
    assert gathers[1] / gathers[0] == pytest.approx(4 / 3 * (1 + 0.5 * 0.564))


@pytest.mark.parametrize(("world_size", "bandwidth"), [(8, 100e9), (16, 10e9)])
def test_a_message_to_the_next_stage(world_size: int, bandwidth: float) -> None:
    # 1024 tokens of 1024 in bf16, a quarter on each of 4 tp ranks; over the card beyond 8 GPUs
    changes = WIDE | {"pp": 2, "num_layers": 2, "world_size": world_size, "global_batch_size": 8}
    found = costs(changes, p2p_latency_seconds=1e-3, p2p_efficiency=0.5)
    expected = 1e-3 + 2 * 1024 * 1024 / 4 / (0.5 * bandwidth)
    assert seconds(found, "send_forward") == pytest.approx(expected)


@pytest.mark.parametrize(("routing", "variation"), [("aux_loss", 0.01 * 4 / 2), ("bias", 0.3)])
def test_busiest_rank_by_what_evens_the_load(routing: str, variation: float) -> None:
    """Four ranks of one expert each; a loss leaves 0.01 for each of the E/k experts per expert of a token."""
    moved = {"aux_loss_load_variation": 0.01, "bias_load_variation": 0.3}
    found = costs(MOE | {"routing": routing}, **moved)
    share = 1 + variation * 0.564 * 2**0.8
    for op in ("expert_fc1", "moe_dispatch"):
        assert seconds(found, op) == pytest.approx(share * seconds(costs(MOE, **moved), op))


def test_host_sets_the_pace_of_small_layers() -> None:
    found = costs(WIDE, host_seconds=1.0, host_backward_ratio=0.5, tp_skew_seconds=0.01).workloads.row(
        0, named=True
    )
    # two micro-batches; forward 4 collectives of 3 peers, backward 6 (4 all_gathers and 2 reduce_scatters)
    assert found["compute_seconds"] + found["exposed_comm_seconds"] == pytest.approx(
        2 * (1 + 0.01 * 3 * 4 + 0.5 + 0.01 * 3 * 6), rel=1e-2
    )


def test_host_launches_a_layer_with_experts_for_longer() -> None:
    """With biases more for each expert of the rank: of 4 over ep 4 one, over ep 2 two."""
    host = {"host_seconds": 1.0, "host_experts_seconds": 3.0, "host_expert_seconds": 0.5}
    host |= {"host_backward_ratio": 0.5, "host_2021_seconds": 2.0, "host_2021_backward_ratio": 0.25}

    def pass_seconds(**changes: Any) -> list[float]:
        passes = costs(MOE | {"add_bias_linear": True} | changes, **host).passes.filter(
            pl.col("layer_kind") == "moe"
        )
        return passes["seconds"].unique(maintain_order=True).to_list()

    assert pass_seconds() == pytest.approx([4.5, 2.25])
    assert pass_seconds(add_bias_linear=False) == pytest.approx([4.0, 2.0])
    assert pass_seconds(ep=2) == pytest.approx([5.0, 2.5])
    assert pass_seconds(framework="megatron-lm") == pytest.approx([5.5, 1.375])
    # what is recomputed is launched again, before gradients are
    assert pass_seconds(recompute="full") == pytest.approx([4.5, 2.25 + 4.5])


def test_graphs_take_launches_from_the_host() -> None:
    """3 s of attention and MLP, 4 more of experts: each as far as graphs hold it; a dense layer's at once."""
    host = {"host_seconds": 3.0, "host_experts_seconds": 4.0, "host_backward_ratio": 0.5}
    whole = {"moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": True}

    def forward(kind: str, **changes: Any) -> float:
        base = (MOE | whole if kind == "moe" else WIDE) | {"cuda_graph_impl": "local"}
        passes = costs(base | changes, **host).passes.filter(layer_kind=kind)
        first, second = passes["seconds"].unique(maintain_order=True).to_list()
        assert second == pytest.approx(first / 2, rel=1e-2, abs=0.1)
        return float(first)

    quick = pytest.approx(0, abs=0.1)
    assert forward("moe", cuda_graph_impl="none") == pytest.approx(7)
    assert forward("moe") == quick
    assert forward("moe", cuda_graph_scope="attn+moe_router") == pytest.approx(4)
    assert forward("moe", cuda_graph_scope="moe") == pytest.approx(3)
    assert forward("dense", cuda_graph_scope="attn") == pytest.approx(3)
    assert forward("dense", cuda_graph_scope="attn+mlp") == forward("dense") == quick


def test_blocking_launches_add_up() -> None:
    free = costs(WIDE).workloads["iteration_seconds"].item()
    bound = costs(WIDE | {"blocking_launches": True}, host_seconds=1.0, host_backward_ratio=1.0)
    # a second more for each of the two passes of two micro-batches through one layer
    assert bound.workloads["iteration_seconds"].item() == pytest.approx(free + 4)


def test_backward_collectives_hide_behind_gemms() -> None:
    slow = {"node_bus_4_bytes_per_second": 1e9}
    shown = costs(WIDE, **slow)
    hidden = costs(WIDE, **slow, tp_overlap=0.5)
    # qkv, fc1 and logits: half of what their data- and weight-gradient GEMMs last, as they are shorter
    gemms = [f"{linear}_{kind}" for linear in ("qkv", "fc1", "logits") for kind in ("dgrad", "wgrad")]
    saved = 2 * 0.5 * sum(seconds(shown, gemm, "backward") for gemm in gemms)
    before, after = (found.workloads["exposed_comm_seconds"].item() for found in (shown, hidden))
    assert before - after == pytest.approx(saved)
    assert shown.workloads["tp_comm_seconds"].item() == hidden.workloads["tp_comm_seconds"].item()


def test_price_and_throughput() -> None:
    found = costs(WIDE).workloads.row(0, named=True)
    rate = 2 * 1024 / 4 / found["iteration_seconds"]
    assert found["tokens_per_second_per_gpu"] == pytest.approx(rate)
    assert found["gpu_hours_per_billion_tokens"] == pytest.approx(1e9 / rate / 3600)
    assert found["usd_per_billion_tokens"] == pytest.approx(2e9 / rate / 3600)


def test_model_flops_are_three_forward_passes() -> None:
    found = costs(WIDE | {"recompute": "full", "vocab_size": 512}).workloads.row(0, named=True)
    tokens, h, f, s = 1024, 1024, 4096, 1024
    layer = 2 * tokens * (4 * h * h + 2 * h * f) + 4 * tokens * s * h
    forward = layer + 2 * tokens * h * 512
    per_gpu = 2 * 3 * forward / 4
    assert found["model_flops_per_second_per_gpu"] * found["iteration_seconds"] == pytest.approx(per_gpu)


def test_adam_moves_what_its_row_says_at_a_share_of_its_own() -> None:
    # 4 x 1024^2/4 + 2 x 1024 x 4096/4 + 4 x 1024 a layer, the table, positions, the final norm; alone on dp
    table = 1024 // 4 * 1024
    owned = 1024**2 + 2 * 1024**2 + 4 * 1024 + table + 1024**2 + 2 * 1024
    found = costs(WIDE, adam_hbm_fraction=0.5, elementwise_hbm_fraction=0.25)
    row = found.ops.filter(pl.col("op") == "adam").row(0, named=True)
    # gradient, master weight, two moments in: 16; the last three out: 12; the 16-bit weight: 2
    assert row["hbm_bytes"] == 30 * owned
    assert row["seconds"] == pytest.approx(30 * owned / (0.5 * 1e12))
    assert found.workloads["optimizer_seconds"].item() == row["seconds"]


@pytest.mark.parametrize("name", sampled(VARIED, 2))
def test_the_parts_add_up(name: str) -> None:
    found = costs(VARIED[name], host_seconds=1e-5, p2p_latency_seconds=1e-5).workloads.row(0, named=True)
    parts = ("compute_seconds", "exposed_comm_seconds", "bubble_seconds", "optimizer_seconds")
    assert sum(found[part] for part in parts) == pytest.approx(found["iteration_seconds"])
    assert found["bubble_seconds"] >= 0
    assert all(found[f"{kind}_comm_seconds"] >= 0 for kind in ("tp", "etp", "ep", "dp", "edp", "pp", "other"))
    memory = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "workspace_bytes")
    assert sum(found[part] for part in memory) == pytest.approx(found["peak_memory_bytes"])


@pytest.mark.parametrize("seq_length", [64, 128, 192, 256, 320, 384, 448, 512])
def test_without_a_pipeline_no_rounding_makes_a_bubble_negative(seq_length: int) -> None:
    found = costs({"pp": 1, "seq_length": seq_length}).workloads.row(0, named=True)
    assert 0 <= found["bubble_seconds"] < 1e-12 * found["iteration_seconds"]
    assert found["bubble_fraction"] >= 0


@pytest.mark.parametrize("name", sampled(VARIED, 3))
def test_programs_fold_to_what_predictions_use(name: str) -> None:
    """The sweep folds programs read from files, a prediction folds them from the start: the same rows."""
    workloads = small(**VARIED[name])
    ours, theirs = fold(programs(workloads)), folded(workloads)
    columns = [column for column in ours.columns if column in theirs.columns]
    assert ours.select(columns).sort(KEY).equals(theirs.select(columns).sort(KEY))


@pytest.mark.slow
def test_the_number_of_threads_moves_no_digit() -> None:
    """Sums of many columns and of long groups are what threads would share out."""
    study = """
from costing import cluster
from moesweep.cost.model import cost, with_constants
from moesweep.study.sweep import enumerate_sweep
from moesweep.trace.programs import folded
from pathlib import Path
workloads = enumerate_sweep(Path(), "config/sweeps/moe-a100-123.yaml")
frame = cost(folded(workloads), with_constants(workloads, cluster().values)).workloads
print(*frame.iter_rows(), sep=chr(10))
"""
    tests = {"PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("tests", "workflow"))}
    printed = {
        subprocess.run(
            [sys.executable, "-c", study],
            cwd=ROOT,
            env=os.environ | tests | {"POLARS_MAX_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(printed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, pytest.param(5, marks=pytest.mark.endurance), 11])
def test_a_workload_costs_to_the_last_bit_the_same_alone_and_among_others(place: int) -> None:
    varied = [small(**changes).with_columns(workload=pl.lit(name)) for name, changes in VARIED.items()]
    together, alone = (
        cost(folded(each), with_constants(each, constants())).workloads
        for each in (pl.concat(varied), varied[place])
    )
    assert alone.equals(together.filter(pl.col("workload") == varied[place]["workload"][0]))
