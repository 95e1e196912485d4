"""Communication that nothing hides, by kind of communicator."""

import polars as pl

from moesweep.shapes.communication import COMM_KINDS, HIDDEN_KINDS, comm_seconds
from moesweep.shapes.expressions import total
from moesweep.tables.expense import costed
from moesweep.tables.results import LAYOUT, Inputs


def exposed_communication(inputs: Inputs) -> pl.DataFrame:
    """Return the seconds of communication on the slowest stage's rank that compute does not hide, by kind.

    What is hidden, the sum of kinds - exposed, comes off the kinds of HIDDEN_KINDS as the costs say, and what
    is left of it off tp (docs/costs.md, "A layer").
    `largest_kind` is null where nothing is exposed.
    """
    hidden = total(comm_seconds()) - pl.col("exposed_comm_seconds")
    exposed = {f"{kind}_exposed_seconds": pl.col(f"{kind}_comm_seconds") for kind in COMM_KINDS}
    # What is left of the two sums where all of tp is hidden may be a rounding error below 0.
    of_tp = hidden - total(f"{kind}_hidden_seconds" for kind in HIDDEN_KINDS)
    exposed["tp_exposed_seconds"] = (pl.col("tp_comm_seconds") - of_tp).clip(0)
    for kind in HIDDEN_KINDS:
        beside = pl.col(f"{kind}_comm_seconds") - pl.col(f"{kind}_hidden_seconds")
        exposed[f"{kind}_exposed_seconds"] = beside.clip(0)
    # Exchanges of the flex dispatcher over etp · ep ranks are of another kind, but hide as those over ep.
    of_other = (pl.col("ep_hidden_seconds") - pl.col("ep_comm_seconds")).clip(0)
    exposed["other_exposed_seconds"] = pl.col("other_comm_seconds") - of_other
    parts = costed(inputs).with_columns(**exposed, hidden_seconds=hidden.clip(0))
    names = pl.lit(pl.Series(COMM_KINDS).implode())
    largest = names.list.get(pl.concat_list(list(exposed)).list.arg_max())
    return parts.select(
        "workload",
        "kind",
        *LAYOUT,
        "iteration_seconds",
        "exposed_comm_seconds",
        (pl.col("exposed_comm_seconds") / pl.col("iteration_seconds")).alias("exposed_share"),
        *exposed,
        "hidden_seconds",
        pl.when(pl.col("exposed_comm_seconds") > 0).then(largest).alias("largest_kind"),
    )
