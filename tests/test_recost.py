"""Workloads beside the sweep's: the same costs as in the sweep, skew and fit worked out by hand.

The sweep is that of tabled.py: gpt_7B on 32 GPUs, tp 2, pp 2, ep 2, 4, 8, 512 tokens, 16 experts, top-2. A
rank routes 2 x 512 / 2 = 512 copies, an even 32 to an expert; a capacity factor of 1.25 lets 40 through.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import moesweep.tables.results
from costing import cluster
from moesweep.evaluate import costs as door
from moesweep.evaluate.recost import recosted
from moesweep.store.checksums import keep
from moesweep.store.layout import Results
from moesweep.store.memo import forget
from moesweep.store.tablefile import conform
from moesweep.study.catalog import Cluster
from moesweep.tables.fitting import LEVELS, feasible_ep, recompute_options
from moesweep.tables.registry import RECOSTED, TABLES
from moesweep.tables.results import Inputs, read_inputs
from moesweep.tables.skew_sensitivity import ALPHAS, skew_sensitivity
from skewed import SKEWED
from small import DENSE, small
from tabled import CLUSTER, EP, SMALL, make

GIB = 2**30


@pytest.fixture(scope="module")
def inputs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return read_inputs(make(root, tmp_path_factory.mktemp("small"), SMALL))


@pytest.fixture(scope="module")
def skews(inputs: Inputs) -> pl.DataFrame:
    return conform(skew_sensitivity(inputs).lazy(), "skew_sensitivity").collect()


def as_made_by(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    return conform(frame.lazy(), name).collect()


def with_fake_costs(
    patch: pytest.MonkeyPatch, inputs: Inputs, peaks: dict[str, float], own: str = "none"
) -> Inputs:
    """Return inputs of one workload, whose recomputations take 1, 2 and 3 seconds and so many GiB."""
    told = pl.DataFrame(
        {
            "recompute": LEVELS,
            "iteration_seconds": [1.0, 2.0, 3.0],
            "peak_memory_bytes": [peaks[level] * GIB for level in LEVELS],
            "usd_per_billion_tokens": [1.0] * len(LEVELS),
        },
        schema_overrides={"recompute": inputs.workloads.schema["recompute"]},
    )
    workloads = inputs.workloads.head(1).with_columns(recompute=pl.lit(own, told.schema["recompute"]))
    rates = {"model_flops_per_second_per_gpu": 1.0, "tokens_per_second_per_gpu": 1.0}
    costs = workloads.join(told, on="recompute").select(
        "workload",
        "iteration_seconds",
        "peak_memory_bytes",
        *(pl.lit(rate).alias(name) for name, rate in rates.items()),
    )
    patch.setattr(moesweep.tables.results, "recosted", lambda frame, _: frame.join(told, on="recompute"))
    return replace(inputs, workloads=workloads, costs=costs)


def quickly_launched(on: Cluster) -> Cluster:
    """Return a cluster whose hosts launch so fast that kernels of small layers are seen behind it."""
    launches = {"host_seconds": 0.6e-3, "host_backward_ratio": 0.31, "host_experts_seconds": 0.0}
    constants = {name: replace(on.constants[name], value=value) for name, value in launches.items()}
    return replace(on, constants=on.constants | constants)


def test_what_the_sweep_has_costs_the_same_again(inputs: Inputs) -> None:
    again = inputs.recosted(inputs.workloads, "again")
    assert again["workload"].to_list() == inputs.costs["workload"].to_list()
    for name in ("iteration_seconds", "ep_comm_seconds", "peak_memory_bytes", "gpu_hours_per_billion_tokens"):
        assert again[name].to_list() == pytest.approx(inputs.costs[name].to_list(), rel=1e-12)


def test_what_tables_ask_for_is_costed_at_once_and_found(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def counted(workloads: pl.DataFrame, on: Cluster) -> pl.DataFrame:
        batches.append(workloads.height)
        return recosted(workloads, on)

    monkeypatch.setattr(moesweep.tables.results, "recosted", counted)
    monkeypatch.chdir(tmp_path)
    keep(tmp_path)
    kept = replace(inputs, results=Results(tmp_path / "results"))
    kept.recost_at_once({name: beside(kept) for name, beside in RECOSTED.items()})
    found = {name: TABLES[name](kept) for name in RECOSTED}
    assert batches == [sum(beside(inputs).height for beside in RECOSTED.values())]
    for name, table in found.items():
        assert table.equals(TABLES[name](inputs)), name
    # One that is asked for alone is its table's to cost.
    forget(kept.results, "tables")
    batches.clear()
    kept.recost_at_once({"feasible_ep": RECOSTED["feasible_ep"](kept)})
    assert not batches


def test_a_skewed_sweep_costs_the_same_again_in_its_order(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than are costed at once, even and dense ones in between."""
    monkeypatch.setattr(door, "SKEWED_AT_ONCE", 3)
    changes = {f"skewed {seed}": {"routing": f"zipf(alpha=1,seed={seed},capacity=1.5)"} for seed in range(4)}
    changes = {"even": {}} | changes | {"dense": DENSE, "last": {"routing": SKEWED}}
    workloads = pl.concat(
        small(**change).with_columns(workload=pl.lit(id_)) for id_, change in changes.items()
    )
    quick = quickly_launched(cluster(CLUSTER))
    found = recosted(workloads, quick)
    assert found["workload"].to_list() == list(changes)
    alone = [recosted(workloads.slice(at, 1), quick) for at in range(workloads.height)]
    seconds = [each["iteration_seconds"][0] for each in alone]
    assert found["iteration_seconds"].to_list() == pytest.approx(seconds, rel=1e-12)
    loads = found.select("workload", "rank_load_ratio", "dropped_share").rows()
    assert loads[0] == ("even", 1, 0)
    assert loads[-2] == ("dense", None, None)
    assert found["iteration_seconds"][-1] > found["iteration_seconds"][0]


def test_the_comparison_of_most_ep_is_skewed(inputs: Inputs, skews: pl.DataFrame) -> None:
    rows = 1 + 2 * len(ALPHAS)
    assert skews["workload"].to_list() == [EP.format(ep) for ep in (2, 4, 8) for _ in range(rows)]
    even = skews.filter(alpha=0)
    costs = inputs.costs.filter(pl.col("workload").is_in(even["workload"].implode()))
    assert sorted(even["iteration_seconds"]) == pytest.approx(sorted(costs["iteration_seconds"]), rel=1e-12)
    assert even.select("expert_load_ratio", "rank_load_ratio", "dropped_share").unique().rows() == [(1, 1, 0)]
    assert set(even["iteration_seconds_ratio"]) == {1.0}


@pytest.mark.parametrize("alpha", ALPHAS)
def test_loads_and_drops_are_those_of_the_law(skews: pl.DataFrame, alpha: float) -> None:
    """The r-th of 16 experts gets r^-alpha of the sum; 40 of 512 copies of a rank are let through."""
    weights = [rank**-alpha for rank in range(1, 17)]
    shares = [weight / sum(weights) for weight in weights]
    free, capped = (
        skews.filter((pl.col("alpha") == alpha) & (pl.col("capacity_factor").is_null() == is_free))
        for is_free in (True, False)
    )
    whole = 2 / 512  # Tokens are whole, so shares are off by up to one copy.
    assert free["expert_load_ratio"].to_list() == pytest.approx([16 * shares[0]] * 3, abs=16 * whole)
    dropped = sum(max(0.0, share - 40 / 512) for share in shares)
    assert capped["dropped_share"].to_list() == pytest.approx([dropped] * 3, abs=8 * whole)
    assert free["dropped_share"].to_list() == [0, 0, 0]
    assert (capped["rank_load_ratio"] <= 1.25).all()
    # The fullest rank has the fullest expert, and no more than all its experts being as full.
    local = 16 / free["ep"]
    assert (free["rank_load_ratio"] * local + 1e-9 >= free["expert_load_ratio"]).all()
    assert (free["rank_load_ratio"] <= free["expert_load_ratio"]).all()


def test_everybody_waits_for_the_fullest_rank(inputs: Inputs, skews: pl.DataFrame) -> None:
    """Not step by step: products whose tiles fill their last wave better may take less time for more rows.

    Behind the launches of such small layers little skew is not seen; with quicker launches it is.
    """
    quick = replace(inputs, cluster=quickly_launched(inputs.cluster))
    seen = as_made_by("skew_sensitivity", skew_sensitivity(quick))
    for _, rows in seen.filter(pl.col("capacity_factor").is_null()).sort("ep", "alpha").group_by("ep"):
        assert rows["rank_load_ratio"].is_sorted()
        slightly, most = rows["iteration_seconds_ratio"].gather([1, -1])
        assert most > slightly > 1
    free = skews.filter(pl.col("capacity_factor").is_null())
    for _, rows in free.sort("ep", "alpha").filter(pl.col("alpha") > 0).group_by("alpha"):
        assert rows["rank_load_ratio"].is_sorted()
    assert (free["iteration_seconds_ratio"] <= free["rank_load_ratio"] + 1e-9).all()


def test_skew_is_against_balanced_even_in_a_skewed_sweep(inputs: Inputs, skews: pl.DataFrame) -> None:
    skewed = inputs.workloads.with_columns(
        routing=pl.when(pl.col("kind") == "moe").then(pl.lit(SKEWED)).otherwise("routing")
    )
    found = as_made_by("skew_sensitivity", skew_sensitivity(replace(inputs, workloads=skewed)))
    assert found.equals(skews)
    assert feasible_ep(replace(inputs, workloads=skewed)).is_empty()
    assert set(recompute_options(replace(inputs, workloads=skewed))["kind"]) == {"dense"}


def test_without_a_comparison_one_workload_is_skewed(inputs: Inputs) -> None:
    alone = inputs.workloads.filter(pl.col("workload").is_in([EP.format(4)]))
    found = skew_sensitivity(replace(inputs, workloads=alone))
    assert found["workload"].unique().to_list() == [EP.format(4)]
    whole = alone.with_columns(ep=pl.lit(1, pl.Int64))
    assert skew_sensitivity(replace(inputs, workloads=whole)).is_empty()


def test_legal_degrees_by_hand(inputs: Inputs) -> None:
    """ep divides the 16 experts and world / (etp pp): 32/4 = 8, 64/16 = 4, 64/32 = 2."""
    found = as_made_by("feasible_ep", feasible_ep(inputs))
    assert found.select("sweep_degrees", "legal_degrees", "largest_legal_ep").rows() == [
        ("2 4 8", "1 2 4 8", 8),
        ("2", "1 2 4", 4),
        ("2", "1 2", 2),
    ]


def test_a_degree_fits_as_it_does_in_the_sweep(inputs: Inputs) -> None:
    """With memory between the peaks of ep 2 and ep 4, the former does not fit and the latter does."""
    peaks = dict(inputs.costs.select("workload", "peak_memory_bytes").rows())
    constants = dict(inputs.cluster.constants)
    between = (peaks[EP.format(2)] + peaks[EP.format(4)]) / 2 + inputs.cluster.value("reserved_hbm_bytes")
    constants["hbm_bytes"] = replace(constants["hbm_bytes"], value=between)
    tight = replace(inputs, cluster=replace(inputs.cluster, constants=constants))
    first = feasible_ep(tight).row(0, named=True)
    assert first["fitting_degrees"] == "4 8"
    assert (first["largest_fitting_ep"], first["smallest_fitting_ep"]) == (8, 4)
    assert first["peak_memory_bytes"] == first["least_peak_memory_bytes"] == peaks[EP.format(8)]
    constants["hbm_bytes"] = replace(constants["hbm_bytes"], value=1.0)
    none = feasible_ep(replace(inputs, cluster=replace(inputs.cluster, constants=constants))).row(
        0, named=True
    )
    assert none["fitting_degrees"] == ""
    assert none["largest_fitting_ep"] is none["fastest_fitting_ep"] is none["iteration_seconds"] is None


@pytest.mark.parametrize("own", LEVELS)
def test_the_fastest_recomputation_that_fits(inputs: Inputs, own: str) -> None:
    """What the framework reserves counts: a peak of 40 GiB does not fit 40 GiB."""
    assert inputs.cluster.value("reserved_hbm_bytes") > 0
    constants = dict(inputs.cluster.constants)
    constants["hbm_bytes"] = replace(constants["hbm_bytes"], value=64.0 * 2**30)
    inputs = replace(inputs, cluster=replace(inputs.cluster, constants=constants))
    for peaks, at_80, at_40, at_64 in (
        ((30.0, 20.0, 10.0), ("none", 1.0), ("none", 1.0), ("none", 1.0)),
        ((70.0, 40.0, 10.0), ("none", 1.0), ("full", 3.0), ("selective", 2.0)),
        ((90.0, 60.0, 39.99), ("selective", 2.0), (None, None), ("selective", 2.0)),
        ((90.0, 64.0, 40.0), ("selective", 2.0), (None, None), ("full", 3.0)),
        ((90.0, 85.0, 81.0), (None, None), (None, None), (None, None)),
    ):
        with pytest.MonkeyPatch.context() as patch:
            fake = with_fake_costs(patch, inputs, dict(zip(LEVELS, peaks, strict=True)), own)
            row = as_made_by("recompute_options", recompute_options(fake)).row(0, named=True)
        assert (row["fastest_at_80_gib"], row["ratio_at_80_gib"]) == at_80
        assert (row["fastest_at_40_gib"], row["ratio_at_40_gib"]) == at_40
        assert (row["fastest_on_gpu"], row["ratio_on_gpu"]) == at_64
        assert row["gpu_memory_bytes"] == 64 * GIB


def test_a_memory_that_is_asked_for_takes_the_place_of_the_gpu_s(inputs: Inputs) -> None:
    own = inputs.cluster.value("hbm_bytes")
    for memory, fastest in ((None, "none"), (60.0 * GIB, "selective"), (40.0 * GIB, None)):
        with pytest.MonkeyPatch.context() as patch:
            fake = with_fake_costs(patch, inputs, dict(zip(LEVELS, (70.0, 50.0, 40.0), strict=True)))
            asked = replace(fake, memory_bytes=memory)
            row = as_made_by("recompute_options", recompute_options(asked)).row(0, named=True)
        assert (row["fastest_on_gpu"], row["gpu_memory_bytes"]) == (fastest, memory or own)
        assert (row["fastest_at_80_gib"], row["fastest_at_40_gib"]) == ("none", None)


def test_recomputing_trades_time_for_memory(inputs: Inputs) -> None:
    found = as_made_by("recompute_options", recompute_options(inputs))
    assert found["workload"].to_list() == inputs.workloads["workload"].to_list()
    assert found["none_iteration_seconds"].to_list() == inputs.costs["iteration_seconds"].to_list()
    for less, more in (("none", "selective"), ("selective", "full")):
        # The host's launches may outlast the kernels of both: then they differ by rounding alone.
        longer = found[f"{more}_iteration_seconds"] * (1 + 1e-12)
        assert (found[f"{less}_iteration_seconds"] <= longer).all()
        assert (found[f"{less}_peak_memory_bytes"] > found[f"{more}_peak_memory_bytes"]).all()
