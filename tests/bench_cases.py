"""What `make bench` runs: commands as users type them, each on a study in a folder of its own."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[1]
LARGEST = "gpt_175B-ws4096-tp8-pp32-ep16-gbs16384-mbs1-seq4096-moe"
SMALL = "gpt_13B-ws512-tp8-pp2-ep16-gbs1024-mbs1-seq4096-moe"


@dataclass(frozen=True)
class Case:
    """A command to measure, and what counts its units of work once it has ended."""

    name: str
    arguments: list[str]
    unit: str = ""
    units: Callable[[], int] = lambda: 0
    program: str = "moesweep"
    peer: str = ""
    """What another program needs for the same, with its date and how it was run (docs/performance.md)."""


def new_study(scratch: Path, name: str, sweep: str = "") -> Path:
    """Return a folder with a copy of the shipped catalogue, and with a sweep where its text is given."""
    study = scratch / name
    shutil.copytree(ROOT / "config", study / "config")
    if sweep:
        (study / "config/sweeps/bench.yaml").write_text(sweep, encoding="utf-8")
    return study


def _rows(place: Path) -> int:
    files = place / "**/*.parquet" if place.is_dir() else place
    return int(pl.scan_parquet(files).select(pl.len()).collect().item())


def _lines(file: Path) -> int:
    return sum(1 for _ in file.open(encoding="utf-8")) - 1


def _edit(file: Path, old: str, new: str) -> None:
    """Edit a file of the study once; what is replaced must stand there."""
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file}: {old!r} is not there"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def stages(study: Path) -> Iterator[Case]:
    """Give each stage of the cold default sweep by its own command, in one process each."""
    ops = study / "results/traces/ops"
    for name in (
        "enumerate",
        "validate",
        "trace",
        "cost",
        "traffic",
        "tables",
        "network",
        "figures",
        "report",
        "manifest",
    ):
        counted = ("rows of ops", lambda: _rows(ops)) if name == "trace" else ("", lambda: 0)
        yield Case(f"stage {name}", [name], *counted)
    yield Case(
        "matrix of 4,096 ranks",
        ["traffic", "--workload", LARGEST, "--level", "rank", "--out", "matrix.parquet"],
    )


def sweeps(study: Path) -> Iterator[Case]:
    """Give the default sweep as users run it: cold, again, and after one edit each."""
    config = study / "config"
    sweep = config / "sweeps/moe-a100-123.yaml"
    yield Case("sweep, cold", ["run"])
    yield Case("sweep, nothing changed", ["run"])
    _edit(config / "clusters/dgx-a100-80gb-8xhdr200.yaml", "value: 2.0\n", "value: 3.0\n")
    yield Case("sweep, a price changed", ["run"])
    _edit(config / "calibration.yaml", "value: 0.781", "value: 0.77")
    yield Case("sweep, an efficiency changed", ["run"])
    _edit(sweep, "ep: 16, global_batch_size: 8192, seq_length: 2048", "ep: 8, global_batch_size: 8192")
    yield Case("sweep, one workload changed", ["run"])
    _edit(config / "config.yaml", "outputs: [network, figures, report, manifest]", "outputs: []")
    yield Case("sweep, outputs: []", ["run"])
    _edit(sweep, "ep: 8, global_batch_size: 8192", "ep: 8, global_batch_size: 4096")
    yield Case("sweep, one workload changed, outputs: []", ["run"])


ONE = """description: one workload
options: {{num_experts: 16, moe_router_topk: 2, seq_length: 4096}}
rows:
  - {{model: gpt_175B, world_size: {ranks}, tp: 8, pp: 8, ep: {ep}, global_batch_size: {{per_gpu: 1}}}}
"""


def traces(study: Path) -> Iterator[Case]:
    """Give one workload a size, from 64 to 65,536 ranks."""
    for ranks in (64, 256, 1024, 4096, 16384, 65536):
        text = ONE.format(ranks=ranks, ep=min(16, ranks // 64))
        (study / "config/sweeps/bench.yaml").write_text(text, encoding="utf-8")
        results = study / f"of-{ranks}"
        set_ = ["--set", "sweep=config/sweeps/bench.yaml", "--results", str(results)]
        yield Case(
            f"trace of {ranks:,} ranks",
            ["trace", *set_],
            "rows of ops",
            lambda r=results: _rows(r / "traces/ops"),
        )


MANY = """description: {count} small workloads
options: {{num_experts: 16, moe_router_topk: 2, distributed_optimizer: true}}
grids:
  - model: gpt_7B
    world_size: 64
    tp: 2
    pp: [1, 2]
    ep: [1, 2, 4, 8, 16]
    seq_length: {{from: 128, to: {longest}, step: 128}}
    global_batch_size: {{from: 64, to: 640, step: 64}}
"""
"""A hundred for each sequence length."""


def _many(study: Path, count: int) -> list[str]:
    text = MANY.format(count=count, longest=128 * count // 100)
    (study / "config/sweeps/bench.yaml").write_text(text, encoding="utf-8")
    return ["run", "--set", "sweep=config/sweeps/bench.yaml", "outputs=[]", "--results", f"of-{count}"]


def graphs(study: Path) -> Iterator[Case]:
    """Give dry runs of many workloads: what Snakemake's graph of jobs costs."""
    for count in (100, 1000, 10_000):
        yield Case(f"dry run of {count:,} workloads", [*_many(study, count), "--", "--dry-run"])


def many(study: Path) -> Iterator[Case]:
    """Give a real run of 10,000 small workloads (only where asked for: it takes long)."""
    yield Case("run of 10,000 workloads", _many(study, 10_000), "workloads", lambda: 10_000)


SPACE = """description: {count} points
options: {{num_experts: 16, moe_router_topk: 2, distributed_optimizer: true, sequence_parallel: true}}
grids:
  - model: {model}
    first_k_dense: {dense}
    world_size: {{from: 64, to: 4096, times: 2}}
    tp: [1, 2, 4, 8, 16]
    pp: [1, 2, 4, 8, 16, 32]
    ep: [1, 2, 4, 8, 16]
    etp: [1, tp]
    virtual_pipeline: {chunks}
    micro_batch_size: {micro}
    global_batch_size: {batch}
    seq_length: {lengths}
    recompute: [none, selective, full]
    flash_attention: [true, false]
    where: num_layers % (pp * virtual_pipeline) = 0
"""
"""Its legal points are what counts; the numbers in the names below are rounded."""

CALCULON = "Calculon 351 tried, 147 evaluated; SimuMax 20"
ALL = "[gpt_7B, gpt_13B, gpt_22B, gpt_175B, llama_65B, llama_405B]"
FEW, SOME = "[{per_gpu: 1}]", "[{per_gpu: 1}, {per_gpu: 2}, {per_gpu: 4}]"
SPACES = {
    "10^3": {"model": "gpt_7B"},
    "10^4": {"model": "[gpt_7B, gpt_13B]", "micro": "[1, 2]", "lengths": "[2048, 4096]"},
    "10^5": {"model": "[gpt_7B, gpt_13B, gpt_22B]", "micro": "[1, 2, 4]", "batch": SOME},
    "10^6": {"model": ALL, "micro": "[1, 2, 4, 8]", "batch": SOME, "lengths": "[2048, 4096, 8192]"},
    "10^6, stepped": {
        "model": ALL,
        "micro": "[1, 2, 4, 8]",
        "batch": SOME,
        "lengths": "[2048, 4096]",
        "dense": "1",
        "chunks": "[2, 3, 4, 5, 6]",
    },
}
DEFAULTS = {"dense": "0", "chunks": "1", "micro": "[1]", "batch": FEW, "lengths": "[2048]"}


def screens(study: Path) -> Iterator[Case]:
    """Give spaces of growing size, and one whose schedules are stepped."""
    for name, axes in SPACES.items():
        text = SPACE.format(**{"count": name, **DEFAULTS, **axes})
        space, out = study / f"{name}.yaml", study / f"{name}.parquet"
        space.write_text(text, encoding="utf-8")
        yield Case(
            f"screen {name}",
            ["screen", str(space), "--out", str(out)],
            "points",
            lambda o=out: _rows(o),
            peer=CALCULON,
        )
    yield Case("best layouts on 1,024 GPUs", ["best", "gpt_175B", "--gpus", "1024", "num_experts=16"])


RUNS = ROOT / "tests/data/measured_runs.csv"


def predictions(study: Path) -> Iterator[Case]:
    """Give the measured runs, once and repeated to 100,000."""
    once = pl.read_csv(RUNS, infer_schema=False)
    copies = -(-100_000 // once.height)
    again = pl.concat(once.with_columns(pl.col("run") + f"-{copy}") for copy in range(copies)).head(100_000)
    again.write_csv(study / "runs.csv")
    for name, file in (("1,201 runs", RUNS), ("100,000 runs", study / "runs.csv")):
        out = study / "out.csv"
        yield Case(
            f"predict {name}",
            ["predict", str(file), "--out", str(out)],
            "runs",
            lambda: _lines(study / "out.csv"),
            peer=CALCULON,
        )


def unrolled(study: Path) -> Iterator[Case]:
    """Give what is written op by op: of some ranks of a workload, of whole sweeps for SimAI."""
    sweep = ["--sweep", "config/sweeps/moe-a100-123.yaml"]
    one = ["--workload", SMALL]
    yield Case("enumerate for exports", ["enumerate"])
    yield Case(
        "trace --unroll, 128 ranks",
        ["trace", "--unroll", *one, "--ranks", "0-63,256-319", "--out", "unrolled"],
        "rows",
        lambda: _rows(study / "unrolled"),
    )
    yield Case(
        "export Chakra, 256 ranks",
        ["export", "--format", "chakra", *one, *sweep, "--ranks", "0-127,256-383", "--out", "chakra"],
    )
    yield Case(
        "export Perfetto, a pipeline", ["export", "--format", "perfetto", *one, *sweep, "--out", "perfetto"]
    )
    for flavor in ("megatron", "aicb"):
        yield Case(
            f"export SimAI, {flavor}",
            ["export", "--format", "simai", "--flavor", flavor, *sweep, "--out", f"simai-{flavor}"],
            "files",
            lambda f=flavor: len(list((study / f"simai-{f}").iterdir())),
            peer="AICB 14,400 rows" if flavor == "aicb" else "",
        )


SIX = ("leaf-spine-4to1", "fat-tree", "rail-optimised", "dragonfly-plus", "hyperx", "torus-3d")
NETWORK = """description: of a bench
source: of a bench
topology: {topology}
shape: {shape}
"""
GRAPH = "fat-tree-4096gpus.topo"


def networks(study: Path) -> Iterator[Case]:
    """Give what networks do to the default sweep, which link carries what, and large worlds."""
    tables = study / "links"
    six = [word for name in SIX for word in ("--topology", name)]
    yield Case("sweep, cold, outputs: []", ["run", "--set", "outputs=[]"])
    yield Case("216 workloads on 16 networks", ["network"])
    yield Case(
        "link tables of 122 MoE workloads",
        ["network", "--workload", "*-moe", *six, "--links", "--out", str(tables)],
        "tables",
        lambda: len(list(tables.glob("links/*/*.parquet"))),
    )
    one = study / "one"
    yield Case(
        "link tables of one of 4,096 GPUs",
        ["network", "--workload", LARGEST, "--links", "--out", str(one)],
        "tables",
        lambda: len(list(one.glob("links/*/*.parquet"))),
    )
    form = ["--format", "simai-topology", "--network", "fat-tree"]
    yield Case(
        "export of a graph of 4,096 GPUs", ["export", *form, "--workload", LARGEST, "--out", "config/g"]
    )
    for name, topology, shape in (
        ("graph", "graph", f"{{file: config/g/{GRAPH}}}"),
        ("wide", "fat_tree", "{radix: 64}"),
    ):
        (study / f"{name}.yaml").write_text(NETWORK.format(topology=topology, shape=shape), encoding="utf-8")
    on_graph = ["network", "--workload", LARGEST, "--topology", "graph.yaml"]
    yield Case("slowdowns on an imported graph", on_graph)
    yield Case("link tables of an imported graph", [*on_graph, "--links", "--out", "imported"])
    (study / "config/sweeps/bench.yaml").write_text(ONE.format(ranks=65536, ep=16), encoding="utf-8")
    wide = ["--set", "sweep=config/sweeps/bench.yaml", "--results", "of-65536"]
    for stage in ("enumerate", "trace", "cost"):
        yield Case(f"{stage} 65,536 GPUs", [stage, *wide])
    on_it = ["network", *wide, "--topology", "wide.yaml"]
    yield Case("65,536 GPUs on a fat tree", on_it)
    yield Case("link tables of 65,536 GPUs", [*on_it, "--links", "--out", "wide"])


GROUPS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "stages": stages,
    "sweeps": sweeps,
    "traces": traces,
    "graphs": graphs,
    "predictions": predictions,
    "screens": screens,
    "unrolled": unrolled,
    "networks": networks,
    "many": many,
}
