"""Costs worked out by hand, with round constants: 100 Tflop/s, 1 TB/s of memory, 100 GB/s inside a node."""

import polars as pl
import pytest

from costing import constants, costs, seconds
from moesweep.cost.compute import wave_efficiency
from moesweep.cost.timing import Timing
from wide import MOE, WIDE


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


@pytest.mark.parametrize(("m", "n"), [(20 * 256, 5 * 128), (5 * 128, 20 * 256)])
def test_large_tiles_fill_a_wave(m: int, n: int) -> None:
    """20 x 5 tiles of 256 x 128, or of 128 x 256, are one wave of 100; 40 x 3 of the other are two."""
    assert waves(m, n, gemm_tile_128x128_efficiency=0.9, gemm_tile_128x64_efficiency=0.5) == 1


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


def test_fp16_adds_each_weight_gradient_apart() -> None:
    """10 bytes at 1 TB/s for each of a weight's elements: m x n of the gradient, and so for each expert."""
    changes = MOE | {"dtype": "fp16"}
    together, apart = (costs(changes, fp16_accumulation_bytes=each) for each in (0.0, 10.0))
    for op in ("qkv_wgrad", "expert_fc1_wgrad"):
        row = apart.ops.filter(op=op, stage=0).row(0, named=True)
        more = seconds(apart, op, "backward") - seconds(together, op, "backward")
        assert more == pytest.approx(10 * row["groups"] * row["m"] * row["n"] / 1e12)
        assert seconds(apart, op.replace("wgrad", "dgrad"), "backward") == seconds(
            together, op.replace("wgrad", "dgrad"), "backward"
        )


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


@pytest.mark.parametrize(("tp", "share"), [(1, 100e9), (2, 40e9), (4, 20e9)])
def test_rings_whose_members_stand_apart_share_bridges(tp: int, share: float) -> None:
    """Data-parallel ranks are as far apart as tp is wide, 1, 2 or 4, on one node without a switch."""
    bridges = {"node_bus_2_apart_bytes_per_second": 40e9, "node_bus_4_apart_bytes_per_second": 20e9}
    found = costs(WIDE | {"tp": tp, "world_size": 8, "global_batch_size": 8}, **bridges)
    row = found.ops.filter(pl.col("op") == "grad_reduce_dense").row(0, named=True)
    assert row["seconds"] == pytest.approx(row["wire_bytes"] / share)


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
