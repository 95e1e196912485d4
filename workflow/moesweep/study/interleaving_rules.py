"""The rules of how many micro-batches pass through a chunk of a stage before its next chunk begins.

Megatron `schedules.py`, `forward_backward_pipelining_with_interleaving`.
"""

import polars as pl

from moesweep.shapes.schedule import GROUP, group, makes_groups
from moesweep.study.rule import CP_FITS, error, nearest_is

_c = pl.col
_interleaved = (_c("virtual_pipeline") > 1) & (_c("pp") > 1)
_stages, _microbatches = _c("pp"), _c("num_microbatches")

GROUPED = group != _stages
"""Whether groups are of another size than they are unless said."""

_said = _interleaved & GROUPED & CP_FITS
_rest = _microbatches % group
_few = pl.format("a global_batch_size of at least {}", _c("micro_batch_size") * _c("dp") * _stages)


def nearest_groups() -> pl.Expr:
    """As text, the nearest sizes below and above that Megatron takes."""

    def nearest(row: dict[str, int]) -> str:
        """Return them for one workload."""
        given, stages, m = row["group"], row["pp"], row["num_microbatches"]
        below = next(
            (n for n in range(min(given, m + 1) - 1, stages - 1, -1) if makes_groups(n, stages, m)), None
        )
        above = next(
            (n for n in range(max(given, stages - 1) + 1, m + 1) if makes_groups(n, stages, m)), None
        )
        return "nearest: " + ", ".join(str(each) for each in (below, above) if each is not None)

    fields = pl.struct(group.alias("group"), "pp", "num_microbatches")
    return fields.map_elements(nearest, return_dtype=pl.String)


# fmt: off
INTERLEAVING_RULES = (
    error("group_of_chunks", GROUP, ~_interleaved & GROUPED,
        "a stage of one chunk runs micro-batches one after the other: groups of {" + GROUP + "} have no "
        "effect without virtual_pipeline", pl.lit("leave it out")),
    error("group_of_stages", GROUP, _said & (group < _stages),
        "groups of {" + GROUP + "} micro-batches leave stages idle: Megatron refuses fewer than pp {pp}",
        nearest_is(_stages)),
    error("group_of_microbatches", GROUP, _said & (group > _microbatches),
        "there are {num_microbatches} micro-batches, not the {" + GROUP + "} of a group",
        pl.when(_microbatches < _stages).then(_few).otherwise(nearest_is(_microbatches))),
    error("last_group", GROUP,
        _said & (group >= _stages) & (group <= _microbatches) & (_rest > 0) & (_rest < _stages),
        "of num_microbatches {num_microbatches} in groups of {" + GROUP + "} the last group has fewer than "
        "pp {pp}: Megatron refuses it", nearest_groups()),
)
# fmt: on
"""Rules that moesweep.study.rules takes in."""
