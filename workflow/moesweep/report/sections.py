"""What the page says of each workload: parameters, warnings, seconds, memory, traffic, timeline."""

from typing import Any

import polars as pl

from moesweep.report.drawings import drawings
from moesweep.report.evidence import Evidence, parts_of_iteration
from moesweep.report.figures.ink import MEMORY, PARTS
from moesweep.report.pipeline_map import LINE, WIDTH
from moesweep.shapes.communication import COMM_KINDS

Row = dict[str, Any]

PARAMETERS: dict[str, tuple[str, ...]] = {
    "layout": ("world_size", "tp", "pp", "cp", "ep", "etp", "dp", "edp", "virtual_pipeline"),
    "batch": ("global_batch_size", "micro_batch_size", "num_microbatches", "seq_length"),
    "model": (
        *("model", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups"),
        *("padded_vocab_size", "num_experts", "moe_router_topk", "moe_ffn_hidden_size"),
        *("parameters", "active_parameters"),
    ),
    "options": (
        *("sequence_parallel", "recompute", "recompute_modules", "recompute_method", "recompute_num_layers"),
        *("moe_router_dtype", "moe_router_fusion", "moe_permute_fusion"),
        *("cross_entropy_loss_fusion", "cross_entropy_fusion_impl", "cuda_graph_impl", "cuda_graph_scope"),
        *("flash_attention", "distributed_optimizer", "dtype", "fp8", "fp8_recipe", "framework", "routing"),
        *("use_megatron_fsdp", "data_parallel_sharding_strategy"),
    ),
}


def sections(evidence: Evidence) -> list[Row]:
    """Return one context of the template's `workload` macro per workload, in catalogue order."""
    rows = evidence.workloads.with_columns(*parts_of_iteration())
    warnings = _by_workload(evidence.validation.select("workload", "severity", "rule", "message"))
    traffic, drawn = _by_workload(_traffic(evidence)), drawings(evidence)
    related = _related(rows)
    return [
        {
            "row": row,
            "parameters": {title: {name: row[name] for name in names} for title, names in PARAMETERS.items()},
            "parts": [(name, row[name], row[name] / row["iteration_seconds"]) for name in PARTS],
            "comm": [
                (kind, row[f"{kind}_comm_seconds"], row[f"{kind}_exposed_seconds"]) for kind in COMM_KINDS
            ],
            "memory": [(name, row[f"{name}_bytes"]) for name in MEMORY],
            "warnings": warnings.get(row["workload"], []),
            "traffic": traffic.get(row["workload"], []),
            **drawn[row["workload"]],
            "related": related[row["workload"]],
            "height": row["pp"] * LINE,
            "width": 2 * WIDTH // len(drawn[row["workload"]]["ends"]),
        }
        for row in rows.iter_rows(named=True)
    ]


def _by_workload(frame: pl.DataFrame) -> dict[str, list[Row]]:
    parts = frame.partition_by("workload", as_dict=True, maintain_order=True, include_key=False)
    return {str(key[0]): part.to_dicts() for key, part in parts.items()}


def _traffic(evidence: Evidence) -> pl.DataFrame:
    """Return workload, group_kind, node_bytes and network_bytes of the mean GPU, busiest_bytes of one GPU."""

    def over(link: str, name: str) -> pl.Expr:
        return pl.col(name).filter(pl.col("link") == link).sum()

    return (
        evidence.links.group_by("workload", "group_kind", maintain_order=True)
        .agg(
            node_bytes=over("node", "bytes_per_gpu"),
            network_bytes=over("network", "bytes_per_gpu"),
            busiest_bytes=over("network", "busiest_gpu_bytes"),
        )
        .sort("group_kind", maintain_order=True)
    )


def _related(rows: pl.DataFrame) -> dict[str, list[tuple[str, str]]]:
    """Return by workload what to compare it with: (what it is, id); its twin, or those it is the twin of."""
    twins: dict[str, list[tuple[str, str]]] = {id_: [] for id_ in rows["workload"]}
    for id_, twin in rows.select("workload", "twin").iter_rows():
        if twin in twins:
            twins[id_].append(("dense twin", twin))
            twins[twin].append(("MoE", id_))
    return twins
