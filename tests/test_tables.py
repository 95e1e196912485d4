"""The tables and the summary: hand-worked numbers of a small sweep, the study's counts, files to the byte.

The small sweep's main comparison is gpt_7B (h 4096, f 16384, 36 layers) on 32 GPUs, tp 2, pp 2, so dp 8;
batch 32, so 4 micro-batches of one sequence of 512 tokens; 16 experts, top-2; ep 2, 4, 8, so edp 4, 2, 1.
One activation is T = 2 x 512 x 4096 = 4,194,304 bytes; a rank's share of two copies of it is as large.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.catalog import load_cluster
from moesweep.cli import main
from moesweep.cost.files import write_costs
from moesweep.layout import Results
from moesweep.problems import BadInput
from moesweep.recost import write_answers
from moesweep.sweep import enumerate_sweep, load_sweep
from moesweep.tablefile import TABLES as DECLARED
from moesweep.tablefile import dictionary, dtypes, read_table, write_table
from moesweep.tables.catalogue import REFUSED, distribution_examples, ep_breakdown
from moesweep.tables.exposed import COMM_KINDS, exposed_communication
from moesweep.tables.inputs import Inputs, per_iteration
from moesweep.tables.markdown import MOST_ROWS, markdown
from moesweep.tables.numbers import quantity
from moesweep.tables.registry import TABLES
from moesweep.trace.files import write_traces
from moesweep.traffic.files import write_traffic
from moesweep.validation import validate
from moesweep.validation.rules import RULES

CLUSTER = "dgx-a100-80gb-8xhdr200"
OPTIONS = """\
description: A small sweep for the tables.
twins: {twins}
options:
  {moe}
  micro_batch_size: 1
  seq_length: 512
  dtype: bf16
  framework: megatron-core
  sequence_parallel: true
  virtual_pipeline: 1
  distributed_optimizer: true
  recompute: none
  flash_attention: false
  blocking_launches: false
rows:
"""
MOE = OPTIONS.format(
    twins="true", moe="num_experts: 16\n  moe_router_topk: 2\n  routing: balanced\n  etp: tp"
)
SMALL = (
    MOE
    + """\
  - {model: gpt_7B, world_size: 32, tp: 2, pp: 2, ep: 2, global_batch_size: 32}
  - {model: gpt_7B, world_size: 32, tp: 2, pp: 2, ep: 4, global_batch_size: 32, listed: 2}
  - {model: gpt_7B, world_size: 32, tp: 2, pp: 2, ep: 8, global_batch_size: 32}
  - {model: gpt_7B, world_size: 64, tp: 2, pp: 8, ep: 2, global_batch_size: 64}
  - {model: gpt_13B, world_size: 64, tp: 16, pp: 2, ep: 2, global_batch_size: 8}
"""
)
DENSE = (
    OPTIONS.format(twins="false", moe="routing: balanced")
    + """\
  - {model: gpt_7B, world_size: 16, tp: 2, pp: 2, global_batch_size: 16}
  - {model: gpt_7B, world_size: 16, tp: 4, pp: 1, global_batch_size: 16}
"""
)
ODD = (
    MOE.replace("twins: true", "twins: false").replace("etp: tp", "etp: 1")
    + """\
  - {model: gpt_7B, world_size: 16, tp: 2, pp: 1, ep: 4, global_batch_size: 16}
  - {model: gpt_7B, world_size: 16, tp: 1, pp: 1, ep: 1, global_batch_size: 16, recompute: full}
"""
)
EP = "gpt_7B-ws32-tp2-pp2-ep{}-gbs32-mbs1-seq512-moe"


def make(root: Path, folder: Path, sweep: str) -> Results:
    """Run the stages before the tables on a sweep, then write the tables."""
    folder.joinpath("sweep.yaml").write_text(sweep, encoding="utf-8")
    results = Results(folder / "results")
    loaded = load_sweep(root, folder / "sweep.yaml")
    write_table(loaded.workloads, results.workloads, "workloads")
    write_table(validate(loaded), results.validation, "validation")
    write_traces(loaded.workloads, results)
    write_costs(results, load_cluster(root, CLUSTER), {"cluster": CLUSTER})
    write_traffic(results, 8)
    write_answers(results)
    return results


@pytest.fixture(scope="module")
def in_root(root: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield


@pytest.fixture(scope="module")
def small(root: Path, in_root: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(root, tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def dense_only(root: Path, in_root: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(root, tmp_path_factory.mktemp("dense"), DENSE)


@pytest.fixture(scope="module")
def study(root: Path) -> Inputs:
    workloads = enumerate_sweep(root, "config/sweeps/moe-a100-123.yaml")
    empty = pl.DataFrame()
    return Inputs(workloads, empty, empty, empty, empty, load_cluster(root, CLUSTER))


def table(results: Results, name: str) -> pl.DataFrame:
    return read_table(results.table(name, "parquet"), name)


def row(results: Results, name: str, **where: Any) -> dict[str, Any]:
    return table(results, name).filter(**where).row(0, named=True)


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
    verdicts = dict(table(small, "seed_claims").select("quantity", "verdict").rows())
    assert verdicts["experts_per_ep_rank"] == "supported"
    assert verdicts["all_to_all_comm_bytes"] == "no effect"
    assert verdicts["all_to_all_wire_bytes"] == "supported"
    assert verdicts["expert_flops"] == "no effect"
    assert verdicts["state_bytes"] == "supported"


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
    kinds = ["tp", "etp", "ep", "dp", "edp", "pp", "other"]
    parts = pairs.select(pl.sum_horizontal(f"moe_{kind}_wire_bytes" for kind in kinds)).to_series()
    assert parts.to_list() == pytest.approx(pairs["moe_wire_bytes"].to_list())
    dense = pairs.select(
        pl.sum_horizontal(f"dense_{kind}_wire_bytes" for kind in ("tp", "dp", "pp", "other"))
    )
    assert dense.to_series().to_list() == pytest.approx(pairs["dense_wire_bytes"].to_list())


def test_what_is_hidden_comes_off_tp(study: Inputs) -> None:
    """Kinds of 10 (tp), 4 (ep) and 2 (pp) seconds, 13 of them exposed: 3 of tp's are hidden, 7 are left."""
    seconds = dict.fromkeys((f"{kind}_comm_seconds" for kind in COMM_KINDS), 0.0)
    seconds |= {"tp_comm_seconds": 10.0, "ep_comm_seconds": 4.0, "pp_comm_seconds": 2.0}
    seconds |= {"exposed_comm_seconds": 13.0, "iteration_seconds": 26.0}
    rates = {"model_flops_per_second_per_gpu": 1.0, "tokens_per_second_per_gpu": 1.0}
    costs = pl.DataFrame([{"workload": study.workloads["workload"][0]} | seconds | rates])
    found = exposed_communication(replace(study, costs=costs)).row(0, named=True)
    parts = {
        kind: found[f"{kind}_exposed_seconds"] for kind in COMM_KINDS if found[f"{kind}_exposed_seconds"]
    }
    assert parts == {"tp": 7, "ep": 4, "pp": 2}
    assert (found["hidden_seconds"], found["exposed_share"], found["largest_kind"]) == (3, 0.5, "tp")


def test_exposed_kinds_add_up(small: Results) -> None:
    exposed = table(small, "exposed_communication")
    parts = exposed.select(pl.sum_horizontal(f"{kind}_exposed_seconds" for kind in COMM_KINDS)).to_series()
    assert parts.to_list() == pytest.approx(exposed["exposed_comm_seconds"].to_list())
    assert (exposed["hidden_seconds"] > 0).all()


def test_memory_adds_up(small: Results) -> None:
    memory = table(small, "memory")
    parts = ["weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes"]
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
    assert {each.name for each in RULES if "which Megatron refuses" in each.message} == set(REFUSED)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_comes_as_parquet_csv_and_markdown(small: Results, name: str) -> None:
    frame = table(small, name)
    read = pl.read_csv(small.table(name, "csv"), schema=dtypes(name))
    assert read.equals(frame)
    text = small.table(name, "md").read_text(encoding="utf-8")
    assert f"{frame.height} rows." in text
    assert all(column["description"] for column in dictionary(name)["columns"])


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
    claim = row(results, "seed_claims", quantity="all_to_all_wire_bytes")
    assert claim["comparisons"] == 1
    assert claim["highest_ratio"] == sent[3] / sent[1] == pytest.approx((7 / 8) / (1 / 2))
    assert "  1       1         0        0" in results.summary.read_text()
    for command in ("figures", "report"):
        assert main([command, "--results", str(results.root)]) == 0
    assert "the token exchange comes on top" in results.report.read_text()


@pytest.mark.parametrize("name", TABLES)
def test_a_dense_sweep_has_every_table(dense_only: Results, name: str) -> None:
    frame = table(dense_only, name)
    of_moe = ("moe_against_dense", "ep_scaling", "skew_sensitivity", "feasible_ep")
    empty = {"ep_breakdown", "distribution_examples", *of_moe}
    assert frame.is_empty() if name in empty else frame.height or name in ("warnings", "megatron_refusals")


def test_the_summary_of_a_dense_sweep_says_what_it_cannot_say(dense_only: Results) -> None:
    summary = dense_only.summary.read_text(encoding="utf-8")
    assert "2 dense workloads, no MOE workload" in summary
    assert summary.count("This sweep has no MoE workload") == 4
    assert "nan" not in summary


def test_a_sweep_without_twins_or_comparisons_says_so(root: Path, in_root: None, tmp_path: Path) -> None:
    results = make(root, tmp_path, ODD)
    lines = results.summary.read_text(encoding="utf-8").splitlines()
    assert table(results, "seed_claims")["verdict"].unique().to_list() == ["untested"]
    assert "    world_size = ETP × PP × EP × DP" in lines
    assert "  → DP = 16 / (1 × 1 × 4) = 4" in lines
    assert "• The sweep has no dense equivalents." in lines
    assert "in 0 of the" in " ".join(lines)
    assert [line for line in lines if len(line) > 80] == []


def test_the_summary_has_the_seeds_sections_within_its_width(small: Results) -> None:
    lines = small.summary.read_text(encoding="utf-8").splitlines()
    sections = [lines[at + 1] for at, line in enumerate(lines[:-1]) if line == "=" * 80]
    for title in (
        "MOE WORKLOAD EXPERT CONFIGURATION SUMMARY",
        "EXPERT PARALLELISM (EP) BREAKDOWN",
        "HOW EXPERTS ARE DISTRIBUTED ACROSS GPUs",
        "COMMUNICATION PATTERNS FOR MOE",
        "KEY INSIGHTS",
    ):
        assert title in sections
    assert [line for line in lines if len(line) > 80] == []
    assert "  → DP = 32 / (2 × 2 × 4) = 2" in lines
    assert "  → Megatron's dp = 32 / (2 × 2) = 8: 8 shares of every batch" in lines


def test_the_dictionary_describes_every_declared_table(small: Results) -> None:
    declared = json.loads(small.dictionary.read_text(encoding="utf-8"))["tables"]
    assert set(declared) == {path.stem for path in DECLARED.glob("*.json")}
    assert all(declared[name]["columns"] == dictionary(name)["columns"] for name in TABLES)


def test_two_runs_write_the_same_bytes(small: Results, root: Path) -> None:
    written = [small.summary, small.dictionary, *sorted((small.root / "tables").iterdir())]
    before = {path: path.read_bytes() for path in written}
    code = f"from pathlib import Path\nfrom moesweep.layout import Results\n\
from moesweep.recost import write_answers\nwrite_answers(Results(Path({str(small.root)!r})))"
    other = os.environ | {"POLARS_MAX_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=other, check=True)
    assert [path.name for path in written if path.read_bytes() != before[path]] == []


def test_a_missing_input_is_named(in_root: None, small: Results, tmp_path: Path) -> None:
    bare = Results(tmp_path)
    write_table(table(small, "workloads"), bare.workloads, "workloads")
    with pytest.raises(BadInput, match=r"costs\.parquet"):
        write_answers(bare)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["workloads.parquet"]


def test_large_sums_do_not_wrap() -> None:
    ops = pl.DataFrame({"flops": [2**62] * 3, "num_microbatches": [64] * 3, "layers": [40] * 3})
    total = ops.select(per_iteration(pl.col("flops")).sum().cast(pl.Float64)).item()
    assert total == 3.0 * 2**62 * 64 * 40


def test_a_huge_table_shows_its_ends_and_says_so(small: Results) -> None:
    frame = pl.concat([table(small, "communication")] * 10)
    text = markdown(frame, "communication")
    assert frame.height > MOST_ROWS
    assert f"{frame.height} rows, {frame.height - 100} of them left out here" in text
    assert text.count("\n| gpt_") == 100


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (5_242_880, "byte", "5 MiB"),
        (0, "byte", "0"),
        (7, "byte", "7 B"),
        (0.000437, "s", "437 µs"),
        (1.234e15, "flop", "1.234 Pflop"),
        (16, "", "16"),
        (12_345.6, "USD", "12,346 USD"),
    ],
)
def test_quantities_read_well(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown
