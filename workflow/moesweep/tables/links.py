"""Which links carry what, and how long they need at the least."""

import polars as pl

from moesweep.tables.results import Inputs


def link_traffic(inputs: Inputs) -> pl.DataFrame:
    """Return the bytes within nodes and between them by group kind and phase, and their least time.

    link_share is of all bytes of the workload on that kind of link. line_seconds = busiest_gpu_bytes over
    the rate of one GPU's link, one direction: nothing that is timed can be faster, whatever overlaps.
    """
    rates = {"node": "node_link_bytes_per_second", "network": "nic_bytes_per_second"}
    line = pl.DataFrame(
        {
            "link": list(rates),
            "line_bytes_per_second": [inputs.cluster.value(name) for name in rates.values()],
        },
        schema_overrides={"link": inputs.links.schema["link"]},
    )
    total = pl.col("total_bytes")
    return (
        inputs.workloads.select("workload", "kind")
        .join(inputs.links, on="workload", maintain_order="left_right")
        .join(line, on="link", maintain_order="left")
        .with_columns(
            link_share=total / total.cast(pl.Float64).sum().over("workload", "link"),
            line_seconds=pl.col("busiest_gpu_bytes") / pl.col("line_bytes_per_second"),
        )
    )
