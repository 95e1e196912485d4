"""Small sweeps with all their tables.

The small sweep's main comparison is gpt_7B (h 4096, f 16384, 36 layers) on 32 GPUs, tp 2, pp 2, so dp 8;
batch 32, so 4 micro-batches of one sequence of 512 tokens; 16 experts, top-2; ep 2, 4, 8, so edp 4, 2, 1.
One activation is T = 2 x 512 x 4096 = 4,194,304 bytes; a rank's share of two copies of it is as large.
"""

from pathlib import Path
from typing import Any

import polars as pl

from moesweep.evaluate.files import write_costs
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table, write_table
from moesweep.study.catalog import load_cluster
from moesweep.study.claims import as_facts
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import validate
from moesweep.tables.files import write_tables
from moesweep.trace.files import write_traces
from moesweep.traffic.files import write_traffic

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
CLAIMS = """\
claims:
  - {claim: More EP spreads experts, by_source: true, falls: [experts_per_ep_rank]}
  - claim: More EP sends more
    under: The network
    by_source: true
    rises: [all_to_all_comm_bytes, all_to_all_wire_bytes]
  - {claim: More EP computes less, under: The rest, falls: [expert_flops, state_bytes]}
  - {claim: More EP needs more memory, under: The rest, rises: [state_bytes]}
"""
SMALL = (
    CLAIMS
    + MOE
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
    CLAIMS
    + MOE.replace("twins: true", "twins: false").replace("etp: tp", "etp: 1")
    + """\
  - {model: gpt_7B, world_size: 16, tp: 2, pp: 1, ep: 4, global_batch_size: 16}
  - {model: gpt_7B, world_size: 16, tp: 1, pp: 1, ep: 1, global_batch_size: 16, recompute: full}
"""
)
# EP groups of 3 neighbours: of those on ranks 0-23 every third crosses nodes of 8, {6, 7, 8} first.
CROSSED = (
    CLAIMS
    + MOE.replace("num_experts: 16", "num_experts: 12").replace("etp: tp", "etp: 1")
    + """\
  - {model: gpt_7B, world_size: 24, tp: 1, pp: 1, ep: 1, global_batch_size: 24}
  - {model: gpt_7B, world_size: 24, tp: 1, pp: 1, ep: 3, global_batch_size: 24}
"""
)
EP = "gpt_7B-ws32-tp2-pp2-ep{}-gbs32-mbs1-seq512-moe"


def make(root: Path, folder: Path, sweep: str) -> Results:
    """Run the stages before the tables on a sweep, then write the tables."""
    folder.joinpath("sweep.yaml").write_text(sweep, encoding="utf-8")
    results = Results(folder / "results")
    loaded = load_sweep(root, folder / "sweep.yaml")
    write_table(loaded.workloads, results.workloads, "workloads", as_facts(loaded.claims))
    write_table(validate(loaded), results.validation, "validation")
    write_traces(loaded.workloads, results)
    write_costs(results, load_cluster(root, CLUSTER))
    write_traffic(results, 8)
    write_tables(results)
    return results


def table(results: Results, name: str) -> pl.DataFrame:
    return read_table(results.table(name, "parquet"), name)


def row(results: Results, name: str, **where: Any) -> dict[str, Any]:
    return table(results, name).filter(**where).row(0, named=True)
