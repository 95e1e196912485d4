"""fp8 worked out by hand: what its products read, what is kept, sent and refused, and how long it takes.

Sources: Megatron-Core 0.19 and Transformer Engine, docs/trace.md "In fp8", docs/costs.md "GEMM" and "Memory".
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costing import cluster, constants, costs, seconds
from explained import agrees, everything_below
from moesweep.cost.compute import fp8_speedup, matmul_seconds
from moesweep.cost.memory import kept_bytes
from moesweep.cost.model import cost, with_constants
from moesweep.evaluate.costs import costed
from moesweep.explain.ledger import Ledger
from moesweep.explain.metrics import metric
from moesweep.shapes.states import state_bytes
from moesweep.store.tablefile import dtypes
from moesweep.study.catalog import Cluster
from moesweep.study.fp8_rules import FP8_RATES
from moesweep.study.runs import read_runs
from moesweep.study.space import load_space
from moesweep.study.validation import findings
from moesweep.trace.programs import folded, programs
from sampled import OUTSIDE
from small import DENSE, MLA, MODELS, small
from varied import VARIED

HYBRID: dict[str, Any] = {"fp8": "hybrid"}
RECIPES = ("delayed", "tensorwise", "blockwise", "mxfp8")
GATHERED: dict[str, Any] = {"fp8_param_gather": True}

# 1024 tokens of width 1024 on one GPU, GELU of 4096
ALONE: dict[str, Any] = DENSE | {
    **{"world_size": 1, "tp": 1, "pp": 1, "etp": 1, "global_batch_size": 1, "num_layers": 1},
    **{"hidden_size": 1024, "ffn_hidden_size": 4096, "seq_length": 1024, "flash_attention": True},
}
FC1, FC2 = 1024 * 4096, 1024 * 4096  # elements of either weight, and of the activation between them
FP8_RATE = {"fp8_matrix_flops_per_second": 200e12, "mxfp8_matrix_flops_per_second": 400e12}


@cache
def _program(changes: str) -> pl.DataFrame:
    return programs(small(**json.loads(changes)))


def op(changes: dict[str, Any], name: str, phase: str = "forward") -> dict[str, Any]:
    """One row of the first stage."""
    return _program(json.dumps(changes)).filter(stage=0, op=name, phase=phase).row(0, named=True)


@pytest.mark.parametrize(("recipe", "quantised"), [*zip(RECIPES, (4, 6, 4, 4), strict=True)])
def test_bytes_of_products(recipe: str, quantised: int) -> None:
    workload = ALONE | HYBRID | {"fp8_recipe": recipe}
    tokens = 1024 * 1024
    # x and w of 1 byte, y of 2; x is read in 16 bits and written in 8 both ways, or looked through before
    assert op(workload, "fc1")["hbm_bytes"] == tokens + FC1 + 2 * 4096 * 1024 + quantised * tokens
    # dy [1024, 4096] and w, dx of 2
    found = op(workload, "fc1_dgrad", "backward")["hbm_bytes"]
    assert found == 4096 * 1024 + FC1 + 2 * tokens + quantised * 4096 * 1024
    # dy and x as they were quantised; the main gradient of fp32 read and written
    assert op(workload, "fc1_wgrad", "backward")["hbm_bytes"] == 4096 * 1024 + tokens + 8 * FC1
    # the head, as ever: padded vocabulary of 1024
    assert op(workload, "logits") == op(ALONE, "logits")
    assert op(workload, "core_attention") == op(ALONE, "core_attention")


@pytest.mark.parametrize(("recipe", "rate"), [("delayed", 200e12), ("mxfp8", 400e12)])
def test_seconds_of_products(recipe: str, rate: float) -> None:
    workload = ALONE | HYBRID | {"fp8_recipe": recipe}
    found = costs(workload, **FP8_RATE, kernel_seconds=1e-6)
    # 256 tiles of 128 x 128 in three waves of 100: 1024 x 4096/(300 x 128^2) = 0.8533. 4 bytes an element of
    # x pass memory before, at 1 TB/s, and two kernels are launched.
    product = 2 * 1024 * 4096 * 1024 / (rate * 0.853333333)
    assert seconds(found, "fc1") == pytest.approx(product + 4 * 1024**2 / 1e12 + 2e-6, rel=1e-8)
    # 64 tiles of 128 x 128, one wave of 100: 0.64, and 4 bytes of dy
    product = 2 * 1024 * 4096 * 1024 / (rate * 0.64)
    assert seconds(found, "fc1_dgrad", "backward") == pytest.approx(product + 4 * FC1 / 1e12 + 2e-6)
    # nothing is quantised for the gradient of the weight [4096, 1024], three waves again; its own bytes are
    # 38.8 MB, 38.8 us
    moved = (4096 * 1024 + 1024 * 1024 + 8 * FC1) / 1e12
    product = 2 * 1024 * 4096 * 1024 / (rate * 0.853333333)
    assert seconds(found, "fc1_wgrad", "backward") == pytest.approx(max(moved, product) + 1e-6, rel=1e-8)
    assert seconds(found, "logits") == seconds(costs(ALONE, kernel_seconds=1e-6), "logits")


def test_a_tile_takes_as_long_to_start() -> None:
    sixteen = constants(gemm_half_inner_dimension=100.0)
    eight = {"fp8": "e4m3", "fp8_recipe": "delayed", **sixteen} | FP8_RATE | {"fp8_gemm_efficiency": 0.75}
    row = pl.DataFrame([eight])
    m, n, k = (pl.lit(1024.0 * times) for times in (1, 4, 1))
    # 1.5 times the rate, and a half of 150: 2mnk/(150e12 · 0.8533) · (1024 + 150)/1024
    wanted = 2 * 4 * 1024**3 / (150e12 * 0.853333333) * (1024 + 150) / 1024
    found = row.select(matmul_seconds(m, n, k, pl.lit(1.0), pl.lit(1.0), fp8_speedup)).item()
    assert found == pytest.approx(wanted, rel=1e-8)


@settings(max_examples=50)
@given(
    sizes=st.tuples(*[st.integers(1, 20_000)] * 3),
    efficiency=st.floats(0.5, 1.0),
    half=st.floats(0, 1000),
)
def test_a_product_at_twice_the_rate_never_takes_longer(
    sizes: tuple[int, int, int], efficiency: float, half: float
) -> None:
    values = constants(gemm_half_inner_dimension=half, fp8_gemm_efficiency=efficiency, **FP8_RATE)
    row = pl.DataFrame([{"fp8": "hybrid", "fp8_recipe": "tensorwise", **values}])
    shape = [pl.lit(float(size)) for size in (*sizes, 1)]
    plain, faster = row.select(
        plain=matmul_seconds(*shape, pl.lit(0.8)), faster=matmul_seconds(*shape, pl.lit(0.8), fp8_speedup)
    ).row(0)
    assert plain / 2 * (1 - 1e-12) <= faster <= plain * (1 + 1e-12)


LEGAL = {
    name: case
    for name, case in (VARIED | MODELS).items()
    if "fp8" not in case
    and "fine_grained_activation_offloading" not in case
    and "use_megatron_fsdp" not in case
    and case.get("framework", "megatron-core") == "megatron-core"
    and case.get("dtype", "bf16") == "bf16"
}


def every(**changes: Any) -> pl.DataFrame:
    """The programs of every third legal workload."""
    named = (
        small(**case | changes).with_columns(workload=pl.lit(name, dtype=pl.String))
        for name, case in list(LEGAL.items())[::3]
    )
    return programs(pl.concat(named, how="vertical_relaxed"))


@pytest.mark.parametrize("recipe", ["tensorwise", "mxfp8"])
def test_flops_stay_and_no_more_is_sent(recipe: str) -> None:
    plain, found = every(), every(fp8="hybrid", fp8_recipe=recipe, fp8_param_gather=True)
    same = ["workload", "op", "phase", "layer", "kind", "m", "n", "groups", "flops", "num_microbatches"]
    assert found.select(same).equals(plain.select(same))
    assert (found["comm_bytes"] <= plain["comm_bytes"]).all()
    # what linears of layers gather over tp is sent shorter, and nothing else
    shorter = plain.filter(found["comm_bytes"] < plain["comm_bytes"])
    gathers = {"tp"} | ({"dp", "edp"} if recipe == "tensorwise" else set())
    assert set(shorter["group_kind"]) == gathers
    assert set(shorter["collective"]) == {"all_gather"}


@pytest.mark.parametrize(
    ("recipe", "share"), [("delayed", 0.5), ("tensorwise", 0.5), ("blockwise", 0.515625), ("mxfp8", 0.515625)]
)
def test_what_travels_over_tp(recipe: str, share: float) -> None:
    workload = DENSE | HYBRID | {"fp8_recipe": recipe}
    whole = 2 * 64 * 64
    assert op(workload, "attention_gather")["comm_bytes"] == share * whole
    assert op(workload, "mlp_regather", "backward")["comm_bytes"] == share * whole
    assert op(workload, "mlp_scatter", "backward")["comm_bytes"] == share * whole  # gradients of outputs
    assert op(workload, "mlp_scatter")["comm_bytes"] == whole  # sums
    assert op(workload, "mlp_gather", "backward")["comm_bytes"] == whole
    last = programs(small(**workload)).filter(stage=1, op="head_gather", phase="forward")
    assert last["comm_bytes"].to_list() == [whole]


# Rank of a stage with 2 layers, tp 2, h 64, f 256: qkv, output, fc1 and fc2 of 12 h² / 2 elements each layer.
QUANTISED = 2 * 12 * 64 * 64 // 2


@pytest.mark.parametrize(("recipe", "quantised"), [*zip(RECIPES, (4, 6, 4, 4), strict=True)])
def test_the_optimizer_quantises_weights(recipe: str, quantised: int) -> None:
    workload = DENSE | HYBRID | {"fp8_recipe": recipe}
    plain, adam = op(DENSE, "adam", "optimizer"), op(workload, "adam", "optimizer")
    assert (adam["m"], adam["n"], adam["k"]) == (plain["m"], plain["n"], QUANTISED)
    assert adam["hbm_bytes"] == plain["hbm_bytes"] + quantised * QUANTISED
    gathered = op(workload | GATHERED, "adam", "optimizer")
    # a weight that comes in fp8 is read and written transposed; mxfp8 is made of 16 bits
    left = 4 if recipe == "mxfp8" else 2
    assert gathered["hbm_bytes"] == plain["hbm_bytes"] + left * QUANTISED
    found = op(workload | GATHERED, "param_gather_dense", "optimizer")["comm_bytes"]
    assert found == 2 * plain["m"] - (0 if recipe == "mxfp8" else QUANTISED)
    assert op(workload, "param_gather_dense", "optimizer")["comm_bytes"] == 2 * plain["m"]


def test_experts_weights_are_gathered_apart() -> None:
    workload: dict[str, Any] = {**HYBRID, **GATHERED, "num_shared_experts": 1}
    # 2 layers of 2 local experts, 2 x 64 x 256/2 each; attention 4 x 64²/2 and a shared expert 2 x 64 x 256/2
    expert, dense = 2 * 2 * 2 * 64 * 128, 2 * (4 * 64 * 64 // 2 + 2 * 64 * 128)
    assert op(workload, "param_gather_expert", "optimizer")["comm_bytes"] == expert
    held = op(workload, "adam", "optimizer")
    assert held["k"] == expert + dense
    found = op(workload, "param_gather_dense", "optimizer")["comm_bytes"]
    assert found == 2 * (held["m"] - expert) - dense


AWARE = {"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"}


@pytest.mark.parametrize(
    ("changes", "weights", "gradients", "states"),
    [
        ({}, 2, 4, 12),
        # 16 bits beside 8, both ways; of mxfp8 with a byte of scale for 32 elements
        (HYBRID, 2 + 0.5 * 2, 4, 12),
        (HYBRID | {"fp8_recipe": "mxfp8"}, 2 + 0.5 * 2 * 33 / 32, 4, 12),
        # both ways in 8 bits alone
        (HYBRID | GATHERED, 2, 4, 12),
        (HYBRID | GATHERED | {"fp8_recipe": "mxfp8"}, 2 + 0.5 * 2 / 32, 4, 12),
        (HYBRID | AWARE, 2 + 0.5 * 2, 4, 6),
        (HYBRID | AWARE | {"fp8_recipe": "blockwise"}, 2 + 0.5 * 2, 4, 8),
        (HYBRID | AWARE | {"grad_reduce_in_fp32": False}, 2 + 0.5 * 2, 2, 6),
        (HYBRID | AWARE | {"fp8_recipe": "tensorwise", "grad_reduce_in_fp32": False}, 3, 2 + 4, 8),
    ],
)
def test_states(changes: dict[str, Any], weights: float, gradients: float, states: float) -> None:
    """Of 1000 parameters, all updated here, 500 are multiplied in fp8."""
    sizes = [pl.lit(size) for size in (1000, 1000, 500)]
    found = small(**changes).select(**state_bytes(*sizes)).row(0)
    assert found == pytest.approx((1000 * weights, 1000 * gradients, 1000 * states))


KEPT: list[tuple[dict[str, Any], float]] = [
    # Of b·s·h/t: norms 2 + 2, qkv's input 2, q k v 6, the output 2, masks 1 + 1; fc1's input 2, its result 8,
    # fc2's input 8
    ({}, 34),
    # inputs of qkv, fc1 and fc2 1 + 1 + 4 for 12; the output is kept twice, as attention reads it again
    (HYBRID, 34 - 6 + 1),
    (HYBRID | {"fp8_recipe": "tensorwise"}, 34 - 6),
    (HYBRID | {"fp8_recipe": "blockwise"}, 34 - 6 + 6 / 32),
    (HYBRID | {"fp8_recipe": "mxfp8"}, 34 - 6 + 6 / 32),
    # core attention that runs again keeps no output
    (HYBRID | {"recompute": "selective"}, 34 - 6 - 1),
    (HYBRID | {"recompute": "selective", "fp8_recipe": "tensorwise"}, 34 - 6),
    (HYBRID | {"recompute": "selective", "recompute_modules": "mlp"}, (2 + 1 + 6 + 2 + 1 + 1) + (2 + 1)),
    (HYBRID | {"recompute": "full"}, 2),
    # both halves of SwiGLU 16, fc2's input 4
    (HYBRID | {"gated_mlp": True}, 34 - 6 + 1 + 8),
    (HYBRID | {"gated_mlp": True, "bias_activation_fusion": False}, 34 - 6 + 1 + 8 + 16),
]


@pytest.mark.parametrize(("changes", "expected"), KEPT)
def test_what_a_dense_layer_keeps(changes: dict[str, Any], expected: float) -> None:
    workload = small(**DENSE | {"flash_attention": True} | changes)
    found = workload.select(**kept_bytes())["dense_kept_bytes"].item()
    assert found / (64 * 64 / 2) == pytest.approx(expected)


def test_what_latents_and_shared_experts_keep() -> None:
    def kept(kind: str, **changes: Any) -> float:
        workload = small(**MLA | {"q_lora_rank": 48, "flash_attention": True} | changes)
        return float(workload.select(**kept_bytes())[f"{kind}_kept_bytes"].item())

    one = 64 * 64 / 2  # b·s·h/t
    plain, tensor = kept("dense", **DENSE), kept("dense", **DENSE, fp8="hybrid", fp8_recipe="tensorwise")
    # q_down and kv_down have a copy each for 2 bytes that they share; latents 1 for 2; fc1 1 for 2, fc2 4
    # for 8
    assert plain - tensor == one * (1 + 4) + 64 / 2 * (48 + 32)
    again = {"recompute": "selective", "recompute_modules": "mla_up_proj"}
    same = kept("dense", **DENSE, **again, fp8="hybrid", fp8_recipe="tensorwise")
    # latents are projected again from 16 bits; q, k of 12 and v of 8 a head are not kept
    assert tensor - same == 2 * 64 / 2 * 8 * (12 + 12 + 8) - 64 / 2 * (48 + 32)
    # R = 128 rows: h for 2h of input, f/2 for f of fc2's; the shared expert's fc2 likewise, and
    # its input again where scales are of iterations before
    rows = 64 * 2
    moe = {"num_shared_experts": 1}
    saved = rows * (64 + 128) + 64 * 256 / 2 + 64 / 2 * (48 + 32)
    assert kept("moe", **moe) - kept("moe", **moe, fp8="hybrid", fp8_recipe="tensorwise") == saved
    delayed = kept("moe", **moe) - kept("moe", **moe, fp8="hybrid")
    # and the output of attention, 8 heads of 8, is kept in both forms
    assert delayed == saved - one - 64 / 2 * 64


RATES = {"fp8_matrix_flops_per_second": 0.0, "mxfp8_matrix_flops_per_second": 0.0, "host_bytes": 1e12}
HOPPER = RATES | {"fp8_matrix_flops_per_second": 1979e12}
BLACKWELL = dict.fromkeys(RATES, 4500e12)


@pytest.mark.parametrize(
    ("gpu", "recipe", "rules"),
    [
        (RATES, "delayed", ["fp8_of_gpu"]),
        (RATES, "mxfp8", ["fp8_of_gpu"]),
        (HOPPER, "mxfp8", ["mxfp8_of_gpu"]),
        *((HOPPER, recipe, []) for recipe in RECIPES[:3]),
        *((BLACKWELL, recipe, []) for recipe in RECIPES),
    ],
)
def test_what_a_gpu_multiplies(gpu: dict[str, float], recipe: str, rules: list[str]) -> None:
    workload = small(**HYBRID, fp8_recipe=recipe)
    errors = findings(workload, clusters={"one": gpu}).filter(severity="error")
    assert errors["rule"].to_list() == rules
    for row in errors.iter_rows(named=True):
        for offered in row["suggestion"].removeprefix("nearest: ").split(", "):
            mended = {"fp8": "hybrid", "fp8_recipe": recipe} | {row["key"]: offered}
            again = findings(small(**mended), clusters={"one": gpu})
            assert row["rule"] not in again["rule"].to_list()
    assert findings(workload).filter(severity="error").is_empty()  # of a GPU that nobody named


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("dgx-a100-80gb-8xhdr200", (0, 0)),
        ("a800-80gb-4xhdr200", (0, 0)),
        ("dgx-h100-80gb-8xndr400", (1979e12, 0)),
        ("h20-96gb-4xndr400", (296e12, 0)),
        ("dgx-b200-180gb-8xndr400", (4500e12, 4500e12)),
        ("gb300-nvl72", (5000e12, 5000e12)),
    ],
)
def test_rates_of_the_catalogue(name: str, rates: tuple[float, float]) -> None:
    found = cluster(name)
    assert tuple(found.value(rate) for rate in FP8_RATES) == rates
    assert rates[0] in (0, pytest.approx(2 * found.value("matrix_flops_per_second"), rel=1e-3))


POINT = {
    **{"model": "mixtral_8x7B", "world_size": 8, "tp": 1, "pp": 1, "ep": 8, "global_batch_size": 64},
    **{"seq_length": 4096, "flash_attention": True, "sequence_parallel": True},
}


def test_a_screen_leaves_out_what_a_gpu_does_not_multiply(root: Path, tmp_path: Path) -> None:
    clusters = ["dgx-a100-80gb-8xhdr200", "dgx-h100-80gb-8xndr400", "dgx-b200-180gb-8xndr400"]
    grid = POINT | {"cluster": clusters, "fp8": ["none", "hybrid"], "fp8_recipe": ["delayed", "mxfp8"]}
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps({"grids": [grid]}), encoding="utf-8")
    space = load_space(root, path).on({name: cluster(name).values for name in clusters})
    (part,) = space.parts()
    batch = space.batch(part)
    legal = set(batch.workloads.select("cluster", "fp8", "fp8_recipe").cast(pl.String).rows())
    assert legal == {
        *((name, "none", "delayed") for name in clusters),
        *((name, "hybrid", "delayed") for name in clusters[1:]),
        (clusters[2], "hybrid", "mxfp8"),
    }
    assert batch.left_out == {"fp8_of_gpu": 2, "mxfp8_of_gpu": 1, "recipe_of_fp8": 3}


def test_a_list_of_runs_says_it(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    head = "cluster,model,world_size,ep,global_batch_size,seq_length,fp8,fp8_recipe,fp8_param_gather\n"
    rows = [
        f"{name},mixtral_8x7B,8,8,64,4096,hybrid,{recipe},1\n"
        for name in ("dgx-a100-80gb-8xhdr200", "dgx-h100-80gb-8xndr400")
        for recipe in ("tensorwise", "mxfp8")
    ]
    path.write_text(head + "".join(rows), encoding="utf-8")
    found = read_runs(path, ["dgx-a100-80gb-8xhdr200", "dgx-h100-80gb-8xndr400"], root)
    rules = {row: [problem.rule for problem in problems] for row, problems in found.problems.items()}
    assert rules == {0: ["fp8_of_gpu"], 1: ["fp8_of_gpu"], 3: ["mxfp8_of_gpu"]}
    assert found.workloads.select("row", "fp8_recipe", "fp8_param_gather").rows() == [(2, "tensorwise", True)]


CASES = {name: case for name, case in MODELS.items() if "fp8" in case}


def blackwell() -> Cluster:
    return cluster("dgx-b200-180gb-8xndr400")


def test_both_forms_of_the_engine_agree() -> None:
    frames = (small(**case).with_columns(workload=pl.lit(name)) for name, case in CASES.items())
    workloads, values = pl.concat(frames), blackwell().values
    found = costed(workloads, pl.DataFrame([values]))
    wanted = cost(folded(workloads), with_constants(workloads, values)).workloads
    numbers = [name for name, dtype in dtypes("costs").items() if dtype == pl.Float64]
    for name in numbers:
        assert found[name].to_list() == pytest.approx(wanted[name].to_list(), rel=1e-11, abs=1e-12), name
    assert found["validated"].to_list() == ["outside"] * len(CASES)


@pytest.mark.parametrize(
    ("wanted", "through"),
    [("peak_memory_bytes", "saved_bytes"), pytest.param("mfu", "fp8_speedup", marks=OUTSIDE)],
)
def test_numbers_have_explanations(wanted: str, through: str) -> None:
    ledger = Ledger(small(**CASES["moe, mxfp8, norms and up-projections recomputed"]), blackwell(), {})
    nodes = list(everything_below(metric(ledger, wanted)))
    assert [node.key for node in nodes if not agrees(node)] == []
    assert through in {node.name for node in nodes}
