"""Small workloads for the exports' tests: every option of the trace once, few ranks, few micro-batches."""

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.export.source import Traced, traced
from moesweep.store.layout import Results
from moesweep.study.catalog import load_cluster
from moesweep.study.sweep import enumerate_sweep
from moesweep.study.workload import resolve

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = "dgx-a100-80gb-8xhdr200"
SWEEP = "config/sweeps/moe-a100-123.yaml"

SMALL: dict[str, dict[str, Any]] = {
    "moe16": {"world_size": 16, "tp": 2, "pp": 2, "ep": 2},
    "moe64": {"world_size": 64, "tp": 4, "pp": 4, "ep": 2},
    "moe256": {"world_size": 256, "tp": 4, "pp": 4, "ep": 8},
    "dense16": {"world_size": 16, "tp": 2, "pp": 2, "ep": 1, "num_experts": 0},
    "dense64": {"world_size": 64, "tp": 4, "pp": 4, "ep": 1, "num_experts": 0},
    "dense256": {"world_size": 256, "tp": 4, "pp": 4, "ep": 1, "num_experts": 0},
    "single": {"world_size": 4, "tp": 2, "pp": 1, "ep": 2},
    "interleaved": {"world_size": 16, "tp": 2, "pp": 4, "ep": 2, "virtual_pipeline": 3},
    "two_stages_interleaved": {"world_size": 8, "tp": 2, "pp": 2, "ep": 2, "virtual_pipeline": 2},
    "one_gpu": {"world_size": 1, "tp": 1, "pp": 1, "ep": 1},
    "recompute": {"world_size": 8, "tp": 2, "pp": 2, "ep": 1, "recompute": "full"},
    "etp1": {"world_size": 16, "tp": 4, "pp": 2, "ep": 8, "etp": 1},
    "leading_dense": {"world_size": 16, "tp": 2, "pp": 4, "ep": 2, "first_k_dense": 3},
    "replicated": {"world_size": 8, "tp": 1, "pp": 4, "ep": 2, "distributed_optimizer": False},
    "interleaved_in_groups": {
        **{"world_size": 16, "tp": 2, "pp": 2, "ep": 2, "virtual_pipeline": 3},
        "microbatch_group_size_per_vp_stage": 5,
    },
    "interleaved_with_waits": {
        **{"world_size": 32, "tp": 2, "pp": 4, "ep": 2, "virtual_pipeline": 3, "overlap_p2p_comm": False},
    },
    "counted_over_a_stage": {
        **{"world_size": 16, "tp": 2, "pp": 2, "ep": 2, "recompute": "selective"},
        **{"moe_router_load_balancing_type": "global_aux_loss", "recompute_modules": "moe"},
    },
    "heads_exchanged": {
        **{"world_size": 16, "tp": 2, "cp": 2, "pp": 2, "ep": 2, "flash_attention": True},
        "cp_comm_type": "a2a",
    },
}
SHARED: dict[str, Any] = {
    **{"world_size": 16, "tp": 2, "cp": 4, "pp": 2, "ep": 2, "flash_attention": True},
    "recompute": "selective",
}
BESIDE: dict[str, dict[str, Any]] = {
    "linears_in_parts": {
        **{"world_size": 16, "tp": 4, "pp": 2, "ep": 1, "num_experts": 0, "virtual_pipeline": 2},
        **{"tp_comm_overlap": True, "recompute": "full"},
    },
    "experts_after_linears": {
        **{"world_size": 8, "tp": 2, "pp": 1, "ep": 2, "tp_comm_overlap": True},
        "overlap_grad_reduce": True,
    },
}
"""Communication beside computation, which not every format can say."""
APART: dict[str, dict[str, Any]] = {
    name: {
        **{"world_size": 16, "tp": 2, "pp": 4, "ep": 2, "virtual_pipeline": 2, "mtp_num_layers": 1},
        **{"pipeline_model_parallel_layout": "Ett|tt|tt|t|tt|t|ttm|L", "tied_embeddings": False},
        "overlap_p2p_comm": overlaps,
    }
    for name, overlaps in (("prediction_apart", False), ("prediction_apart_overlapped", True))
}
"""Hidden states that travel side by side: one message for two of the trace."""
RINGS: dict[str, dict[str, Any]] = {"ring": SHARED, "ring_interleaved": SHARED | {"virtual_pipeline": 2}}
"""Messages round a ring, which not every format can say."""
MICROBATCHES = 8


def workload(name: str) -> pl.DataFrame:
    """Return the one-row frame of a small workload: gpt_7B with 12 layers and 8 micro-batches."""
    changes = (SMALL | RINGS | BESIDE | APART)[name]
    base = enumerate_sweep(ROOT, SWEEP).filter(pl.col("model") == "gpt_7B").row(0, named=True)
    etp = changes.get("etp", changes["tp"])
    dp = changes["world_size"] // (changes["tp"] * changes.get("cp", 1) * changes["pp"])
    sizes = {"etp": etp, "num_layers": 12, "global_batch_size": MICROBATCHES * dp, "seq_length": 1024}
    # What follows from others follows from these.
    following = dict.fromkeys(("overlap_p2p_comm", "microbatch_group_size_per_vp_stage"))
    return resolve([{**base, **following, **sizes, **changes}])


@cache
def traced_workload(name: str) -> Traced:
    """Return a small workload, costed."""
    (each,) = traced(workload(name), Results(Path("none")), load_cluster(ROOT, CLUSTER))
    return each
