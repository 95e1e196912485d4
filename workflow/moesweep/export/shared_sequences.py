"""What formats cannot say of cp ranks that share sequences."""

from collections.abc import Mapping
from typing import Any

from moesweep.edge.problems import Problem, shown

_NEIGHBOURS = ("chakra", "goal")
"""Formats whose messages go between neighbouring stages alone."""


def inexpressible(format_: str, workload: Mapping[str, Any]) -> list[Problem]:
    """Return a problem where a format knows no ring of cp ranks, or no exchange but that of experts."""
    id_, shares = workload["workload"], workload["cp_comm_type"]
    if workload["cp"] == 1:
        return []
    if format_ == "simai":
        message = f"SimAI has no context parallelism: cp {workload['cp']}"
        return [Problem(id_, "cp", format_, shown(workload["cp"]), message, "only 1", workload=id_)]
    if format_ in _NEIGHBOURS and "p2p" in shares:
        message = f"the messages round a ring of cp ranks are not written in {format_}"
        advice = "only a2a or all_gather"
        return [Problem(id_, "cp_comm_type", format_, shown(shares), message, advice, workload=id_)]
    if format_ == "chakra" and shares == "a2a" and "(" in workload["routing"]:
        message = "uneven exchanges of experts beside those of cp ranks are not written in chakra"
        advice = "only all_gather, or an even routing"
        return [Problem(id_, "cp_comm_type", format_, shown(shares), message, advice, workload=id_)]
    return []
