"""What layers hide: linears whose parts travel meanwhile, messages, shared experts."""

from typing import Any

import polars as pl
import pytest
import yaml

import foreign_files
from costing import costs
from costing import seconds as op_seconds
from moesweep.study.importers.bridge import read_recipe
from naive_pipeline import makespan
from overlapping import WIDE

GROUP = "microbatch_group_size_per_vp_stage"


def test_linears_work_on_one_part_while_the_others_travel() -> None:
    """Two tp ranks: 2 B x 1024 x 4096 gathered or scattered, half of it over 100 GB/s, 41.9 us.

    Half of every GEMM is longer, so 6 of them hide: of qkv and fc1, of attention's output and fc2, forward
    the four and backward the last two. Where GEMMs take no time, nothing is hidden.
    """
    changes = WIDE | {"tp": 2, "flash_attention": True}
    once = 2 * 1024 * 4096 / 2 / 100e9
    for rate, parts in ((1.0, 6), (1e6, 0)):
        plain, beside = (
            costs(
                changes | {"tp_comm_overlap": on},
                userbuffers_overlap=0.5,
                matrix_flops_per_second=rate * 100e12,
                hbm_bytes_per_second=rate * 1e12,
            ).workloads.row(0, named=True)
            for on in (False, True)
        )
        m = plain["num_microbatches"]
        saved = plain["exposed_comm_seconds"] - beside["exposed_comm_seconds"]
        assert saved == pytest.approx(m * 4 * parts * once * 0.5, abs=1e-8)
        assert plain["iteration_seconds"] - beside["iteration_seconds"] == pytest.approx(saved, abs=1e-8)
        assert plain["tp_comm_seconds"] == beside["tp_comm_seconds"]


def test_short_linears_hide_as_much_as_they_last() -> None:
    """Of a GEMM on t ranks (t-1)/t: the collectives are 1000 times as slow."""
    changes = WIDE | {"tp": 4, "flash_attention": True, "tp_comm_overlap": True}
    found = costs(changes, userbuffers_overlap=1.0, node_bus_4_bytes_per_second=1e8)
    linears = {"forward": ("qkv", "attention_output", "fc1", "fc2")}
    linears["backward"] = ("attention_output_dgrad", "fc2_dgrad")
    for phase, names in linears.items():
        hidden = found.passes.filter((pl.col("phase") == phase) & (pl.col("layer_kind") == "dense"))
        expected = 3 / 4 * sum(op_seconds(found, name, phase) for name in names)
        assert hidden["linears_hidden"].item() == pytest.approx(expected)


def test_messages_that_nothing_hides_are_part_of_their_chunk() -> None:
    """Four stages of two chunks of a layer; every chunk but the first waits for a message of 1 ms."""
    changes = WIDE | {"pp": 4, "virtual_pipeline": 2, "num_layers": 8, "world_size": 8}
    changes |= {"global_batch_size": 16}
    seconds = {}
    for overlaps in (True, False):
        found = costs(changes | {"overlap_p2p_comm": overlaps}, p2p_latency_seconds=1e-3)
        row = found.workloads.row(0, named=True)
        layer = {
            phase: found.passes.filter((pl.col("phase") == phase) & (pl.col("layer_kind") == "dense"))[
                "seconds"
            ].item(0)
            for phase in ("forward", "backward")
        }
        around = found.passes.filter(pl.col("layer_kind").is_null())
        message = around.filter((pl.col("stage") == 1) & (pl.col("phase") == "forward"))["pp_comm"].item() / 2
        assert message > 1e-3
        ends = {
            (stage, phase): total - arrivals
            for stage, phase, total, arrivals in around.select("stage", "phase", "seconds", "arrivals").rows()
        }
        lengths = {
            phase: [
                layer[phase]
                + (ends[stage, phase] if virtual in (0, 7) else 0.0)
                + (0.0 if overlaps or virtual == (0 if phase == "forward" else 7) else message)
                for virtual in range(8)
                for stage in [virtual % 4]
            ]
            for phase in ("forward", "backward")
        }
        waits = (message, message) if overlaps else (0.0, 0.0)
        expected = makespan(lengths["forward"], lengths["backward"], row["num_microbatches"], 2, waits, 4)
        tail = found.stages["tail_seconds"].max()
        seconds[overlaps] = row["iteration_seconds"]
        assert row["iteration_seconds"] == pytest.approx(expected + tail)
        # The slowest stage is the last one or the first: it gets 3 of 4 messages a micro-batch.
        assert row["pp_hidden_seconds"] == pytest.approx(row["pp_comm_seconds"] if overlaps else 0)
    assert seconds[True] < seconds[False]


@pytest.mark.parametrize(
    ("said", "changes", "key", "value"),
    [
        ({"tp_comm_overlap": True}, {}, "tp_comm_overlap", True),
        ({"tp_comm_overlap": True}, {"tensor_model_parallel_size": 1}, "tp_comm_overlap", None),
        ({"overlap_p2p_comm": False}, {"virtual_pipeline_model_parallel_size": 2}, "overlap_p2p_comm", False),
        (
            {"overlap_p2p_comm": True},
            {"virtual_pipeline_model_parallel_size": None},
            "overlap_p2p_comm",
            None,
        ),
        *(
            ({}, {"virtual_pipeline_model_parallel_size": chunks, GROUP: 6}, GROUP, value)
            for chunks, value in ((2, 6), (None, None))
        ),
    ],
)
def test_recipes_say_what_has_an_effect(
    said: dict[str, Any], changes: dict[str, Any], key: str, value: bool | int | None
) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {"tensor_model_parallel_size": 2} | changes
    recipe["comm_overlap"] = said
    draft = read_recipe(recipe, "recipe.yaml")
    assert draft.row.get(key, (None,))[0] is value
    assert key not in draft.unread


SHARING: dict[str, Any] = {
    **{"world_size": 8, "tp": 1, "pp": 1, "ep": 8, "num_experts": 8, "moe_router_topk": 2, "num_layers": 2},
    **{"hidden_size": 1024, "moe_ffn_hidden_size": 1024, "seq_length": 1024, "global_batch_size": 8},
    **{"num_shared_experts": 1, "flash_attention": True},
}


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_shared_experts_run_beside_the_exchanges(recompute: str) -> None:
    """One layer: the shorter of dispatch and fc1 with its activation, of combine and fc2; backward likewise.

    1024 tokens of 2 copies of 2 KiB, 7/8 of them over 100 GB/s: 36.7 us.
    """
    found = costs(SHARING | {"moe_shared_expert_overlap": True, "recompute": recompute}, ep_overlap=0.5)
    plain = costs(SHARING | {"recompute": recompute})
    exchange = 7 / 8 * 2 * 1024 * 2 * 1024 / 100e9
    assert op_seconds(found, "moe_dispatch") == pytest.approx(exchange)

    def beside(phase: str, *kernels: str) -> float:
        return min(exchange, sum(op_seconds(found, f"shared_{name}", phase) for name in kernels))

    forward = beside("forward", "fc1", "activation") + beside("forward", "fc2")
    backward = beside("backward", "fc1_dgrad", "fc1_wgrad", "activation")
    backward += beside("backward", "fc2_dgrad", "fc2_wgrad")
    assert beside("forward", "fc2") < exchange == beside("backward", "fc2_dgrad", "fc2_wgrad")
    backward += forward if recompute == "full" else 0
    passes = found.passes.filter(layer_kind="moe")
    hidden = dict(passes.select(pl.col("phase").cast(pl.String), "exchanges_hidden").iter_rows())
    assert hidden == pytest.approx({"forward": forward, "backward": backward})
    rows = [each.workloads.row(0, named=True) for each in (plain, found)]
    saved = rows[0]["iteration_seconds"] - rows[1]["iteration_seconds"]
    assert saved == pytest.approx(2 * 0.5 * (forward + backward))
    assert rows[1]["ep_hidden_seconds"] == pytest.approx(saved)
    assert rows[1]["ep_comm_seconds"] == rows[0]["ep_comm_seconds"]
    assert rows[0]["ep_hidden_seconds"] == 0
