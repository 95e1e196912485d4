"""Sequences shared in two steps, an exchange of heads and rings: by hand, and what holds of all of them."""

from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import foreign_files
from costing import cluster, costs
from explained import agrees, everything_below
from moesweep.evaluate.costs import costed
from moesweep.explain.ledger import Ledger
from moesweep.explain.metrics import metric
from moesweep.export.shared_sequences import inexpressible
from moesweep.network.unit import unit_flows
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import groups, ranks
from moesweep.study.importers.bridge import read_recipe
from moesweep.trace.programs import folded, programs
from moesweep.traffic.matrices import rank_matrix
from moesweep.traffic.messages import Placed
from shared_by_cp import SENT, SHARED, both, found
from small import DENSE, small

STEPS = "hierarchical_context_parallel_sizes"
ONE_STEP = {"cp_comm_type": "p2p", STEPS: "none"}
IN_STEPS = SHARED | {
    **{"cp": 4, "world_size": 32, "cp_comm_type": "a2a+p2p"},
    STEPS: "[2,2]",
}


@both
def test_heads_are_exchanged_and_keys_passed_on(trace: Any) -> None:
    """Of cp 4 neighbours exchange, and then have 32 tokens of half of the heads: a ring of two.

    TransformerEngine `AttnFuncWithCPAndKVP2P` with `cp_group` [a2a, p2p].
    """
    rows = trace(**IN_STEPS)
    for phase, tensors in (("forward", 1), ("backward", 2)):
        sent = found(rows, phase, "group_kind", *SENT)
        # 2 B x 16 tokens x 32, or 16; half of it stays
        for name, size in (("q", 1024), ("k", 512), ("v", 512), ("output", 1024)):
            assert sent[f"{name}_exchange"] == ("cp_a2a", "all_to_all", 2, size, size // 2)
        # 1 message of 2 B x 32 tokens x (8 + 8); backward their gradients too
        assert sent["kv_ring_send"] == ("cp_p2p", "send", 2, tensors * 1024, tensors * 1024)
        moved = found(rows, phase, "hbm_bytes")
        assert (moved["context_reorder"], moved["output_reorder"]) == ((8192,), (4096,))
    kernel = ("m", "n", "k", "flops", "hbm_bytes")
    # Half of 4 x 32 x 64 x 16 flops, two blocks of 2 B x 32 x (16 + 8 + 8 + 16), outputs of 2 B x 32 x 16.
    forward = (32, 64, 16, 65_536, 2 * 3072 + 5 * 1024)
    assert found(rows, "forward", *kernel)["core_attention"] == forward
    backward = (32, 64, 16, 163_840, 2 * 6144 + 3 * 2048)
    assert found(rows, "backward", *kernel)["core_attention"] == backward
    order = [row["op"] for row in rows if (row["phase"], row["layer"]) == ("forward", 0)]
    first, core = order.index("q_exchange"), order.index("core_attention")
    names = ("k_exchange", "v_exchange", "context_reorder", "kv_ring_send", "kv_ring_recv", "core_attention")
    assert order[first + 1 : core + 3] == [*names, "output_reorder", "output_exchange"]


def test_neighbours_exchange_and_others_pass_on() -> None:
    """Ranks of tp 2 and cp 4: two places apart exchange, four places apart pass on."""
    members = groups(small(**IN_STEPS).row(0, named=True))
    of_kind = {
        kind: members.filter(group_kind=kind).group_by("group_id", maintain_order=True).agg("rank")["rank"]
        for kind in ("cp_a2a", "cp_p2p")
    }
    assert of_kind["cp_a2a"].to_list()[:4] == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert of_kind["cp_p2p"].to_list()[:4] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert not set(groups(small(**SHARED).row(0, named=True))["group_kind"]) & set(of_kind)
    layout = small(**IN_STEPS).row(0, named=True)
    flows = unit_flows(layout, 8)
    for kind, peer in (("cp_a2a", 2), ("cp_p2p", 4)):
        own = (flows.key == GROUP_KINDS.index(kind)) & (flows.source == 0)
        assert (flows.target[own].tolist(), flows.bytes[own].tolist()) == ([peer], [1.0])


def test_seconds_of_two_steps_by_hand() -> None:
    """Exchanges at 100 GB/s inside nodes of 4 GPUs, messages between them at 10 GB/s; 1 ns each."""
    alone = IN_STEPS | DENSE | {"pp": 1, "world_size": 8, "num_layers": 2}
    slow = {"p2p_latency_seconds": 1e-9, "all_to_all_latency_seconds": 1e-9, "gpus_per_node": 4.0}
    costed_ = costs(alone, **slow, tp_overlap=0.5)
    seconds = {
        (op, phase): value for op, phase, value in costed_.ops["op", "phase", "seconds"].unique().rows()
    }
    exchange = {size: 1e-9 + size / 2 / 100e9 for size in (1024, 512)}
    for phase, tensors in (("forward", 1), ("backward", 2)):
        assert seconds["q_exchange", phase] == pytest.approx(exchange[1024])
        assert seconds["k_exchange", phase] == pytest.approx(exchange[512])
        # one message forward; backward keys, and then their gradients
        assert seconds["kv_ring_recv", phase] == pytest.approx(tensors * (1e-9 + 1024 / 10e9))
    # beside half of attention, one of two blocks
    forward, backward = 65_536 / 100e12 + 11_264 / 1e12, 163_840 / 100e12 + 18_432 / 1e12
    ring = 1e-9 + 1024 / 10e9
    row = costed_.workloads.row(0, named=True)
    once = 2 * 2 * (exchange[1024] + exchange[512]) + 3 * ring
    assert row["cp_comm_seconds"] == pytest.approx(32 * 2 * once)
    hidden = 0.5 * (min(ring, forward / 2) + min(2 * ring, backward / 2))
    assert row["cp_hidden_seconds"] == pytest.approx(32 * 2 * hidden)
    assert row["other_comm_seconds"] == pytest.approx(
        costs(alone | ONE_STEP, **slow).workloads["other_comm_seconds"][0]
    )


@given(st.sampled_from([2, 4]), st.sampled_from(["none", "selective", "full"]), st.booleans())
@settings(max_examples=6, deadline=None)
def test_of_two_steps_one_may_be_nothing(cp: int, recompute: str, moe: bool) -> None:
    """Transformer Engine then takes the other way; so do bytes, seconds and memory."""
    plain = {"flash_attention": True, "world_size": 16, "tp": 2, "recompute": recompute, "cp": cp}
    plain |= {} if moe else DENSE
    for way, steps in (("p2p", f"[1,{cp}]"), ("a2a", f"[{cp},1]")):
        in_steps = {"cp_comm_type": "a2a+p2p", "hierarchical_context_parallel_sizes": steps}
        one, two = (small(**plain | some) for some in ({"cp_comm_type": way}, in_steps))
        numbers = pl.exclude("workload", "group_kind", "position")
        assert folded(one).select(numbers).equals(folded(two).select(numbers))
        both_ways = pl.concat([one, two.with_columns(workload=pl.lit("two"))])
        found_ = costed(both_ways, pl.DataFrame([cluster().values])).select(pl.col(pl.Float64))
        assert [pytest.approx(value) for value in found_.row(0)] == list(found_.row(1))


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_what_is_sent_in_either_step_is_received(recompute: str) -> None:
    """Every rank sends as much as it receives, within its communicators; what is recomputed goes forward."""
    changes = IN_STEPS | {"recompute": recompute}
    workload, rows = small(**changes).row(0, named=True), programs(small(**changes))
    matrix = rank_matrix(rows, groups(workload), ranks(workload), Placed(8))
    for kind in ("cp_a2a", "cp_p2p"):
        own, place = matrix.filter(group_kind=kind), ranks(workload).select("rank", kind=f"{kind}_group")
        assert own["bytes"].sum() > 0
        sums = [
            dict(own.group_by(end).agg(pl.col("bytes").sum()).sort(end).iter_rows()) for end in ("src", "dst")
        ]
        assert sums[0] == sums[1]
        assert len(sums[0]) == workload["world_size"]
        ends = [place.rename({"rank": end, "kind": f"{end}_group"}) for end in ("src", "dst")]
        pairs = own.join(ends[0], on="src").join(ends[1], on="dst")
        assert (pairs["src_group"] == pairs["dst_group"]).all()


@pytest.mark.parametrize(
    ("format_", "path"), [("goal", "cp_comm_type"), ("chakra", "cp_comm_type"), ("simai", "cp")]
)
def test_formats_without_rings_refuse_both_steps(format_: str, path: str) -> None:
    (problem,) = inexpressible(format_, small(**IN_STEPS).row(0, named=True))
    assert problem.path == path
    assert not inexpressible("perfetto", small(**IN_STEPS).row(0, named=True))


def test_their_seconds_have_an_explanation() -> None:
    ledger = Ledger(small(**IN_STEPS), cluster(), {})
    for wanted in ("cp_comm_seconds", "cp_hidden_seconds", "peak_memory_bytes"):
        nodes = list(everything_below(metric(ledger, wanted)))
        assert [node.key for node in nodes if not agrees(node)] == []


@pytest.mark.parametrize(
    ("said", "way", "cp", "read", "left"),
    [
        ([2, 2], "a2a+p2p", 4, [2, 2], ""),
        ("2 2", "a2a+p2p", 4, [2, 2], ""),
        ([2, 2, 2], "a2a+p2p", 8, None, "unread"),
        ("2,x", "a2a+p2p", 4, None, "unread"),
        ([2, 2], "p2p", 4, None, "idle"),
        ([2, 2], "a2a+p2p", 1, None, "idle"),
    ],
)
def test_both_steps_are_read(said: Any, way: str, cp: int, read: Any, left: str) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {"context_parallel_size": cp, "cp_comm_type": way, STEPS: said}
    draft = read_recipe(recipe, "recipe.yaml")
    assert draft.row.get(STEPS, (None,))[0] == read
    assert (STEPS in draft.unread, STEPS in draft.idle) == (left == "unread", left == "idle")
