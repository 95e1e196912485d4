"""What must hold of any model on any layout: ranks hold the model together, and compute what it needs."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costing import constants
from moesweep.cost.model import cost, with_constants
from moesweep.shapes.weights import stage_parameters
from moesweep.trace.programs import folded, programs, stages
from small import DENSE, MLA, small

# No padding: a multiple of 128 times the largest tp.
VOCABULARY = 1024
MIXED: dict[str, list[Any]] = {
    "gated_mlp": [False, True],
    "tied_embeddings": [False, True],
    "normalization": ["layernorm", "rmsnorm"],
    "position_embedding": ["rope", "learned"],
    "qk_layernorm": [False, True],
    "flash_attention": [False, True],
    "hidden_dropout": [0.0, 0.1],
    "mtp_num_layers": [0, 1],
    "num_layers": [4, 6],
}
ATTENTIONS: list[dict[str, Any]] = [
    {},
    {"head_dim": 16, "num_query_groups": 2, "attention": "gqa", "add_qkv_bias": True},
    {"num_query_groups": 2, "attention": "gqa", "softmax_type": "learnable"},
    {"window_size": "[15,0]", "window_attn_skip_freq": "2", "mtp_num_layers": 0},
    MLA | {"q_lora_rank": 48},
    MLA,
]
MLPS: list[dict[str, Any]] = [
    DENSE,
    DENSE | {"add_bias_linear": True},
    {"num_experts": 8},
    {"num_experts": 8, "num_shared_experts": 2, "moe_shared_expert_gate": True, "moe_ffn_hidden_size": 64},
    {"num_experts": 8, "first_k_dense": 1},
    {"num_experts": 8, "moe_layer_freq": "2"},
]


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the keys of a model."""
    mixed = {key: draw(st.sampled_from(values)) for key, values in MIXED.items()}
    return {
        **{"vocab_size": VOCABULARY, "hidden_size": 64, "ffn_hidden_size": 256, "seq_length": 64},
        **mixed,
        **draw(st.sampled_from(ATTENTIONS)),
        **draw(st.sampled_from(MLPS)),
    }


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Draw how many GPUs train it, and how."""
    tp, pp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    ep, edp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    return {"tp": tp, "pp": pp, "ep": ep, "world_size": tp * pp * ep * edp, "global_batch_size": 32}


ALONE: dict[str, Any] = {"tp": 1, "pp": 1, "ep": 1, "world_size": 1, "global_batch_size": 1}


def placed(model: dict[str, Any], layout: dict[str, Any]) -> pl.DataFrame:
    """Return a model's workload on a layout; without experts no rank is theirs."""
    dense = model.get("num_experts") == 0
    return small(**model | layout | ({"ep": 1} if dense else {}))


def held(model: dict[str, Any], layout: dict[str, Any]) -> tuple[int, int]:
    """Return the parameters of one rank of each stage together: dense, and of all experts."""
    frame = placed(model, layout)
    dense, expert = stage_parameters()
    # Experts that stand in the dense buffer are told apart by an edp that their own buffer would have.
    found = stages(frame).select(dense=dense.sum(), expert=(expert * pl.col("ep")).sum())
    return found["dense"].item(), found["expert"].item()


@settings(max_examples=10, deadline=None)
@given(models(), st.sampled_from([1, 2]), st.sampled_from([1, 2, 4, 8]))
def test_ranks_hold_the_model_together(model: dict[str, Any], pp: int, ep: int) -> None:
    layout = {"tp": 1, "pp": pp, "ep": ep, "world_size": pp * ep, "global_batch_size": 8}
    row = placed(model, layout).row(0, named=True)
    predicts = row["mtp_num_layers"] > 0
    copies = (row["tied_embeddings"] or predicts) if pp > 1 else 0
    table = VOCABULARY * 64
    assert sum(held(model, layout)) == row["parameters"] + row["mtp_parameters"] + copies * table


@settings(max_examples=10, deadline=None)
@given(models(), st.sampled_from([2, 4]))
def test_tp_ranks_hold_parts_or_copies(model: dict[str, Any], tp: int) -> None:
    """Of each tensor a rank has 1/tp or all: what t ranks have beyond one alone is t - 1 times the latter."""
    layout = {"pp": 1, "ep": 8 if model.get("num_experts") else 1, "world_size": 16, "global_batch_size": 16}
    alone = held(model, layout | {"tp": 1, "etp": 1})
    cut = [held(model, layout | {"tp": t, "etp": 1})[0] for t in (tp, 2 * tp)]
    copies = [(t * size - alone[0]) / (t - 1) for t, size in zip((tp, 2 * tp), cut, strict=True)]
    assert copies[0] == copies[1] >= 0
    assert held(model, layout | {"tp": tp, "etp": 1})[1] == alone[1]


@settings(max_examples=6, deadline=None)
@given(models(), layouts())
def test_flops_do_not_depend_on_the_layout(model: dict[str, Any], layout: dict[str, Any]) -> None:
    found = []
    for where in (layout, ALONE):
        frame = placed(model, where)
        row = cost(folded(frame), with_constants(frame, constants())).workloads.row(0, named=True)
        scale = where["world_size"] / where["global_batch_size"]
        found.append([row[name] * scale for name in ("model_flops", "causal_model_flops")])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0][1] <= found[0][0]


@settings(max_examples=10, deadline=None)
@given(models(), layouts())
def test_what_is_sent_is_received(model: dict[str, Any], layout: dict[str, Any]) -> None:
    rows = programs(placed(model, layout)).filter(pl.col("kind") == "p2p")
    total = rows.group_by("op").agg(pl.col("num_microbatches").mul(pl.col("comm_bytes")).sum())
    sums = dict(total.iter_rows())
    assert sums.get("send_forward", 0) == sums.get("recv_forward", 0)
    assert sums.get("send_backward", 0) == sums.get("recv_backward", 0)
    # A gather mirrors a scatter of as much.
    rows = programs(placed(model, layout)).filter(pl.col("layer") >= 0)
    both = rows.filter(pl.col("collective").is_in(["all_gather", "reduce_scatter"]))
    names = both.group_by("op", "layer", "group_kind").agg("comm_bytes")
    assert all(len(set(sizes)) == 1 for sizes in names["comm_bytes"].to_list())
