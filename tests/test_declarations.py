"""How ops are declared: whether one is there and how often it runs are two things."""

import polars as pl
import pytest

from moesweep.shapes.communication import OVER_DATA
from moesweep.trace.programs import folded, sections
from small import small
from varied import VARIED

OPS = [op for alternatives in sections() for section in alternatives for op in section.ops]
COUNTS = {"num_microbatches", "global_batch_size", "world_size", "dp"}


def test_whether_an_op_is_there_does_not_depend_on_how_often_it_runs() -> None:
    in_passes = [op for op in OPS if "num_microbatches" in op.count.meta.root_names()]
    assert {op.name for op in OPS} - {op.name for op in in_passes} == {
        *("grad_reduce_dense", "grad_reduce_expert", "norm_grad_reduce", "embedding_grad_reduce"),
        "expert_bias_reduce",
        *(
            "grad_norm",
            "grad_norm_dense",
            "grad_norm_expert",
            "adam",
            "host_adam",
            "param_gather_dense",
            "param_gather_expert",
        ),
    }
    # Who shares parameters says what is gathered and reduced of them, and who is there what a loss counts.
    counted = {op.name: COUNTS - ({"dp"} if op.group_kind in OVER_DATA else set()) for op in in_passes}
    assert not [op.name for op in in_passes if counted[op.name] & set(op.when.meta.root_names())]


@pytest.mark.parametrize("name", VARIED)
def test_what_is_there_runs_at_least_once(name: str) -> None:
    least = (
        folded(small(**VARIED[name]))
        .group_by(pl.col("phase") == "optimizer")
        .agg(pl.col("num_microbatches").min())
    )
    assert all(count >= 1 for count in least["num_microbatches"])
