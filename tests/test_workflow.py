"""The workflow as a Snakemake user drives it: plain snakemake, its options, a workflow that imports it."""

import re
from pathlib import Path

import polars as pl
import pytest

from project import Project, jobs
from rerun_table import copied, finished_project
from snippets import blocks, pasted

pytestmark = pytest.mark.slow

OTHER = "a100-80gb-pcie"
PAGE = "docs/workflow.md"
ANSWER = """\
    output: "answer.txt"
    shell: "echo {input} > {output}"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run."""
    return finished_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, with its times."""
    return copied(finished, tmp_path / "project")


def ran(project: Project, *options: str, target: str = "all") -> list[str]:
    """Run snakemake, which must succeed; return the rules that ran, or would."""
    done = project.run(*options, "--quiet", "host", "progress", "--", target)
    assert done.returncode == 0, done.stderr
    # Of a dry run, standard output has them.
    return sorted(name for name in jobs(done.stdout + done.stderr) if name != "all")


def typed(project: Project, line: str) -> list[str]:
    """Run a line of the page; return the rules that ran."""
    # The profile leaves out the lines that say which rule runs.
    project.edit("profiles/default/config.yaml", "quiet: [host, rules]", "quiet: [host, progress]")
    return sorted(name for name in jobs(pasted(project, PAGE, line).stderr) if name != "all")


def finds_all_made(project: Project, line: str) -> bool:
    """Whether a line of the page has nothing to do."""
    done = pasted(project, PAGE, line)
    return "Nothing to be done" in done.stdout + done.stderr


def would_run(project: Project, *options: str, target: str = "all") -> list[str]:
    """Return the rules that a run would run."""
    return ran(project, "--dry-run", *options, target=target)


def cluster_of(results: Path) -> str:
    """The cluster that results are costed on."""
    return pl.read_parquet_metadata(results / "costs.parquet")["moesweep.cluster"]


def test_another_cluster_and_folder_leave_the_first_results(finished: Project, project: Project) -> None:
    told = ["--config", f"cluster={OTHER}", "results=out/x"]
    assert set(ran(project, *told, target="out/x/costs.parquet")) == {"enumerate", "trace", "cost"}
    assert cluster_of(project.root / "out/x") == OTHER
    assert project.files() == finished.files()
    assert would_run(project, *told) == ["tables", "traffic", "validate"]
    assert would_run(project) == []


def test_make_says_the_same(finished: Project, project: Project) -> None:
    other = (project.root / "config/sweeps/small.yaml").read_text().replace("tp: 4", "tp: 1")
    (project.root / "config/sweeps/dense-a100-184.yaml").write_text(other)
    make = "make sweep SWEEP=config/sweeps/dense-a100-184.yaml RESULTS=out/dense CLUSTER=a100-80gb-pcie"
    done = pasted(project, PAGE, make)
    # A line a stage, and at the end where to look; Snakemake's own lines are in its log.
    assert re.search(r"^trace +█+  (\d)/\1  \d+:\d\d$", done.stderr, re.MULTILINE)
    assert "rule trace" not in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.strip() and line[0] != " "] == [
        *("made", "fits", "answer", "page", "read"),
    ]
    assert "made    5 workloads" in done.stdout
    assert "out/dense/summary.txt" in done.stdout
    dense = project.root / "out/dense"
    assert cluster_of(dense) == OTHER
    assert "ws32-tp1" in " ".join(pl.read_parquet(dense / "costs.parquet")["workload"])
    assert project.files() == finished.files()
    told = (
        "snakemake --config sweep=config/sweeps/dense-a100-184.yaml results=out/dense cluster=a100-80gb-pcie"
    )
    assert finds_all_made(project, told)
    pasted(project, PAGE, "moesweep cost --set cluster=a100-80gb-pcie --results out/dense")
    assert would_run(project, *told.split()[1:]) == []
    # What stands in the environment is somebody else's.
    assert "Nothing to be done" in project.make("--dry-run", CLUSTER="site", SWEEP="x", RESULTS="/").stdout


def test_a_configuration_file_of_its_own(project: Project) -> None:
    (project.root / "mine.yaml").write_text(f"cluster: {OTHER}\n")
    assert would_run(project, "--configfile", "mine.yaml") == ["cost", "tables"]
    assert typed(project, "snakemake --configfile mine.yaml") == ["cost", "tables"]
    assert cluster_of(project.root / "results") == OTHER


def test_targets_and_forced_rules(project: Project) -> None:
    traces = ["trace"] * 5
    for line in ("snakemake -n", "snakemake traces", "snakemake results/costs.parquet"):
        assert finds_all_made(project, line), line
    assert would_run(project, "--forcerun", "trace", target="traces") == [*traces, "traces"]
    assert typed(project, "snakemake --forcerun cost") == ["cost", "tables"]
    before = {path: path.stat().st_mtime_ns for path in (project.root / "results/traces").rglob("*.parquet")}
    assert ran(project, "--forcerun", "trace", target="results/costs.parquet") == ["cost", *traces]
    # Parts that are what they would be are not made again.
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_resources_of_the_one_trace_rule(project: Project) -> None:
    line = "snakemake --set-resources trace:mem_mb=8000 --set-threads cost=4"
    pasted(project, PAGE, line)
    project.forget()
    said = project.run(*line.split()[1:], "--set-threads", "trace=2", "--dry-run", "--quiet", "host").stdout
    assert len(re.findall(r"threads: 2\n +resources: .*mem_mb=8000", said)) == 5


SPACE = """\
description: Layouts of a small model.
options: {num_experts: 4, moe_router_topk: 2, seq_length: 128, global_batch_size: 32}
grids: [{model: tiny, world_size: 16, tp: [1, 2], pp: [1, 2], ep: [1, 2, 4], micro_batch_size: [1, 2]}]
"""


def test_a_space_is_screened_in_shards(project: Project) -> None:
    (project.root / "space.yaml").write_text(SPACE)
    assert project.call("moesweep", "screen", "space.yaml", "--out", "whole.parquet").returncode == 0
    told = ["--config", "space=space.yaml", "shards=2"]
    assert ran(project, *told, target="screen") == ["screen", "screen_shard", "screen_shard"]
    found = pl.read_parquet(project.root / "results/screen/space.parquet")
    assert found.equals(pl.read_parquet(project.root / "whole.parquet"))
    assert found.height > 20
    # Kept as it is until the space or a constant moves.
    assert would_run(project, *told, target="screen") == []
    project.edit("space.yaml", "ep: [1, 2, 4]", "ep: [1, 2]")
    assert "screen_shard" in would_run(project, *told, target="screen")


@pytest.mark.parametrize(
    "part",
    [
        "traces/groups",
        *(pytest.param(part, marks=pytest.mark.endurance) for part in ("costs/ops", "traffic/node")),
    ],
)
def test_a_lost_part_is_made_again(finished: Project, project: Project, part: str) -> None:
    next((project.root / "results" / part).rglob("*.parquet")).unlink()
    stage = {"traces/groups": "trace", "costs/ops": "cost", "traffic/node": "traffic"}[part]
    rules = ran(project)
    assert rules.count(stage) == 1
    assert "enumerate" not in rules
    assert project.files() == finished.files()


def test_graphs_have_a_node_a_rule(project: Project) -> None:
    drawn = pasted(project, PAGE, "snakemake --rulegraph").stdout
    labels = sorted(re.findall(r'label = "(\w+)"', drawn))
    assert labels == ["all", "cost", "enumerate", "tables", "trace", "traffic", "validate"]
    assert drawn.count("->") < 30
    assert project.run("--dag").stdout.count('label = "trace') == 5


def test_rules_say_what_they_do(project: Project) -> None:
    listed = pasted(project, PAGE, "snakemake --list-rules").stdout.splitlines()
    assert [line.split(" ")[0] for line in listed] == sorted(["all", "png", "traces", *project.stages()])
    assert all(re.fullmatch(r"\w+ \(.+\.\)", line) for line in listed)


def test_what_the_linter_says_is_known(project: Project) -> None:
    """docs/workflow.md gives the reasons."""
    said = project.run("--lint").stderr
    assert set(re.findall(r"^    \* (.*?):*$", said, re.MULTILINE)) == {
        "No log directive defined",
        "Specify a conda environment or container for each rule.",
    }


def test_a_report_and_a_figure_as_png(project: Project) -> None:
    project.edit("config/config.yaml", "outputs: []", "outputs: [figures]")
    # A figure as PNG is made for whoever asks for the file.
    wanted = "results/figures/memory.png"
    assert ran(project, target=wanted) == ["figures", "network", "png"]
    assert (project.root / wanted).read_bytes().startswith(b"\x89PNG")
    assert would_run(project, target=wanted) == []
    pasted(project, PAGE, "snakemake --report report.html")
    assert "ep scaling" in (project.root / "report.html").read_text()


def module(project: Project) -> str:
    """Return the page's importing workflow, whose rule says how its answer is made."""
    (shown,) = [block.text for block in blocks() if block.page == PAGE and block.text.startswith("module")]
    placed = shown.replace("path/to/moesweep/Snakefile", str(project.root / "Snakefile"))
    assert placed != shown
    assert placed.rstrip().endswith("...")
    return placed.rstrip().removesuffix("    ...") + ANSWER


@pytest.fixture
def importing(project: Project, tmp_path: Path) -> Project:
    """A workflow in a folder of its own that imports the project's."""
    root = tmp_path / "importing"
    root.mkdir()
    for name in ("config/sweeps/small.yaml", "config/models/tiny.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((project.root / name).read_bytes())
    (root / "sweeps").mkdir()
    (root / "config/sweeps/small.yaml").rename(root / "sweeps/mine.yaml")
    # An importing workflow's own configuration is none of ours.
    (root / "config/config.yaml").write_text("samples: [a, b]\n")
    (root / "Snakefile").write_text(module(project))
    return Project(root, library=project.root / "workflow")


def test_another_workflow_imports_it(finished: Project, importing: Project) -> None:
    assert ran(importing, target="answer.txt") == ["answer", "cost", "enumerate", "trace"]
    costs = pl.read_parquet(importing.root / "moe/costs.parquet")["workload"].to_list()
    assert costs == pl.read_parquet(finished.root / "results/costs.parquet")["workload"].to_list()
    assert cluster_of(importing.root / "moe") == OTHER
    assert would_run(importing, target="answer.txt") == []
    assert not (importing.root / "results").exists()


def test_a_prefix_is_refused(project: Project, importing: Project) -> None:
    text = module(project).replace("    config:", '    prefix: "x"\n    config:')
    (importing.root / "Snakefile").write_text(text)
    done = importing.run("--dry-run")
    assert done.returncode == 2
    assert 'config: {"results": "FOLDER", ...}' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("cluster=none", "--config cluster: unknown_cluster: "),
        ("result=x", '--config result: unknown_key: unknown key "result"; did you mean results?'),
        ("results=.", "--config results: "),
    ],
)
def test_what_snakemake_is_told_is_judged_where_it_is_said(project: Project, told: str, said: str) -> None:
    done = project.run("--dry-run", "--config", told)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_profile_is_named(project: Project) -> None:
    done = project.call("moesweep", "run", "--profile", "slrum")
    assert done.returncode == 2
    assert done.stderr == "--profile: known: there is no profile slrum; did you mean slurm?\n"
