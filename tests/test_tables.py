"""The tables: hand-worked numbers of a small sweep (tests/tabled.py), and the study's counts."""

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.report.answer import experts_across_nodes
from moesweep.report.evidence import Evidence
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table
from moesweep.study.catalog import load_cluster
from moesweep.study.rules import RULES
from moesweep.study.sweep import enumerate_sweep
from moesweep.tables.catalogue import REFUSED, distribution_examples, ep_breakdown
from moesweep.tables.claims import ep_claims
from moesweep.tables.exposed import COMM_KINDS, HIDDEN_KINDS, exposed_communication
from moesweep.tables.registry import TABLES
from moesweep.tables.results import Inputs, per_iteration, read_inputs
from moesweep.tables.summary.insights import key_insights
from tabled import CLUSTER, CROSSED, EP, SMALL, make, row, table


@pytest.fixture(scope="module")
def small(root: Path, in_root: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(root, tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def study(root: Path) -> Inputs:
    workloads = enumerate_sweep(root, "config/sweeps/moe-a100-123.yaml")
    empty = pl.DataFrame()
    cluster = load_cluster(root, CLUSTER)
    return Inputs(Results(root / "none"), workloads, empty, empty, empty, empty, cluster)


def test_the_study_breaks_down_into_the_seeds_numbers(study: Inputs) -> None:
    rows = ep_breakdown(study).rows()
    assert rows == [(16, 2, 8, 5, 5), (16, 4, 4, 16, 16), (16, 8, 2, 33, 32), (16, 16, 1, 69, 69)]


def test_the_study_has_the_seeds_three_examples(study: Inputs) -> None:
    columns = ("world_size", "tp", "pp", "ep", "edp", "dp", "experts_per_ep_rank")
    examples = distribution_examples(study).select(columns).rows()
    assert examples == [(1024, 16, 2, 16, 2, 32, 1), (512, 8, 8, 8, 1, 8, 2), (1024, 4, 8, 4, 8, 32, 4)]


def test_a_sweep_without_the_seeds_examples_has_its_own(small: Results) -> None:
    examples = table(small, "distribution_examples")
    assert examples.select("world_size", "ep").rows() == [(64, 2), (32, 4), (32, 8)]


def test_repeated_entries_count_as_listed(small: Results) -> None:
    breakdown = table(small, "ep_breakdown").select("ep", "entries", "distinct").rows()
    assert breakdown == [(2, 3, 3), (4, 2, 1), (8, 1, 1)]
    summary = small.summary.read_text(encoding="utf-8")
    assert "6 entries, 5 distinct: gpt_7B world_size=32, tp=2, pp=2, ep=4 is" in summary
    row = table(small, "workloads").row(0, named=True)
    assert f"{row['parameters']:,}  {row['active_parameters']:>14,}" in summary


def test_the_token_exchange_by_hand(small: Results) -> None:
    found = row(small, "communication", workload=EP.format(4), op="moe_dispatch", phase="forward")
    runs = 18 * 4
    assert found["comm_bytes"] == 4_194_304
    assert (found["ranks"], found["executions"], found["executions_per_rank"]) == (32, 32 * runs, runs)
    assert found["total_comm_bytes"] == 32 * runs * 4_194_304
    assert found["total_wire_bytes"] == 32 * runs * 3_145_728
    assert found["wire_bytes_per_rank"] == runs * 3_145_728


def test_an_op_of_one_stage_is_spread_over_the_mean_rank(small: Results) -> None:
    found = row(small, "communication", workload=EP.format(4), op="head_gather", phase="forward")
    assert (found["ranks"], found["executions"], found["executions_per_rank"]) == (16, 16 * 4, 2)
    assert found["wire_bytes_per_rank"] == 4 / 2 * 4_194_304 / 2


def test_bytes_agree_with_the_trace_of_every_rank(small: Results) -> None:
    for workload in table(small, "workloads")["workload"]:
        ops = read_table(small.trace("ops", workload), "ops")
        traced = ops.select(pl.col("wire_bytes", "comm_bytes").dot(pl.col("num_microbatches"))).row(0)
        moved = table(small, "communication").filter(workload=workload)
        assert moved.select(pl.col("total_wire_bytes", "total_comm_bytes").sum()).row(0) == traced


def test_groups_are_sums_of_ops(small: Results) -> None:
    names = ["executions", "total_comm_bytes", "total_wire_bytes", "seconds_per_rank"]
    keys = ["workload", "group_kind", "phase"]
    sums = table(small, "communication").group_by(keys).agg(pl.col(names).sum()).sort(keys)
    groups = table(small, "communication_by_group").sort(keys)
    assert groups.select(*keys, "executions").equals(sums.select(*keys, "executions"))
    for name in names[1:]:
        assert groups[name].to_list() == pytest.approx(sums[name].to_list())
    shares = groups.group_by("workload").agg(pl.col("wire_share").sum())["wire_share"]
    assert shares.to_list() == pytest.approx([1.0] * shares.len())


def test_links_carry_what_ops_send(small: Results) -> None:
    """tp pairs share a node; an EP group of 4 with tp 2 fills one, so only edp and pp leave it."""
    rows = table(small, "link_traffic").filter(pl.col("workload").str.contains("gpt_7B-ws32-tp2-pp2-ep4"))
    kinds = {link: set(rows.filter(pl.col("link") == link)["group_kind"]) for link in ("node", "network")}
    assert {"tp", "etp", "ep"} <= kinds["node"]
    assert {"edp", "pp"} <= kinds["network"]
    assert not {"tp", "etp", "ep"} & kinds["network"]
    sent = rows.group_by("group_kind", "phase").agg(pl.col("total_bytes").sum())
    by_group = table(small, "communication_by_group").join(rows, on="workload", how="semi")
    traced = by_group.select("group_kind", "phase", "total_wire_bytes").filter(pl.col("total_wire_bytes") > 0)
    assert {row[:2]: row[2] for row in sent.iter_rows()} == {row[:2]: row[2] for row in traced.iter_rows()}
    assert rows.group_by("link").agg(pl.col("link_share").sum())["link_share"].to_list() == pytest.approx(
        [1, 1]
    )
    nic = rows.filter(pl.col("link") == "network").row(0, named=True)
    assert nic["line_seconds"] == nic["busiest_gpu_bytes"] / 25e9


def test_a_message_is_waited_for_where_it_arrives(small: Results) -> None:
    seconds = table(small, "communication").group_by("collective").agg(pl.col("seconds_per_rank").sum())
    waited = dict(seconds.rows())
    assert waited["send"] == 0
    assert waited["recv"] > 0


def test_nodes_of_ep_groups_that_nodes_do_not_hold_whole(root: Path, in_root: None, tmp_path: Path) -> None:
    """Tables, page and costs count two nodes, as those of the group {6, 7, 8}, and its bytes leave nodes."""
    results = make(root, tmp_path, CROSSED)
    scaling = table(results, "ep_scaling").sort("ep")
    assert scaling["nodes_per_ep_group"].to_list() == [1, 2]
    crossed = scaling["workload"][1]
    evidence = Evidence(results)
    assert experts_across_nodes(evidence) == (1, 2)
    leaving = evidence.links.filter(link="network", group_kind="ep")
    assert leaving["workload"].unique().to_list() == [crossed]
    # Of the exchange's two peers, both may stand on another node: 2/3 of a buffer on the network card.
    costed = read_table(results.cost_ops(crossed), "cost_ops")
    dispatch = costed.filter(op="moe_dispatch", phase="forward").row(0, named=True)
    cluster = load_cluster(root, CLUSTER).values
    line = cluster["all_to_all_efficiency"] * cluster["nic_bytes_per_second"] * cluster["fabric_efficiency"]
    latency = cluster["all_to_all_latency_seconds"] + 2 * cluster["all_to_all_peer_seconds"]
    assert dispatch["seconds"] == pytest.approx(latency + dispatch["comm_bytes"] * 2 / 3 / line)


def test_the_comparison_of_ep_by_hand(small: Results) -> None:
    scaling = table(small, "ep_scaling")
    assert scaling["workload"].to_list() == [EP.format(ep) for ep in (2, 4, 8)]
    assert scaling["comparison"].to_list() == [1, 1, 1]
    assert scaling["edp"].to_list() == [4, 2, 1]
    assert scaling["nodes_per_ep_group"].to_list() == [1, 1, 2]
    # 4 exchanges a layer (2 forward, 2 backward), 18 layers a rank, 4 micro-batches.
    wire = [4 * 18 * 4 * 4_194_304 * part for part in (1 / 2, 3 / 4, 7 / 8)]
    assert scaling["all_to_all_wire_bytes"].to_list() == wire
    assert scaling["all_to_all_wire_bytes_ratio"].to_list() == [1, 1.5, 1.75]
    # Two products of 1024 rows with 4096 x 8192 weights, each three times (forward, both gradients).
    flops = 2 * 1024 * 4096 * 8192 * 2 * 3 * 18 * 4
    assert scaling["expert_flops"].to_list() == [flops] * 3
    assert scaling["experts_per_ep_rank"].to_list() == [8, 4, 2]


def test_claims_get_the_verdict_of_the_comparisons(small: Results) -> None:
    verdicts = table(small, "ep_claims").select("claim", "by_source", "quantity", "expected", "verdict")
    assert verdicts.rows() == [
        ("More EP spreads experts", True, "experts_per_ep_rank", "falls", "supported"),
        ("More EP sends more", True, "all_to_all_comm_bytes", "rises", "no effect"),
        ("More EP sends more", True, "all_to_all_wire_bytes", "rises", "supported"),
        ("More EP computes less", False, "expert_flops", "falls", "no effect"),
        ("More EP computes less", False, "state_bytes", "falls", "supported"),
        ("More EP needs more memory", False, "state_bytes", "rises", "contradicted"),
    ]


def test_the_summary_holds_claims_under_their_headings(small: Results) -> None:
    lines = small.summary.read_text(encoding="utf-8").splitlines()
    start = lines.index("• More EP spreads experts")
    assert lines[start + 1 : start + 9] == [
        "  - EP=8:  Maximum distribution (2 experts/rank)",
        "  - EP=2:  Minimum distribution (8 experts/rank)",
        "      experts per rank                    ×0.25             supported",
        "",
        "• The network:",
        "  - More EP sends more",
        "      buffers of the exchange             ×1                no effect",
        "      its bytes on links                  ×1.75             supported",
    ]
    # Two claims are about the states; the first says why they move.
    assert lines.count("    → A rank holds 1/ep of a stage's experts; its activations do not depend on") == 1
    assert lines[lines.index("  - More EP needs more memory") + 2] == ""


def test_a_sweep_without_claims_says_what_ep_does_and_judges_nothing(small: Results) -> None:
    inputs = read_inputs(small)
    tables = {name: table(small, name) for name in TABLES}
    text = "\n".join(
        key_insights(replace(inputs, claims=()), tables | {"ep_claims": tables["ep_claims"].clear()})
    )
    assert ep_claims(replace(inputs, claims=())).is_empty()
    assert "      its bytes on links                  ×1.75\n" in text
    assert not re.search("claim|supported|contradicted|no effect|More EP", text)


def test_twins_are_joined_with_their_costs(small: Results) -> None:
    pairs = table(small, "moe_against_dense")
    costs = read_table(small.costs, "costs")
    assert pairs.height == 5
    assert (pairs["dp"] == pairs["dense_dp"]).all()
    assert (pairs["edp"] * pairs["ep"] == pairs["dense_edp"]).all()
    seconds = dict(costs.select("workload", "iteration_seconds").rows())
    first = pairs.row(0, named=True)
    ratio = seconds[first["workload"]] / seconds[first["twin"]]
    assert first["iteration_seconds_ratio"] == pytest.approx(ratio)
    kinds = ["tp", "cp", "etp", "ep", "dp", "edp", "pp", "other"]
    parts = pairs.select(pl.sum_horizontal(f"moe_{kind}_wire_bytes" for kind in kinds)).to_series()
    assert parts.to_list() == pytest.approx(pairs["moe_wire_bytes"].to_list())
    dense = pairs.select(
        pl.sum_horizontal(f"dense_{kind}_wire_bytes" for kind in ("tp", "cp", "dp", "pp", "other"))
    )
    assert dense.to_series().to_list() == pytest.approx(pairs["dense_wire_bytes"].to_list())


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, {"tp": 7, "ep": 4, "pp": 2}),
        # A ring of 5 more seconds, of which 2 are hidden, as 3 of tp's are.
        ({"cp_comm_seconds": 5.0, "cp_hidden_seconds": 2.0}, {"tp": 7, "cp": 3, "ep": 4, "pp": 2}),
        # The same of gradients, of dense parameters and of experts.
        ({"dp_comm_seconds": 5.0, "dp_hidden_seconds": 2.0}, {"tp": 7, "dp": 3, "ep": 4, "pp": 2}),
        ({"ep_comm_seconds": 9.0, "ep_hidden_seconds": 2.0}, {"tp": 7, "ep": 7, "pp": 2}),
        # Of the flex dispatcher's exchanges over tp_ep 1 of 7 is hidden, and 2 of 2 over ep.
        (
            {"ep_comm_seconds": 2.0, "other_comm_seconds": 7.0, "ep_hidden_seconds": 3.0},
            {"tp": 8, "other": 6, "pp": 2},
        ),
        ({"pp_comm_seconds": 7.0, "pp_hidden_seconds": 2.0}, {"tp": 7, "ep": 4, "pp": 5}),
        ({"edp_comm_seconds": 5.0, "edp_hidden_seconds": 2.0}, {"tp": 7, "edp": 3, "ep": 4, "pp": 2}),
    ],
)
def test_what_is_hidden_comes_off_tp(
    study: Inputs, other: dict[str, float], expected: dict[str, float]
) -> None:
    """Kinds of 10 (tp), 4 (ep) and 2 (pp) seconds, 13 of them exposed: 3 of tp's are hidden, 7 are left."""
    seconds = dict.fromkeys((f"{kind}_comm_seconds" for kind in COMM_KINDS), 0.0)
    seconds |= {"tp_comm_seconds": 10.0, "ep_comm_seconds": 4.0, "pp_comm_seconds": 2.0}
    seconds |= {"exposed_comm_seconds": 13.0, "iteration_seconds": 26.0}
    seconds |= {f"{kind}_hidden_seconds": 0.0 for kind in HIDDEN_KINDS}
    seconds |= other | ({"exposed_comm_seconds": 16.0} if other else {})
    rates = {"model_flops_per_second_per_gpu": 1.0, "tokens_per_second_per_gpu": 1.0}
    costs = pl.DataFrame([{"workload": study.workloads["workload"][0]} | seconds | rates])
    found = exposed_communication(replace(study, costs=costs)).row(0, named=True)
    parts = {
        kind: found[f"{kind}_exposed_seconds"] for kind in COMM_KINDS if found[f"{kind}_exposed_seconds"]
    }
    assert parts == expected
    share, hidden = (16 / 26, 5) if other else (13 / 26, 3)
    assert (found["hidden_seconds"], found["exposed_share"], found["largest_kind"]) == (hidden, share, "tp")


def test_exposed_kinds_add_up(small: Results) -> None:
    exposed = table(small, "exposed_communication")
    parts = exposed.select(pl.sum_horizontal(f"{kind}_exposed_seconds" for kind in COMM_KINDS)).to_series()
    assert parts.to_list() == pytest.approx(exposed["exposed_comm_seconds"].to_list())
    assert (exposed["hidden_seconds"] > 0).all()


def test_memory_adds_up(small: Results) -> None:
    memory = table(small, "memory")
    parts = [f"{part}_bytes" for part in ("weights", "gradients", "optimizer", "activations", "workspace")]
    assert memory.select(pl.sum_horizontal(parts)).to_series().to_list() == pytest.approx(
        memory["peak_memory_bytes"].to_list()
    )
    assert ((memory["headroom_bytes"] >= 0) == memory["fits"]).all()
    assert (memory["hbm_bytes"] == 80 * 2**30).all()
    largest = [each[f"{each['largest_part']}_bytes"] for each in memory.iter_rows(named=True)]
    assert largest == memory.select(pl.max_horizontal(parts)).to_series().to_list()


def test_refusals_are_the_rules_that_megatron_enforces(small: Results) -> None:
    refusals = table(small, "megatron_refusals").filter(kind="moe")
    found = refusals.select("model", "tp", "pp", "rule").rows()
    assert found == [("gpt_7B", 2, 8, "layers_by_pp"), ("gpt_13B", 16, 2, "heads_by_tp")]
    warned = table(small, "warnings").select("rule", "refused", "moe_workloads", "dense_workloads").rows()
    assert ("tp_within_node", False, 1, 1) in warned
    words = ("which Megatron refuses", "Megatron wants placement keys")
    warnings = [each for each in RULES if each.severity == "warning"]
    assert {each.name for each in warnings if any(said in each.message for said in words)} == set(REFUSED)


def test_skewed_ranks_add_up_to_what_links_carry(root: Path, in_root: None, tmp_path: Path) -> None:
    sweep = SMALL.replace("options:", "options:\n  routing: {zipf: 0.9, seed: 3}").replace(
        "  routing: balanced\n", ""
    )
    results = make(root, tmp_path, sweep)
    key = ["workload", "group_kind", "phase"]
    bytes_ = pl.col("total_bytes").sum().cast(pl.Float64).alias("total_wire_bytes")
    carried = read_table(results.links, "links").group_by(key).agg(bytes_)
    by_group = table(results, "communication_by_group")
    assert by_group.filter(pl.col("group_kind") == "ep").height
    said = by_group.select(*key, "total_wire_bytes").filter(pl.col("total_wire_bytes") > 0)
    assert said.sort(key).equals(carried.sort(key))
    ranks = read_table(results.workloads, "workloads").select("workload", "world_size")
    mean = by_group.join(ranks, on="workload", maintain_order="left")
    per_rank = (mean["total_wire_bytes"] / mean["world_size"]).to_list()
    assert mean["wire_bytes_per_rank"].to_list() == pytest.approx(per_rank)


def test_experts_that_are_not_spread_exchange_nothing(root: Path, in_root: None, tmp_path: Path) -> None:
    unspread = "  - {model: gpt_7B, world_size: 32, tp: 2, pp: 2, ep: 1, global_batch_size: 32}\n"
    results = make(root, tmp_path, SMALL + unspread)
    matched = table(results, "ep_scaling").filter(pl.col("comparison") == 1)
    assert matched["ep"].to_list() == [1, 2, 4, 8]
    sent = matched["all_to_all_wire_bytes"]
    assert sent[0] == 0
    assert matched["all_to_all_wire_bytes_ratio"].null_count() == 4
    claim = row(results, "ep_claims", quantity="all_to_all_wire_bytes")
    assert claim["comparisons"] == 1
    assert claim["highest_ratio"] == sent[3] / sent[1] == pytest.approx((7 / 8) / (1 / 2))
    assert "  1       1         0         0" in results.summary.read_text()
    for command in ("network", "figures", "report"):
        assert main([command, "--results", str(results.root)]) == 0
    assert "the token exchange comes on top" in results.report.read_text()


def test_large_sums_do_not_wrap() -> None:
    ops = pl.DataFrame({"flops": [2**62] * 3, "num_microbatches": [64] * 3, "layers": [40] * 3})
    total = ops.select(per_iteration(pl.col("flops")).sum().cast(pl.Float64)).item()
    assert total == 3.0 * 2**62 * 64 * 40
