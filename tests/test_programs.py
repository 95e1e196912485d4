"""Programs against the naive second implementation, row for row and byte for byte, for every model key."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesweep.shapes.layer_kinds import KINDS
from moesweep.shapes.placement import layer_layout
from moesweep.trace.programs import programs, stages
from naive_model import layers, naive_parameters, stage_layers
from naive_trace import naive_program
from small import MODELS, small
from varied import VARIED

EVERY = VARIED | MODELS


WITHOUT_LAYERS = {"pp": 4, "world_size": 32, "pipeline_model_parallel_layout": "E|t*2|t*2|L"}
"""The first stage has the embedding alone, and nothing that tp ranks sum."""


@pytest.mark.parametrize("name", [*EVERY, "without layers"])
def test_every_row_of_every_stage(name: str) -> None:
    workload = small(**(EVERY | {"without layers": WITHOUT_LAYERS})[name])
    row, ours = workload.row(0, named=True), programs(workload)
    for stage in range(row["pp"]):
        rows = ours.filter(pl.col("stage") == stage).drop("workload").to_dicts()
        assert rows == naive_program(row, stage)


@pytest.mark.parametrize("name", EVERY)
def test_parameters_of_models(name: str) -> None:
    row = small(**EVERY[name]).row(0, named=True)
    found = row["parameters"], row["active_parameters"], row["mtp_parameters"]
    assert found == naive_parameters(row)


@pytest.mark.parametrize("name", EVERY)
def test_where_layers_stand(name: str) -> None:
    workload = small(**EVERY[name])
    row = workload.row(0, named=True)
    ours = layer_layout(workload).sort("stage", "chunk", "layer")
    theirs = [
        (stage, layer.number, layer.routed, layer.windowed, layer.predicts)
        for stage in range(row["pp"])
        for layer in stage_layers(row, stage)
    ]
    kind = pl.col("layer_kind")
    found = ours.select(
        "stage",
        "layer",
        kind.str.contains("moe"),
        windowed=kind.str.ends_with("window"),
        predicts=kind.str.starts_with("mtp"),
    )
    assert found.rows() == theirs
    assert len(theirs) == len(layers(row))
    counts = stages(workload).select(pl.sum_horizontal(f"{kind}_layers" for kind in KINDS))
    assert counts.to_series().sum() == len(theirs)


@settings(max_examples=50)
@given(layers=st.integers(1, 40), pp=st.integers(1, 8), chunks=st.integers(1, 3), mtp=st.integers(0, 2))
def test_layers_are_spread_evenly_and_in_order(layers: int, pp: int, chunks: int, mtp: int) -> None:
    pipeline = {"num_layers": layers, "pp": pp, "virtual_pipeline": chunks, "mtp_num_layers": mtp}
    found = layer_layout(small(**pipeline, world_size=8 * pp))
    virtual = found.select(pl.col("chunk") * pp + pl.col("stage")).to_series()
    assert found["layer"].to_list() == list(range(layers + mtp))
    assert virtual.is_sorted()
    assert virtual[layers:].to_list() == [pp * chunks - 1] * mtp
    held = virtual[:layers].value_counts()["count"]
    assert held.max() - held.min() <= 1 if layers >= pp * chunks else held.max() == 1
