"""What formats cannot say of a dispatcher whose tokens cross to a node once."""

from collections.abc import Mapping
from typing import Any

from moesweep.edge.problems import Problem, shown

_OF_OPS = ("simai", "chakra", "goal", "htsim")


def inexpressible(format_: str, workload: Mapping[str, Any]) -> list[Problem]:
    """Return a problem where a format knows exchanges only whose messages go straight to their receivers."""
    id_, dispatcher = workload["workload"], workload["moe_token_dispatcher_type"]
    if dispatcher != "flex" or format_ not in _OF_OPS:
        return []
    message = f"tokens that cross to a node once and are passed on there are not written in {format_}"
    key = "moe_token_dispatcher_type"
    return [Problem(id_, key, format_, shown(dispatcher), message, "only alltoall", workload=id_)]
