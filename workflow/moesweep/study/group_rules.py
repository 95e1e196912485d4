"""The rules of group-limited routing: of tokens whose experts lie in some groups of all."""

import polars as pl

from moesweep.shapes.sizes import expert_groups, in_groups, taken_groups, topk
from moesweep.study.rule import error, nearest_divisors, nearest_is

_c = pl.col
_moe = _c("kind") == "moe"
_of_group = _c("num_experts") // pl.max_horizontal(expert_groups, 1)
_some = _moe & in_groups & (taken_groups > 0)
_most = pl.min_horizontal(expert_groups - 1, topk)
_fewest = (topk + _of_group - 1) // pl.max_horizontal(_of_group, 1)
_leave_out = pl.lit("leave both out")

# fmt: off
GROUP_RULES = (
    error("experts_by_groups", "moe_router_num_groups",
        _moe & in_groups & (_c("num_experts") % expert_groups != 0),
        "moe_router_num_groups {moe_router_num_groups} does not divide num_experts {num_experts}",
        nearest_divisors("moe_router_num_groups", _c("num_experts"))),
    error("groups_without_limit", "moe_router_num_groups", _moe & in_groups & (taken_groups == 0),
        "moe_router_num_groups {moe_router_num_groups} has no effect: moe_router_group_topk says how many of "
        "them a token's experts lie in", pl.lit("add moe_router_group_topk")),
    error("limit_without_groups", "moe_router_group_topk", _moe & ~in_groups & (taken_groups > 0),
        "there are no groups to take {moe_router_group_topk} of", pl.lit("add moe_router_num_groups")),
    error("group_topk_of_groups", "moe_router_group_topk", _some & (taken_groups >= expert_groups),
        "moe_router_group_topk {moe_router_group_topk} of {moe_router_num_groups} groups limits nothing",
        pl.when(_most > 0).then(nearest_is(_most)).otherwise(_leave_out)),
    error("group_topk_of_experts", "moe_router_group_topk", _some & (taken_groups > topk),
        "{moe_router_topk} experts of a token cannot lie in {moe_router_group_topk} groups",
        pl.when(_most > 0).then(nearest_is(_most)).otherwise(_leave_out)),
    error("topk_of_groups", "moe_router_group_topk",
        _some & (_c("num_experts") % expert_groups == 0) & (topk > taken_groups * _of_group),
        "{moe_router_group_topk} of {moe_router_num_groups} groups have fewer experts than moe_router_topk "
        "{moe_router_topk}",
        pl.when(_fewest < expert_groups).then(nearest_is(_fewest)).otherwise(_leave_out)),
)
# fmt: on
"""Rules as in moesweep.study.rules. What Megatron refuses, and what would have no effect."""
