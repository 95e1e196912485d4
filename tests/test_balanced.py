"""Rows of experts under balanced routing, by hand."""

import polars as pl

from moesweep.trace.balanced import routing
from small import DENSE, small


def test_experts_compute_as_many_rows_as_whole_tokens_allow() -> None:
    """35 tokens a rank, of two experts each: 420 copies of six ranks, nine experts on three of ep."""
    changes = {"ep": 3, "num_experts": 9, "world_size": 12, "global_batch_size": 24, "seq_length": 70}
    found = routing(small(**changes, pp=1))
    assert found["rows"].to_list() == [46, 47, 47, 46, 47, 47, 46, 47, 47]
    assert found["rows"].sum() == 420
    assert found["ep_rank"].to_list() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found["expert"].to_list() == list(range(9))
    assert (found["layer"] == -1).all()
    assert (found["share"] == 1 / 9).all()
    assert routing(small(**DENSE)).select(pl.len()).item() == 0
