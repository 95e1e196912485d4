"""Forward passes beside backward ones: what of the exchanges of tokens hides, and when."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costing import cluster, constants, costs, seconds
from moesweep.cost.pairs import OF_A_PAIR, PHASES, hidden_of_a_pair, ops_of_turns, turns_of_a_pass
from moesweep.evaluate.costs import costed
from moesweep.library import predict
from moesweep.shapes.steps import interleaved, makespans
from moesweep.study.sweep import load_sweep
from naive_pairs import seconds_of_layers
from naive_pipeline import makespan
from small import small

PAIRS: dict[str, Any] = {"overlap_moe_expert_parallel_comm": True}
DELAYED = PAIRS | {"delay_wgrad_compute": True}
ONE: dict[str, Any] = {
    **{"world_size": 8, "tp": 1, "pp": 1, "ep": 8, "num_experts": 8, "moe_router_topk": 2, "num_layers": 2},
    **{"hidden_size": 1024, "moe_ffn_hidden_size": 1024, "seq_length": 1024, "global_batch_size": 64},
    **{"flash_attention": True, "etp": 1},
}
"""8 micro-batches through one stage of 2 layers."""

CHUNKS = ONE | {"pp": 4, "world_size": 32, "virtual_pipeline": 2, "num_layers": 8}
"""8 micro-batches through 4 stages of 2 chunks of a layer."""

PARTS = ("attention", "dispatch", "experts", "combine")
TIMES = st.fixed_dictionaries(
    {f"{part}{phase}": st.floats(0, 8) for part in PARTS for phase in ("", "_backward")}
    | {f"{part}_wgrad": st.floats(0, 8) for part in ("attention", "experts")}
)


def saved(part: dict[str, float], delays: bool, **changes: float) -> float:
    """What a pair of one layer saves, of passes that the host launches at once."""
    row = dict.fromkeys((f"{phase}_{name}" for phase in PHASES for name in OF_A_PAIR), 0.0)
    row |= {"backward_pair_share": 1.0, "forward_seconds": 0.0, "backward_seconds": 0.0}
    for phase, mark in zip(PHASES, ("", "_backward"), strict=True):
        for name in PARTS:
            first = part[name + mark]
            wgrad = part.get(f"{name}_wgrad", 0.0) if mark else 0.0
            row[f"{phase}_pair_{name}"] = first + wgrad
            row[f"{phase}_pair_{name}_first"] = first + (0.0 if delays else wgrad)
            row[f"{phase}_seconds"] += first + wgrad
    return float(pl.DataFrame([row | changes]).select(**hidden_of_a_pair()).item())


def test_four_turns_by_hand() -> None:
    """Attention 3 beside 1; experts 2 + 2 beside 5; experts 1 beside 4; attention 4 + 2 beside 3.

    The turns last 3, 5, 4 and 6: 18 of 27 seconds. With gradients that wait: experts 2 beside 5, when the
    rest has gone too, then 1 beside 4, as before; attention 4 beside 3, then 2 + 3 beside 1, as before.
    """
    part = {"attention": 3.0, "combine_backward": 1.0, "dispatch": 5.0, "experts": 1.0, "combine": 3.0}
    part |= {"experts_backward": 2.0, "experts_wgrad": 2.0, "dispatch_backward": 4.0}
    part |= {"attention_backward": 4.0, "attention_wgrad": 2.0}
    assert saved(part, delays=False) == saved(part, delays=True) == 27 - 18
    # Exchanges as short as 2 wait for gradients: 3, 4, 2 and 6 seconds; else 2 run beside the second one.
    part |= {"dispatch": 2.0, "dispatch_backward": 2.0}
    assert saved(part, delays=False) == 22 - 15
    assert saved(part, delays=True) == 22 - 14
    # Half of it where kernels of exchanges slow the others down; no more than hosts leave.
    assert saved(part, delays=False, backward_pair_share=0.5) == 3.5
    assert saved(part, delays=False, forward_pair_host=8.0, backward_pair_host=9.0) == 22 - 17
    assert saved(part, delays=False, forward_pair_host=10.0, backward_pair_host=12.5) == 0


def test_what_turns_are_made_from_by_hand() -> None:
    """Each op has seconds of its own, powers of two: sums say which ones count."""
    kernels = (
        "expert_fc1",
        "expert_fc1_wgrad",
        "shared_fc2_wgrad",
        "shared_sum",
        "qkv_wgrad",
        "router_wgrad",
    )
    kernels += ("mtp_projection_wgrad", "mtp_final_norm", "permute", "recompute_unpermute", "qkv")
    exchanges = ("moe_dispatch", "fused_combine", "recompute_moe_combine", "shared_gather", "mtp_gather")
    frame = pl.DataFrame(
        {
            "op": [*kernels, *exchanges],
            "collective": [None] * len(kernels) + ["all_to_all"] * len(exchanges),
            "seconds": [2.0**place for place in range(len(kernels) + len(exchanges))],
        }
    ).with_columns(pl.lit(None, pl.String).alias(name) for name in ("kind", "phase", "group_kind"))
    found = frame.select(**ops_of_turns()).row(0, named=True)
    assert found == {
        **{"experts": 1 + 2 + 4, "experts_wgrad": 2 + 4, "attention_wgrad": 16, "permutations": 256 + 512},
        **{"predicting": 64 + 128, "dispatched": 2048, "combined": 4096 + 8192},
    }


@pytest.mark.parametrize(
    ("dispatcher", "delays", "expected"),
    [
        # attention and what is waited for of it, experts and what is waited for of them
        ("alltoall", False, (63.0, 63.0, 30.0, 30.0)),
        ("alltoall", True, (63.0, 59.0, 30.0, 24.0)),
        # What it has brought is permuted before the experts.
        ("flex", False, (58.0, 58.0, 35.0, 35.0)),
        ("flex", True, (58.0, 54.0, 35.0, 29.0)),
    ],
)
def test_turns_of_a_pass_by_hand(
    dispatcher: str, delays: bool, expected: tuple[float, float, float, float]
) -> None:
    """100 s of kernels, 7 of prediction; 30 of experts, 5 of permutations; weight gradients of 4 and 6 s."""
    of_turns = {"experts": 30.0, "permutations": 5.0, "predicting": 7.0, "dispatched": 11.0, "combined": 13.0}
    of_turns |= {"attention_wgrad": 4.0, "experts_wgrad": 6.0, "compute": 100.0, "ep_overlap": 0.5}
    option = (DELAYED if delays else PAIRS) | {"moe_token_dispatcher_type": dispatcher}
    frame = small(**CHUNKS | option).with_columns(pl.lit(value).alias(n) for n, value in of_turns.items())
    found = frame.select(**turns_of_a_pass(pl.lit(17.0))).row(0, named=True)
    names = ("pair_attention", "pair_attention_first", "pair_experts", "pair_experts_first")
    assert tuple(found[name] for name in names) == expected
    assert [found[f"pair_{name}"] for name in ("dispatch", "combine", "share", "host")] == [11, 13, 0.5, 17]


@settings(max_examples=40)
@given(part=TIMES, delays=st.booleans())
def test_pairs_of_layers_on_two_streams(part: dict[str, float], delays: bool) -> None:
    """Every further layer takes what the formula says; it hides no more than exchanges, nor kernels."""
    more, fewer = (seconds_of_layers(layers, part, delays) for layers in (9, 8))
    hidden = saved(part, delays)
    assert sum(part.values()) - hidden == pytest.approx(more - fewer, abs=1e-9)
    exchanged = sum(value for name, value in part.items() if name.startswith(("dispatch", "combine")))
    assert 0 <= hidden <= min(exchanged, sum(part.values()) - exchanged) + 1e-9
    assert saved(part, delays=True) >= saved(part, delays=False) - 1e-12


@pytest.mark.parametrize("rate", [100e9, 10e9])
@pytest.mark.parametrize("delays", [False, True])
def test_one_stage_by_hand(delays: bool, rate: float) -> None:
    """8 micro-batches: 7 pairs. Every exchange is of 7/8 · 2048 copies of 2 KiB: 36.7 us over 100 GB/s.

    Over 10 GB/s it takes longer than the forward passes of attention, 187 us, and of experts, 117 us.
    """
    links = dict.fromkeys((name for name in constants() if name.startswith("node_all_to_all_")), rate)
    plain = costs(ONE, **links)
    found = costs(ONE | (DELAYED if delays else PAIRS), ep_overlap=0.5, **links)
    exchange = 7 / 8 * 2 * 1024 * 2 * 1024 / rate
    assert seconds(found, "moe_dispatch") == seconds(found, "moe_combine", "backward") == exchange

    def kernels(phase: str, experts: bool, *, wgrad: bool = True) -> float:
        rows = found.ops.filter(
            (pl.col("phase") == phase) & (pl.col("layer_kind") == "moe") & pl.col("collective").is_null()
        )
        rows = rows.filter(pl.col("op").str.starts_with("expert_") == experts)
        delayed = pl.col("op").str.ends_with("_wgrad") & (pl.col("op") != "router_wgrad")
        return float(rows.filter(wgrad | ~delayed)["seconds"].sum())

    lasts = 0.0
    for experts in (True, False):
        before = max(exchange, kernels("backward", experts))
        first = max(exchange, kernels("backward", experts, wgrad=not delays))
        lasts += max(before + kernels("forward", experts), first + exchange)
    apart = sum(kernels(phase, experts) for phase in PHASES for experts in (True, False)) + 4 * exchange
    hidden = 0.5 * (apart - lasts)
    assert 0 < hidden < 0.5 * 4 * exchange
    before, after = (each.workloads.row(0, named=True) for each in (plain, found))
    assert before["iteration_seconds"] - after["iteration_seconds"] == pytest.approx(7 * 2 * hidden)
    assert after["ep_hidden_seconds"] == pytest.approx(7 * 2 * hidden)
    assert before["exposed_comm_seconds"] - after["exposed_comm_seconds"] == pytest.approx(7 * 2 * hidden)
    same = ("compute_seconds", "ep_comm_seconds", "optimizer_seconds", "model_flops")
    assert [after[name] for name in same] == pytest.approx([before[name] for name in same])
    assert after["bubble_seconds"] == pytest.approx(0, abs=1e-12)


def test_a_chunk_more_is_alive() -> None:
    """Of one stage two micro-batches for one; of the first of four 2·3 + 4 + 1 + 1 chunks for 11.

    1024 tokens: attention 16 bytes of h = 1024, experts 2, and 2h + 6f of 2048 copies, f = 1024; masks of h.
    """
    layer, mask = 1024 * 1024 * (16 + 2 + 2 * (2 + 6)), 1024 * 1024
    for case, layers in ((ONE, 2), (CHUNKS | {"global_batch_size": 64}, 1)):
        plain, paired = (
            costs(case | option).memory.filter(stage=0)["activations_bytes"].item() for option in ({}, PAIRS)
        )
        # The mask is of half a micro-batch's chunks where there are two.
        assert paired - plain == layers * layer + mask * layers / 2
        assert case is ONE or plain == 11 * (paired - plain)


@pytest.mark.parametrize(("pp", "chunks", "m"), [(2, 2, 2), (2, 2, 8), (4, 2, 8), (4, 3, 12), (8, 2, 16)])
@pytest.mark.parametrize("alike", [True, False])
def test_pairs_of_chunks_against_the_naive_loop(pp: int, chunks: int, m: int, alike: bool) -> None:
    rng = np.random.default_rng(pp + chunks + m)
    lengths, delays = rng.uniform(1, 2, (2 * pp * chunks, 3)), rng.uniform(0, 0.2, (2, 3))
    hidden = rng.uniform(0, 1, (pp * chunks, 3))
    if alike:
        lengths[0::2], lengths[1::2], hidden[:], delays[:] = 1.0, 2.0, 0.75, 0.0
    found = makespans(lengths, delays, (pp, chunks), np.arange(3), np.full(3, m), hidden)
    for pipeline in range(3):
        forward, backward = lengths[0::2, pipeline], lengths[1::2, pipeline]
        way = tuple(delays[:, pipeline])
        expected = makespan(forward, backward, m, chunks, way, pp, hidden[:, pipeline])
        assert found[pipeline] == pytest.approx(expected, rel=1e-12)
    if alike:
        # The last stage has a warm-up of (v-1)·pp + 1 steps, pairs of 2.25 s, as many backward passes alone.
        alone = (chunks - 1) * pp + 1
        assert found[0] == pytest.approx((pp - 1) * 3 + 3 * alone + 2.25 * (m * chunks - alone))


def test_long_iterations_in_pairs_are_not_stepped_whole() -> None:
    rng = np.random.default_rng(1)
    lengths, hidden = rng.uniform(1, 2, (16, 2)), rng.uniform(0, 1, (8, 2))
    delays, which = np.zeros((2, 2)), np.array([0, 1])
    found = makespans(lengths, delays, (4, 2), which, np.array([400, 400]), hidden)
    before = interleaved.cache_info().misses
    expected = [
        makespan(lengths[0::2, each], lengths[1::2, each], 400, 2, (0.0, 0.0), 4, hidden[:, each])
        for each in which
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert interleaved.cache_info().misses == before


CASES: dict[str, dict[str, Any]] = {
    "one": ONE,
    "a single micro-batch": ONE | {"global_batch_size": 8},
    "chunks": CHUNKS | {"num_shared_experts": 1},
    "no pair on the first stage": CHUNKS | {"global_batch_size": 32},
    "flex": CHUNKS | {"moe_token_dispatcher_type": "flex"},
    "dense layers first": CHUNKS | {"num_layers": 16, "first_k_dense": 3},
    "prediction": CHUNKS | {"mtp_num_layers": 1, "num_layers": 7, "account_for_loss_in_pipeline_split": True},
    "skewed": CHUNKS | {"routing": "zipf(alpha=1,seed=1)"},
    "uneven": CHUNKS | {"routing": "uncontrolled"},
    "messages waited for": CHUNKS | {"overlap_p2p_comm": False},
    "etp": CHUNKS | {"etp": 2, "tp": 2, "ep": 4},
}


@pytest.mark.slow
def test_pairs_never_lengthen_and_hide_no_more_than_there_is() -> None:
    values = dict(cluster().values)
    idle = dict.fromkeys(("host_seconds", "host_experts_seconds", "dispatch_wait_seconds"), 0.0)
    rows = [
        small(**case | option).with_columns(workload=pl.lit(name), cluster=pl.lit(host))
        for option in ({}, PAIRS, DELAYED)
        for host in ("launches", "launches nothing")
        for name, case in CASES.items()
    ]
    hosts = [values | {"cluster": "launches"}, values | idle | {"cluster": "launches nothing"}]
    found = costed(pl.concat(rows), pl.DataFrame(hosts))
    hostings = [hosting for hosting in (True, False) for _ in CASES]
    plain, paired, delayed = (found.slice(at * len(hostings), len(hostings)) for at in range(3))
    each = (frame.iter_rows(named=True) for frame in (plain, paired, delayed))
    for launches, off, on, late in zip(hostings, *each, strict=True):
        name = off["workload"]
        assert late["iteration_seconds"] <= on["iteration_seconds"] * (1 + 1e-12), name
        # Where hosts leave nothing to hide and messages are waited for, a step more of warm-up costs a bit.
        most = 1.002 if launches and name == "messages waited for" else 1 + 1e-12
        assert on["iteration_seconds"] <= off["iteration_seconds"] * most, name
        assert off["ep_hidden_seconds"] == 0 <= on["ep_hidden_seconds"] <= off["ep_comm_seconds"], name
        assert on["ep_hidden_seconds"] <= off["compute_seconds"], name
        assert on["exposed_comm_seconds"] == pytest.approx(
            off["exposed_comm_seconds"] - on["ep_hidden_seconds"], rel=1e-9
        )
        assert on["peak_memory_bytes"] >= off["peak_memory_bytes"], name
        for same in ("compute_seconds", "ep_comm_seconds"):
            assert on[same] == pytest.approx(off[same]), name
        if name == "a single micro-batch":
            assert on["iteration_seconds"] == pytest.approx(off["iteration_seconds"], rel=1e-12)
        elif not launches:
            assert on["iteration_seconds"] < off["iteration_seconds"], name


def test_ids_of_a_sweep_and_runs_of_a_list(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pairs.yaml"
    path.write_text(
        """
description: Forward passes beside backward ones.
grids:
  - {model: mixtral_8x7B, world_size: 64, tp: 1, pp: 4, virtual_pipeline: 2, ep: 8, etp: 1, seq_length: 4096,
     global_batch_size: 256, overlap_moe_expert_parallel_comm: [false, true]}
""",
        encoding="utf-8",
    )
    words = [id_.partition("-moe")[2] for id_ in load_sweep(root, path).workloads["workload"]]
    assert words == ["-vp2", "-vp2-overlapmoeexpertparallelcomm"]
    monkeypatch.chdir(root)
    cells = {"model": "mixtral_8x7B", "world_size": 64, "tp": 1, "pp": 4, "ep": 8, "global_batch_size": 256}
    cells |= {"seq_length": 4096, "flash_attention": True, "routing": "balanced", "virtual_pipeline": 2}
    options = ({}, PAIRS, DELAYED)
    runs = [cells | dict.fromkeys(DELAYED, 0) | dict.fromkeys(option, 1) for option in options]
    plain, paired, delayed = predict(pl.DataFrame(runs)).iter_rows(named=True)
    assert plain["iteration_seconds"] > paired["iteration_seconds"] >= delayed["iteration_seconds"]
    saved_seconds = plain["iteration_seconds"] - paired["iteration_seconds"]
    assert saved_seconds == pytest.approx(paired["ep_hidden_seconds"])
    assert paired["validated"] == "outside"
