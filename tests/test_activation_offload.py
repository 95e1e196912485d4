"""Activations on the host, worked out by hand: what is copied, what the device keeps, how long copies take.

Sources: Megatron-Core 0.19.2 (`pipeline_parallel/fine_grained_activation_offload.py`), docs/trace.md
"Activations on the host", docs/costs.md "Activations on the host".
"""

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import foreign_files
from costing import cluster, costs, seconds
from moesweep.cost.model import Costs
from moesweep.evaluate.costs import costed_on
from moesweep.export.overlaps import inexpressible
from moesweep.export.simai_aicb import inexpressible as not_of_aicb
from moesweep.shapes.offloading import least_activations_on_host
from moesweep.shapes.sizes import OFFLOADED as MODULES
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.known import read_file
from moesweep.study.names import UNMODELLED
from moesweep.study.validation import findings
from moesweep.trace.programs import programs
from small import DENSE, MLA, OFFLOADED, small

# One GPU: 64 tokens of width 64, 8 heads of 8, 4 layers; experts 4 of width 128, 2 a token: 128 rows.
ALONE: dict[str, Any] = {
    **{"world_size": 1, "tp": 1, "pp": 1, "ep": 1, "etp": 1, "global_batch_size": 4, "micro_batch_size": 2},
    **{"seq_length": 32, "hidden_size": 64, "num_attention_heads": 8, "num_query_groups": 8, "num_layers": 4},
    **{"moe_ffn_hidden_size": 128, "num_experts": 4, "moe_router_topk": 2},
}
CUT = {"world_size": 2, "tp": 2, "etp": 2, "sequence_parallel": True}
WIDE = 2 * 64 * 64  # bytes of 64 tokens of the model's width
LINK = {"host_link_bytes_per_second": 1e9, "host_link_fraction": 0.5, "host_seconds": 0.0}


def offloading(*modules: str, **changes: Any) -> dict[str, Any]:
    """One GPU that keeps what some modules save on its host."""
    return ALONE | OFFLOADED | {"offload_modules": "+".join(modules), **changes}


def copied(changes: dict[str, Any], layer: int = 0) -> int:
    """Bytes that a layer copies to the host, as many as it copies back."""
    rows = programs(small(**changes)).filter(pl.col("op").is_in(["activation_offload", "activation_reload"]))
    down, up = (rows.filter(phase=phase, layer=layer)["hbm_bytes"] for phase in ("forward", "backward"))
    assert down.to_list() == up.to_list()
    return int(down.sum())


@pytest.mark.parametrize(
    ("modules", "changes", "expected"),
    [
        # The norm's input and what the norm makes of it.
        (["qkv_linear"], {}, 2 * WIDE),
        # Queries, keys, values, and the output, of 2 heads for keys and values.
        (["core_attn"], {}, 4 * WIDE),
        (["core_attn"], {"num_query_groups": 2, "attention": "gqa"}, 2 * WIDE + 2 * WIDE // 4),
        # The output is copied once more.
        (["core_attn", "attn_proj"], {}, 5 * WIDE),
        (["mlp_norm"], {}, WIDE),
        (["expert_fc1"], {}, 2 * WIDE),
        # 128 rows of 128: fc1's output, and GELU's, which probabilities weigh.
        (["moe_act"], {}, 2 * 2 * 128 * 128),
        (["moe_act"], {"gated_mlp": True}, 2 * 128 * 256),
        # Both halves, silu, the linear half, their product.
        (["moe_act"], {"gated_mlp": True, "bias_activation_fusion": False}, 2 * 128 * (256 + 3 * 128)),
        (
            ["moe_act"],
            {"recompute": "selective", "recompute_modules": "moe_act"},
            2 * 128 * 128,
        ),
        # Of two tp ranks each has half of the tokens between linears, of the heads, of experts' widths.
        (["qkv_linear"], CUT, WIDE),
        (["core_attn", "attn_proj"], CUT, 5 * WIDE // 2),
        (["mlp_norm"], CUT, WIDE // 2),
        (["expert_fc1"], CUT, 2 * WIDE),
        (["moe_act"], CUT, 2 * 2 * 128 * 64),
        (["expert_fc1"], DENSE, 0),
        # Tensors of 4096 elements stay where a tensor has to have one more.
        (["qkv_linear", "expert_fc1"], {"min_offloaded_tensor_size": 4096}, 4 * WIDE),
        (["qkv_linear", "expert_fc1"], {"min_offloaded_tensor_size": 4097}, 2 * WIDE),
        (["core_attn"], {"fine_grained_activation_offloading": False}, 0),
    ],
)
def test_what_modules_copy(modules: list[str], changes: dict[str, Any], expected: int) -> None:
    assert copied(offloading(*modules, **changes)) == expected


@pytest.mark.parametrize(
    ("modules", "changes", "expected"),
    [
        (["attn_norm"], {}, WIDE),
        # What the norm made, and latents of 32.
        (["qkv_linear"], {}, WIDE + 2 * 64 * 32),
        # And of 16 for queries, both before and after norms.
        (["qkv_linear"], {"qk_layernorm": True, "q_lora_rank": 16}, WIDE + 2 * 2 * 64 * (32 + 16)),
        # Queries and keys of 8 heads of 12, values and output of 8 heads of 8.
        (["core_attn"], {}, 2 * 64 * 8 * (12 + 12 + 8 + 8)),
    ],
)
def test_what_latent_attention_copies(modules: list[str], changes: dict[str, Any], expected: int) -> None:
    assert copied(offloading(*modules, **MLA | changes)) == expected


def activations(changes: dict[str, Any]) -> float:
    """Bytes of activations on the first stage's device."""
    found = costs(changes, **LINK)
    return float(found.memory.filter(stage=0)["activations_bytes"].item())


@pytest.mark.parametrize(
    ("modules", "freed"),
    [
        # The output stays for the projection, unless that is offloaded too.
        (["core_attn"], 3 * WIDE),
        (["core_attn", "attn_proj"], 4 * WIDE),
        (["qkv_linear", "expert_fc1"], 4 * WIDE),
    ],
)
def test_what_the_device_keeps(modules: list[str], freed: int) -> None:
    here = activations(offloading(*modules, fine_grained_activation_offloading=False))
    # Of 4 layers two are on their way; of 2 layers all.
    assert here - activations(offloading(*modules)) == 2 * freed
    few = offloading(*modules, num_layers=2)
    assert activations(few) == activations(few | {"fine_grained_activation_offloading": False})


def test_a_stage_keeps_layers_of_its_own_kinds() -> None:
    """Of four dense layers two are on their way; one with experts, that would free more, is not there."""
    changes = offloading("qkv_linear", "expert_fc1", pp=2, world_size=2, num_layers=8, first_k_dense=4)
    changes |= {"global_batch_size": 2}
    here = activations(changes | {"fine_grained_activation_offloading": False})
    assert here - activations(changes) == (4 - 2) * 2 * WIDE


def test_more_micro_batches_are_alive_on_the_first_stage() -> None:
    changes = offloading("core_attn", "attn_proj", world_size=4, pp=4, num_layers=8, global_batch_size=16)
    here = activations(changes | {"fine_grained_activation_offloading": False})
    # 4 micro-batches of 2 layers, of which two layers are on their way
    assert here - activations(changes) == (4 * 2 - 2) * 4 * WIDE


def layer_seconds(found: Costs, phase: str) -> float:
    rows = found.passes.filter((pl.col("phase") == phase) & pl.col("layer_kind").is_not_null())
    return float(rows["seconds"].item())


@pytest.mark.parametrize(
    ("rate", "overlap"), [(1e9, 0.75), (1e9, 1.0), (1e12, 0.75), (1e12, 1.0), (1e9, 0.0)]
)
def test_what_a_pass_waits_for(rate: float, overlap: float) -> None:
    constants = LINK | {"host_link_bytes_per_second": rate, "offload_overlap": overlap}
    changes = offloading("core_attn", "attn_proj")
    plain, offloaded = (
        costs(changes | {"fine_grained_activation_offloading": on}, **constants) for on in (False, True)
    )
    copies = 5 * WIDE / (0.5 * rate)
    assert seconds(offloaded, "activation_offload") == pytest.approx(copies, rel=1e-9)
    for phase in ("forward", "backward"):
        alone = layer_seconds(plain, phase)
        wanted = alone + copies - overlap * min(alone, copies)
        assert layer_seconds(offloaded, phase) == pytest.approx(wanted, rel=1e-9)


def test_launches_that_block_hide_nothing() -> None:
    constants = LINK | {"offload_overlap": 1.0}
    changes = offloading("core_attn", "attn_proj", blocking_launches=True)
    plain = costs(changes | {"fine_grained_activation_offloading": False}, **constants)
    found = costs(changes, **constants)
    copies = 5 * WIDE / 0.5e9
    assert layer_seconds(found, "forward") == pytest.approx(layer_seconds(plain, "forward") + copies)


def test_waiting_counts_as_compute() -> None:
    changes = offloading("core_attn", "attn_proj")
    plain, found = (
        costs(changes | {"fine_grained_activation_offloading": on}, **LINK).workloads.row(0, named=True)
        for on in (False, True)
    )
    more = found["iteration_seconds"] - plain["iteration_seconds"]
    assert more > 0
    assert found["compute_seconds"] - plain["compute_seconds"] == pytest.approx(more, rel=1e-9)
    assert found["exposed_comm_seconds"] == plain["exposed_comm_seconds"]


def drawn(seed: int) -> dict[str, Any]:
    """One of many workloads on one or two GPUs."""
    dice = random.Random(seed)
    modules = [each for each in MODULES if each != "attn_norm"]
    pp = dice.choice((1, 2))
    return offloading(
        *dice.sample(modules, dice.randint(1, len(modules))),
        **{"num_layers": dice.choice((2, 4, 8)), "pp": pp, "world_size": pp},
        **{"gated_mlp": dice.random() < 0.5, "first_k_dense": dice.choice((0, 1))},
        min_offloaded_tensor_size=dice.choice((0, 1000, 1 << 20)),
    )


def test_it_never_takes_more_of_the_device_nor_less_time() -> None:
    drawings = [drawn(seed) for seed in range(40)]
    before, after = (
        costed_on(
            pl.concat(
                small(**changes | {"fine_grained_activation_offloading": on}).with_columns(
                    workload=pl.lit(f"w{at}")
                )
                for at, changes in enumerate(drawings)
            ),
            [cluster()],
        )
        for on in (False, True)
    )
    assert (after["peak_memory_bytes"] <= before["peak_memory_bytes"]).all()
    assert (after["iteration_seconds"] >= before["iteration_seconds"]).all()
    # What is too small stays, and changes nothing.
    least = pl.Series([changes["min_offloaded_tensor_size"] for changes in drawings])
    for name in ("iteration_seconds", "peak_memory_bytes"):
        assert after[name].filter(least == 1 << 20).equals(before[name].filter(least == 1 << 20))
        assert not after[name].equals(before[name])


def test_more_hidden_is_never_slower() -> None:
    changes = offloading("core_attn", "attn_proj", "expert_fc1")
    found = [
        costs(changes, **LINK, offload_overlap=share).workloads["iteration_seconds"].item()
        for share in (0.0, 0.5, 1.0)
    ]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 4 layers of a micro-batch, but for one
        (offloading("core_attn", "attn_proj"), 3 * 5 * WIDE),
        # the smaller kind's, of which all have 5
        (offloading("core_attn", "attn_proj", "expert_fc1", first_k_dense=1), 3 * 5 * WIDE),
        # the first of two stages: 2 layers of 2 micro-batches
        (offloading("mlp_norm", pp=2, world_size=2, global_batch_size=8), 3 * WIDE),
        # by hand: of some stage 2 layers of one
        (
            offloading(
                *("mlp_norm",),
                **{"pp": 2, "world_size": 2, "global_batch_size": 8},
                num_layers_in_first_pipeline_stage=1,
            ),
            WIDE,
        ),
        (offloading("mlp_norm", fine_grained_activation_offloading=False), 0),
    ],
)
def test_the_least_that_a_host_keeps(changes: dict[str, Any], expected: int) -> None:
    assert small(**changes).select(least_activations_on_host()).item() == expected


def test_more_than_the_host_has_is_refused() -> None:
    frame = small(**offloading("core_attn", "attn_proj"))
    rates = {"fp8_matrix_flops_per_second": 0, "mxfp8_matrix_flops_per_second": 0}
    for host, refused in ((15 * WIDE, False), (15 * WIDE - 1, True)):
        found = findings(frame, clusters={"one": rates | {"host_bytes": host}})
        assert ("activations_of_host" in set(found["rule"])) is refused


def test_activations_and_optimizer_share_the_host() -> None:
    both = {"use_precision_aware_optimizer": True, "optimizer_cpu_offload": True}
    frame = small(**offloading("core_attn", "attn_proj") | both)
    rates = {"fp8_matrix_flops_per_second": 0, "mxfp8_matrix_flops_per_second": 0}
    # Of a layer 4 · 64² of attention and 4 experts of 2 · 64 · 128; 16 bytes of each
    states = 16 * 4 * (4 * 64**2 + 4 * 2 * 64 * 128)
    rules = [
        set(findings(frame, clusters={"one": rates | {"host_bytes": host}})["rule"])
        for host in (states + 15 * WIDE, states + 15 * WIDE - 1, states - 1)
    ]
    found = [{"activations_of_host", "offload_of_host"} & each for each in rules]
    assert found == [set(), {"activations_of_host"}, {"offload_of_host"}]


def test_what_is_not_written() -> None:
    workload = small(**offloading("core_attn")).row(0, named=True)
    for format_ in ("simai", "chakra", "goal", "perfetto", "unrolled"):
        paths = {problem.path for problem in inexpressible(format_, workload)}
        assert paths == {"fine_grained_activation_offloading"}
    assert "fine_grained_activation_offloading" in {problem.path for problem in not_of_aicb(workload)}
    assert {"cpu_offloading", "activation_offload_fraction"} <= UNMODELLED


def test_what_nobody_measured() -> None:
    known = cluster().constants["offload_overlap"]
    assert (known.tag, known.low, known.value, known.high) == ("assumed", 0.5, 0.9, 1.0)


ON = "--fine-grained-activation-offloading"


@pytest.mark.parametrize(
    ("said", "expected", "idle"),
    [
        (f"{ON} --offload-modules core_attn attn_proj", (True, ["core_attn", "attn_proj"], None), set()),
        (f"{ON} --offload-modules moe_act --min-offloaded-tensor-size 0", (True, ["moe_act"], 0), set()),
        ("--offload-modules moe_act", (None, None, None), {"offload_modules"}),
        ("--min-offloaded-tensor-size 1048576", (None, None, None), set()),
    ],
)
def test_what_a_script_offloads(tmp_path: Path, said: str, expected: tuple[Any, ...], idle: set[str]) -> None:
    script = foreign_files.MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    keys = ("fine_grained_activation_offloading", "offload_modules", "min_offloaded_tensor_size")
    assert tuple(draft.row.get(key, (None,))[0] for key in keys) == expected
    assert set(keys) & set(draft.idle) == idle


@pytest.mark.parametrize(("share", "unread"), [(1.0, None), (0.5, 0.5)])
def test_what_a_recipe_offloads(share: float, unread: float | None) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    said = {"fine_grained_activation_offloading": True, "offload_modules": ["moe_act"]}
    recipe["model"] |= said | {"activation_offload_fraction": share}
    draft = read_recipe(recipe, "recipe.yaml")
    assert draft.row["offload_modules"][0] == ["moe_act"]
    assert draft.unread.get("activation_offload_fraction") == unread
