"""What of a rank's bytes passes its card."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from moesweep.network.unit import unit_flows
from moesweep.shapes.communication import GROUP_KINDS


def card_shares(layout: Mapping[str, Any], island: int, order: str | None = None) -> pl.DataFrame:
    """Return the share of what each GPU sends to its groups that goes to other islands.

    group_kind, rank (the GPU), share. Of messages between stages, both ways together.
    """
    flows = unit_flows(layout, island, order)
    gpus = int(layout["world_size"])
    far = flows.of(flows.source // island != flows.target // island)
    sent, beyond = (each.sums(each.source, gpus) for each in (flows, far))
    kind, rank = np.nonzero(sent)
    return pl.DataFrame(
        {
            "group_kind": pl.Series(GROUP_KINDS).gather(kind),
            "rank": rank,
            "share": beyond[kind, rank] / sent[kind, rank],
        }
    )
