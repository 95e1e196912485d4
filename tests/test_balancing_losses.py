"""Losses that balance experts: ops and bytes by hand, in both traces."""

from typing import Any

import pytest
import yaml

import foreign_files
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.transformers import read_config
from moesweep.trace.programs import folded, programs
from naive_trace import naive_program
from public_configs import DEEPSEEK_V3
from small import DENSE, small

LOSS = "moe_router_load_balancing_type"


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
    # 64 tokens over tp 2 and 4 experts: 26 and 28 B a logit, fp32 counts summed over both ranks
    forward = ("forward", "balancing_loss", 26 * 32 * 4, None, 0, 0, 0)
    backward = ("backward", "balancing_loss", 28 * 32 * 4, None, 0, 0, 0)
    rows = [forward, ("forward", "balancing_loss_reduce", 0, "tp", 2, 16, 16), backward]
    assert of_losses(trace(**{LOSS: "aux_loss"})) == rows
    assert of_losses(trace(**{LOSS: "seq_aux_loss"})) == rows
    # Of two sequences each has its own counts.
    two = of_losses(trace(**{LOSS: "seq_aux_loss", "micro_batch_size": 2}))
    assert two[1] == ("forward", "balancing_loss_reduce", 0, "tp", 2, 32, 32)
    assert of_losses(trace(**{LOSS: "aux_loss", "micro_batch_size": 2}))[1] == rows[1]
    shared = {"cp": 2, "tp": 1, "flash_attention": True}
    assert of_losses(trace(**{LOSS: "aux_loss"} | shared))[1] == (
        *("forward", "balancing_loss_reduce", 0, "cp", 2, 16, 16),
    )
    # Ranks of one micro-batch are tp 2 x cp 2: 2 x 3/4 x 16 B each
    both_ways = {"cp": 2, "flash_attention": True, "world_size": 16}
    assert of_losses(trace(**{LOSS: "aux_loss"} | both_ways))[1] == (
        *("forward", "balancing_loss_reduce", 0, "tp_cp", 4, 16, 24),
    )
    alone = of_losses(trace(**{LOSS: "aux_loss", "tp": 1}))
    assert [row[1] for row in alone] == ["balancing_loss", "balancing_loss"]


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


@both
def test_a_recomputed_module_counts_again(trace: Any) -> None:
    again = {"recompute": "selective", "recompute_modules": "moe", LOSS: "aux_loss"}
    names = [row[1] for row in of_losses(trace(**again)) if row[0] == "backward"]
    assert names == ["recompute_balancing_loss", "recompute_balancing_loss_reduce", "balancing_loss"]


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
        (["aux_loss", "seq_aux_loss"], None, ["aux_loss", "seq_aux_loss"]),
        ("global_aux_loss", None, "global_aux_loss"),
    ],
)
def test_a_recipe_s_loss_is_read(said: Any, read: Any, unread: Any) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {LOSS: said}
    draft = read_recipe(recipe, "recipe.yaml")
    assert (draft.row.get(LOSS, (None,))[0], draft.unread.get(LOSS)) == (read, unread)
