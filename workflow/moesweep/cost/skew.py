"""How much more than the mean the busiest expert-parallel rank has to do."""

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes import sizes as s

SCATTERING = ("aux_loss", "bias", "uncontrolled")
"""Routings whose loads scatter about the mean; of all others the op rows say all of the load."""

known = ~pl.col("routing").is_in(SCATTERING) | s.padded
"""Whether the op rows say all of the load: they are even, padded, or the busiest rank's where it is given."""


def load_variation() -> pl.Expr:
    """Return the coefficient of variation of the experts' loads, by what evens them.

    A loss that is added (aux_loss) leaves more the smaller an expert's part of the tokens, k/E: cv in
    proportion to E/k. A bias that is learned leaves a few per cent (Wang et al. 2024, arXiv:2408.15664).
    """
    topk = pl.max_horizontal(pl.col("moe_router_topk"), 1)
    of_a_loss = constant("aux_loss_load_variation") * pl.col("num_experts") / topk
    variation = (
        pl.when(pl.col("routing") == "aux_loss")
        .then(of_a_loss)
        .when(pl.col("routing") == "bias")
        .then(constant("bias_load_variation"))
        .otherwise(constant("expert_load_variation"))
    )
    return variation.alias("load_variation")


def busiest_share() -> pl.Expr:
    """Return the busiest ep rank's load over that of the op rows: 1 with balanced or given routing.

    Otherwise the expected greatest of ep means of E/ep experts whose loads scatter with a coefficient
    of variation cv: 1 + cv · 0.564 · log2(ep)^0.8 / sqrt(E/ep); 0.564 is the expected greater of two
    standard normal numbers, the power follows the expected greatest of up to 64 within 3%.
    """
    ep = pl.col("ep").cast(pl.Float64)
    local = pl.max_horizontal(pl.col("num_experts") / ep, 1.0)
    excess = load_variation() * 0.564 * ep.log(2).pow(0.8) / local.sqrt()
    return pl.when(known).then(1.0).otherwise(1.0 + excess).alias("busiest_share")
