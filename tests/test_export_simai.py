"""SimAI text: the source's files to the byte, and the trace's totals in the Megatron flavor."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from moesweep.cli import main
from moesweep.export import simai_aicb, simai_megatron
from moesweep.export.source import traced
from moesweep.store.layout import Results
from moesweep.study.catalog import load_cluster
from moesweep.study.sweep import enumerate_sweep
from moesweep.study.workload import resolve
from small import small

MOE, DENSE = "config/sweeps/moe-a100-123.yaml", "config/sweeps/dense-a100-184.yaml"
FIELDS = [
    "name", "dependency",
    "fwd_time", "fwd_comm", "fwd_bytes",
    "input_grad_time", "input_grad_comm", "input_grad_bytes",
    "weight_grad_time", "weight_grad_comm", "weight_grad_bytes",
    "update_time",
]  # fmt: skip
PASSES = ("fwd", "input_grad", "weight_grad")
MAX_COMM_BYTES = 17_179_869_184


def parse(path: Path) -> tuple[dict[str, str], pl.DataFrame]:
    """Read a file back: header keys to text, and the rows. It shares no code with the writer."""
    data = path.read_bytes()
    first, count, _ = data.split(b"\n", 2)
    words = first.decode().split()
    assert words[0] == "HYBRID_TRANSFORMER_FWD_IN_BCKWD"
    assert all(key.endswith(":") for key in words[1::2])
    text = {"name", *(f"{each}_comm" for each in PASSES)}
    schema = {field: pl.String if field in text else pl.Int64 for field in FIELDS}
    rows = pl.read_csv(data, separator="\t", has_header=False, skip_lines=2, schema=schema)
    assert rows.height == int(count)
    assert data.endswith(b"\n")
    return {key[:-1]: value for key, value in zip(words[1::2], words[2::2], strict=True)}, rows


def passes(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row per row and pass: name, pass, time, comm, bytes."""
    return pl.concat(
        rows.select(
            "name",
            pl.lit(each).alias("phase"),
            *(pl.col(f"{each}_{what}").alias(what) for what in ("time", "comm", "bytes")),
        )
        for each in PASSES
    )


@pytest.fixture(scope="module")
def aicb(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("aicb")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for sweep in (MOE, DENSE):
            command = ["export", "--format", "simai", "--flavor", "aicb", "--sweep", sweep]
            assert main([*command, "--out", str(folder), "--overwrite"]) == 0
    return folder


def test_aicb_files_equal_the_sources_to_the_byte(aicb: Path, root: Path) -> None:
    wanted = pl.read_csv(root / "tests/data/simai_sha256.csv")
    assert wanted.height == 177
    differing = [
        name
        for name, digest in wanted.select("file", "sha256").iter_rows()
        if hashlib.sha256((aicb / name).read_bytes()).hexdigest() != digest
    ]
    assert differing == []


def test_aicb_files_hold_the_golden_sums(aicb: Path, root: Path) -> None:
    golden = pl.read_csv(root / "tests/data/simai_golden.csv")
    found = []
    for name in golden["file"].unique(maintain_order=True):
        cells = passes(parse(aicb / name)[1]).filter((pl.col("comm") != "NONE") | (pl.col("bytes") > 0))
        sums = cells.group_by("phase", comm_type="comm").agg(count=pl.len(), total_bytes=pl.sum("bytes"))
        found.append(sums.with_columns(file=pl.lit(name)))
    key = ["file", "phase", "comm_type"]
    columns = [*key, "count", "total_bytes"]
    assert_frame_equal(
        pl.concat(found).select(columns).sort(key), golden.select(columns).sort(key), check_dtypes=False
    )


@pytest.mark.parametrize(("facts", "count"), [("workloads_123", 123), ("dense_184", 184)])
def test_aicb_writes_every_file_of_the_source(aicb: Path, root: Path, facts: str, count: int) -> None:
    names = pl.read_csv(root / f"tests/data/{facts}.csv")["source_file"]
    assert names.n_unique() == count
    assert [name for name in names if not (aicb / name).is_file()] == []


def workload(root: Path, **changes: Any) -> dict[str, Any]:
    base = enumerate_sweep(root, MOE).row(0, named=True)
    return resolve([{**base, **changes}]).row(0, named=True)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"gated_mlp": True}, "gated_mlp true: AICB counts two projections"),
        ({"etp": 1}, "etp 1: AICB splits experts over the tp group"),
        ({"attention": "mla"}, 'attention "mla"'),
        ({"recompute": "full"}, 'recompute "full"'),
        ({"virtual_pipeline": 2}, "virtual_pipeline 2"),
        ({"sequence_parallel": False}, "sequence_parallel false"),
        ({"num_shared_experts": 1}, "num_shared_experts 1"),
        ({"head_dim": 64}, "head_dim 64"),
        ({"mtp_num_layers": 1}, "mtp_num_layers 1: AICB makes all layers alike"),
        ({"qk_layernorm": True}, "qk_layernorm true"),
        ({"add_bias_linear": True}, "add_bias_linear true"),
        ({"window_size": "[127,0]"}, 'window_size "[127,0]"'),
        ({"moe_layer_freq": "2"}, 'moe_layer_freq "2"'),
        ({"num_layers_in_last_pipeline_stage": 2}, "num_layers_in_last_pipeline_stage 2: AICB gives every"),
        ({"account_for_loss_in_pipeline_split": True}, "account_for_loss_in_pipeline_split true"),
        ({"routing": "zipf(alpha=1.2,seed=7)"}, 'routing "zipf(alpha=1.2,seed=7)": AICB gives every expert'),
        ({"moe_router_dtype": "fp32"}, 'moe_router_dtype "fp32"'),
        ({"moe_router_fusion": True}, "moe_router_fusion true"),
        ({"moe_permute_fusion": True}, "moe_permute_fusion true"),
        ({"cross_entropy_loss_fusion": True}, "cross_entropy_loss_fusion true"),
    ],
)
def test_aicb_says_what_it_cannot_express(root: Path, changes: dict[str, Any], word: str) -> None:
    (problem,) = simai_aicb.inexpressible(workload(root, **changes))
    assert f"AICB cannot express {word}" in problem.line()


def test_aicb_lists_everything_that_it_cannot_express(root: Path) -> None:
    found = simai_aicb.inexpressible(workload(root, gated_mlp=True, etp=1, recompute="full"))
    assert {problem.path for problem in found} == {"gated_mlp", "etp", "recompute"}


GROUPS = {
    "tp": "tp",
    "etp": "tp",
    "ep": "ep",
    "tp_ep": "ep",
    "dp": "dp",
    "edp": "edp",
    "embedding": "dp",
    "world": "dp",
    "model": "dp",
    "expert_model": "edp",
}
WORDS = {
    "ALLGATHER": "all_gather",
    "REDUCESCATTER": "reduce_scatter",
    "ALLREDUCE": "all_reduce",
    "ALLTOALL": "all_to_all",
}
SUMMED = ["group", "phase", "op", "collective"]


def read_totals(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what a file says: bytes by SimAI group, phase, op and collective."""
    cells = passes(rows).filter(pl.col("comm") != "NONE")
    word, suffix = (
        pl.col("comm").str.extract(r"^([A-Z]+)"),
        pl.col("comm").str.extract(r"^[A-Z]+(_.*)?$").fill_null(""),
    )
    weight = pl.col("phase") == "weight_grad"
    group = suffix.replace_strict({"": "tp", "_EP": "ep", "_DP_EP": "edp"})
    once = weight | (pl.col("name") == "norm_grad_reduce")
    phase = pl.when(once).then(pl.lit("optimizer")).when(pl.col("phase") == "fwd").then(pl.lit("forward"))
    return (
        cells.with_columns(
            group=pl.when(weight & (group == "tp")).then(pl.lit("dp")).otherwise(group),
            phase=phase.otherwise(pl.lit("backward")),
            op="name",
            collective=word.replace_strict(WORDS),
        )
        .group_by(SUMMED)
        .agg(pl.sum("bytes"))
        .sort(SUMMED)
    )


def trace_totals(program: pl.DataFrame) -> pl.DataFrame:
    return (
        program.filter(pl.col("kind") == "collective")
        .with_columns(
            pl.col("phase", "collective").cast(pl.String), group=pl.col("group_kind").replace_strict(GROUPS)
        )
        .group_by(SUMMED)
        .agg(bytes=(pl.col("comm_bytes") * pl.col("num_microbatches")).sum())
        .sort(SUMMED)
    )


@pytest.fixture(scope="module")
def megatron(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("megatron")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        command = ["export", "--format", "simai", "--sweep", MOE, "--results", str(folder / "none")]
        named = [each for id_ in some(enumerate_sweep(root, MOE))["workload"] for each in ("--workload", id_)]
        assert main([*command, *named, "--out", str(folder)]) == 0
    return folder


def some(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return one workload in nine: all kinds and models are among them."""
    return workloads.gather_every(9)


def test_megatron_files_hold_the_traces_totals_within_simais_limits(megatron: Path, root: Path) -> None:
    workloads, cluster = some(enumerate_sweep(root, MOE)), load_cluster(root, "dgx-a100-80gb-8xhdr200")
    assert len(list(megatron.iterdir())) == workloads.height == 24
    assert workloads["kind"].n_unique() == 2
    assert workloads["model"].n_unique() == 5
    for each in traced(workloads, Results(Path("none")), cluster):
        (path,) = megatron.glob(f"{each.workload['workload']}-stage*.txt")
        header, rows = parse(path)
        program = each.program.filter(pl.col("stage") == int(path.stem.rsplit("-stage", 1)[1]))
        assert_frame_equal(read_totals(rows), trace_totals(program))
        assert_same_times(rows, program)
        assert_limits(header, rows, each.workload)


def assert_same_times(rows: pl.DataFrame, program: pl.DataFrame) -> None:
    """Compute time is that of the costs: forward in its column, the rest in the gradients' columns."""
    kernels = program.filter(~pl.col("kind").is_in(["collective", "p2p"]))
    time_ = (pl.col("seconds") * 1e9).round().cast(pl.Int64) * pl.col("num_microbatches")
    forward = kernels.filter(pl.col("phase") == "forward").select(time_.sum()).item()
    weight = pl.col("op").str.ends_with("_wgrad")
    after = kernels.filter(pl.col("phase") != "forward")
    assert rows["fwd_time"].sum() == forward > 0
    assert rows["weight_grad_time"].sum() == after.filter(weight).select(time_.sum()).item() > 0
    assert rows["input_grad_time"].sum() == after.filter(~weight).select(time_.sum()).item() > 0


def test_simai_knows_one_order_of_chunks() -> None:
    row = small(virtual_pipeline=2, microbatch_group_size_per_vp_stage=3).row(0, named=True)
    (problem,) = simai_megatron.inexpressible(row)
    assert (problem.path, problem.value) == ("microbatch_group_size_per_vp_stage", "3")
    assert problem.suggestion == "only 2"
    assert simai_megatron.inexpressible(small(virtual_pipeline=2).row(0, named=True)) == []


def assert_limits(header: dict[str, str], rows: pl.DataFrame, workload: dict[str, Any]) -> None:
    numbers = rows.select(pl.selectors.ends_with("_time", "_bytes"))
    assert numbers.min_horizontal().min() >= 0  # type: ignore[operator]
    assert rows.select(pl.max_horizontal(pl.selectors.ends_with("_time")).max()).item() < 2**31
    assert rows.select(pl.max_horizontal("fwd_bytes", "input_grad_bytes").max()).item() <= MAX_COMM_BYTES
    assert not rows["name"].str.contains(r"\s").any()
    assert rows.filter(
        pl.col("fwd_comm").str.contains("DP") | pl.col("input_grad_comm").str.contains("DP")
    ).is_empty()
    assert header["ga"] == str(workload["num_microbatches"])
    assert (header["pp_comm"] == "0") == (workload["pp"] == 1)
    assert header["vpp"] == "1"
    assert all(0 <= int(value) < 2**31 for value in header.values())


def test_rows_stand_in_forward_order_and_mirrored_in_backward_order(megatron: Path, root: Path) -> None:
    id_ = enumerate_sweep(root, MOE).row(0, named=True)["workload"]
    (path,) = megatron.glob(f"{id_}-stage*.txt")
    rows = parse(path)[1]
    once = ["param_gather_expert", "param_gather_dense", "grad_norm", "embedding_grad_reduce"]
    once += ["norm_grad_reduce", "grad_reduce_expert", "grad_reduce_dense"]
    assert [name for name in rows["name"][:8] if name in once] == [
        name for name in once if name in rows["name"]
    ]
    # One layer, from a gather to before the next: regather runs in backward only, the counts in forward only.
    start = rows["name"].to_list().index("attention_gather")
    layer = ["attention_gather", "attention_regather", "attention_scatter", "token_counts", "moe_dispatch"]
    layer += ["expert_gather", "expert_scatter", "moe_combine"]
    assert rows["name"][start : start + 9].to_list() == [*layer, "attention_gather"]
    assert rows["fwd_comm"][start + 1] == "NONE" != rows["input_grad_comm"][start + 1]
    assert rows["fwd_comm"][start + 3] == "ALLGATHER_EP" != rows["input_grad_comm"][start + 3]


def test_messages_and_times_beyond_the_limits_are_split_without_loss(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simai_megatron, "MAX_COMM_BYTES", 10_000_001)
    monkeypatch.setattr(simai_megatron, "MAX_NANOSECONDS", 70_001)
    frame, cluster = enumerate_sweep(root, MOE).head(1), load_cluster(root, "dgx-a100-80gb-8xhdr200")
    (each,) = traced(frame, Results(Path("none")), cluster)
    program = simai_megatron.nanoseconds(each.program.filter(pl.col("stage") == 0))
    _, blocks = simai_megatron.stage_text(each.workload, program)
    lines = [line.strip().split("\t") for block in blocks for line in block.rows * block.times]
    frame = pl.DataFrame(lines, schema=FIELDS, orient="row")
    rows = frame.cast(dict.fromkeys([f for f in FIELDS if f.endswith(("_time", "_bytes"))], pl.Int64))
    assert_frame_equal(read_totals(rows), trace_totals(program))
    assert_same_times(rows, program)
    assert rows.select(pl.max_horizontal(pl.selectors.ends_with("_bytes")).max()).item() <= 10_000_001
    assert (
        rows.select(pl.max_horizontal("fwd_time", "input_grad_time", "weight_grad_time").max()).item()
        <= 70_001
    )


def test_every_stage_can_be_written(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    row = enumerate_sweep(root, MOE).row(1, named=True)
    command = ["export", "--format", "simai", "--sweep", MOE, "--workload", row["workload"]]
    assert main([*command, "--stage", "all", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{row['workload']}-stage{stage}.txt" for stage in range(row["pp"])
    ]


def test_simai_has_one_size_for_all_messages_between_stages(root: Path) -> None:
    layout = {"pipeline_model_parallel_layout": "Et|tm|L", "pp": 3, "num_layers": 2, "mtp_num_layers": 1}
    layout["microbatch_group_size_per_vp_stage"] = layout["pp"]
    (problem,) = simai_megatron.inexpressible(workload(root, **layout))
    assert "messages between stages are all of one size" in problem.line()
    layout["pipeline_model_parallel_layout"] = "Et|t|mL"
    assert simai_megatron.inexpressible(workload(root, **layout)) == []


def test_simai_has_no_expert_tensor_groups_of_another_size(root: Path) -> None:
    (problem,) = simai_megatron.inexpressible(workload(root, etp=1))
    assert "etp 1 is not tp 8" in problem.line()
