"""The tables by name. A new one is a function, a line here, and its columns in schemas/tables/<name>.json."""

from collections.abc import Callable

import polars as pl

from moesweep.tables.catalogue import (
    distribution_examples,
    ep_breakdown,
    megatron_refusals,
    warnings,
    workloads,
)
from moesweep.tables.claims import ep_claims
from moesweep.tables.communication import communication, communication_by_group
from moesweep.tables.comparison import ep_scaling, moe_against_dense
from moesweep.tables.expense import cost_summary, memory
from moesweep.tables.exposed import exposed_communication
from moesweep.tables.fitting import all_degrees, feasible_ep, other_recomputations, recompute_options
from moesweep.tables.links import link_traffic
from moesweep.tables.options_compared import options_compared
from moesweep.tables.results import Inputs
from moesweep.tables.skew_sensitivity import routed_otherwise, skew_sensitivity

TABLES: dict[str, Callable[[Inputs], pl.DataFrame]] = {
    "workloads": workloads,
    "ep_breakdown": ep_breakdown,
    "distribution_examples": distribution_examples,
    "cost_summary": cost_summary,
    "memory": memory,
    "communication": communication,
    "communication_by_group": communication_by_group,
    "exposed_communication": exposed_communication,
    "link_traffic": link_traffic,
    "moe_against_dense": moe_against_dense,
    "ep_scaling": ep_scaling,
    "options_compared": options_compared,
    "skew_sensitivity": skew_sensitivity,
    "feasible_ep": feasible_ep,
    "recompute_options": recompute_options,
    "ep_claims": ep_claims,
    "warnings": warnings,
    "megatron_refusals": megatron_refusals,
}

RECOSTED: dict[str, Callable[[Inputs], pl.DataFrame]] = {
    "skew_sensitivity": routed_otherwise,
    "feasible_ep": all_degrees,
    "recompute_options": other_recomputations,
}
"""The workloads beside the sweep's that tables have costed, all at once."""
