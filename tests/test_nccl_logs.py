"""Clusters from logs of nccl-tests: what a log says, what it does not, and what is wrong with some."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moesweep.cli import main
from moesweep.cost.predicted_collectives import predicted
from moesweep.edge.problems import BadInput, Problem
from moesweep.study.catalog import load_cluster
from moesweep.study.cluster_import import import_cluster
from moesweep.study.nccl_fit import line
from moesweep.study.nccl_log import read_log

DATA = Path(__file__).parent / "data"
RINGS, EXCHANGES = DATA / "nccl_tests_all_reduce.log", DATA / "nccl_tests_alltoall.log"
LIKE = {RINGS: "a100-80gb-4xhdr200", EXCHANGES: "dgx-a100-80gb-8xhdr200"}


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / "config", tmp_path / "config")
    return tmp_path


def log(program: str, ranks: int, nodes: int, points: list[tuple[int, float]]) -> str:
    """What nccl-tests prints of (bytes, seconds), in the form of the two files of the data."""
    head, rest = RINGS.read_text(encoding="utf-8").split("#  Rank  0", 1)
    columns, footer = rest[rest.index("#\n#   ") :].split("(GB/s)       \n")
    footer = footer[footer.index("# Out of") :]
    hosts = [
        f"#  Rank {rank:2d} Group  0 Pid 1 on host{rank * nodes // ranks} device 0 [0x07] NVIDIA H100\n"
        for rank in range(ranks)
    ]
    factor = (2 if program == "all_reduce" else 1) * (ranks - 1) / ranks
    word = "sum" if program in ("all_reduce", "reduce_scatter") else "none"
    rows = []
    for size, seconds in points:
        rate = size / seconds / 1e9
        times = f"{seconds * 1e6:.1f} {rate:.2f} {rate * factor:.2f} 0"
        rows.append(f"  {size}  {size // 4}  float  {word}  -1  {times}  {times}\n")
    head = head.replace("all_reduce_perf", f"{program}_perf")
    return head + "".join(hosts) + columns + "(GB/s)       \n" + "".join(rows) + footer


def test_the_data_s_logs_hold_what_was_measured() -> None:
    with (DATA / "collectives_measured.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["seconds"]]
    for path in (RINGS, EXCHANGES):
        (run,) = read_log(path)
        assert (run.ranks, run.nodes) == (16, 2)
        same = [row for row in rows if row["collective"] == run.collective]
        assert run.points == [(int(row["buffer_bytes"]), float(row["seconds"])) for row in same]


@pytest.mark.parametrize("path", [RINGS, EXCHANGES])
def test_a_log_becomes_a_cluster_that_reproduces_it(project: Path, path: Path) -> None:
    out = project / "config/clusters/mine.yaml"
    assert import_cluster([path], out, LIKE[path], project)
    cluster = load_cluster(project, "mine")
    (run,) = read_log(path)
    for size, seconds in run.points:
        found = predicted(cluster.values, [run.collective], run.nodes, run.ranks, [size])
        assert found["seconds"].item() == pytest.approx(seconds, rel=0.05)
    measured = [name for name, each in cluster.constants.items() if "nccl-tests, " in each.source]
    assert measured
    assert {cluster.constants[name].tag for name in measured} == {"measured"}
    other = load_cluster(project, LIKE[path])
    assert {name for name in other.values if other.value(name) != cluster.value(name)} == set(measured)


def test_every_constant_that_a_log_can_say(project: Path) -> None:
    """Logs of a made-up machine, by the model's own formulas, give back its constants."""
    true = load_cluster(project, "dgx-h100-80gb-8xndr400").values | {
        "node_latency_2_seconds": 30e-6,
        "node_latency_8_seconds": 60e-6,
        "node_bus_2_bytes_per_second": 300e9,
        "node_bus_8_bytes_per_second": 400e9,
        "node_all_to_all_8_bytes_per_second": 333e9,
        "all_to_all_latency_seconds": 15e-6,
        "ring_efficiency": 0.8,
        "network_hop_seconds": 28e-6,
        "node_hop_seconds": 6.8e-6,
        "ring_base_seconds": 16.8e-6,
        "all_to_all_efficiency": 0.7,
        "all_to_all_doubling_efficiency": 0.9,
        "all_to_all_peer_seconds": 5e-6,
        "ll_ring_base_seconds": 12e-6,
        "nvls_bytes_per_second": 0.0,
    }
    small, large = [1 << k for k in range(10, 17)], [1 << k for k in range(26, 34)]
    names = {"all_to_all": "alltoall"}
    groups = [("reduce_scatter", 2, 1, large), ("all_gather", 8, 1, [*small, *large])]
    groups += [("all_to_all", 8, 1, large), ("all_gather", 16, 2, large)]
    groups += [("all_to_all", 16, 2, large), ("all_to_all", 64, 8, large)]
    text = ""
    for collective, ranks, nodes, sizes in groups:
        times = predicted(true, [collective], nodes, ranks, sizes)["seconds"].to_list()
        text += log(names.get(collective, collective), ranks, nodes, list(zip(sizes, times, strict=True)))
    (project / "all.log").write_text(text, encoding="utf-8")
    assert len(read_log(project / "all.log")) == len(groups)
    import_cluster(
        [project / "all.log"], project / "config/clusters/mine.yaml", "dgx-h100-80gb-8xndr400", project
    )
    cluster = load_cluster(project, "mine")
    differ = {name for name, value in true.items() if cluster.value(name) != value}
    for name in differ - {"nvls_bytes_per_second"}:
        assert cluster.value(name) == pytest.approx(true[name], rel=0.05), name
    assert all(cluster.constants[name].tag == "measured" for name in differ - {"nvls_bytes_per_second"})


def test_the_line_misses_all_points_alike() -> None:
    # 1 + w misses 2, 3.3, 4 by at most 1 / 21: the best line lies 10% / 2.1 below the middle point
    found = line([(1, 2.0), (2, 3.3), (3, 4.0)], 0.0)
    misses = [(found.latency + w / found.bandwidth) / t - 1 for w, t in ((1, 2.0), (2, 3.3), (3, 4.0))]
    assert [abs(miss) for miss in misses] == pytest.approx([found.error] * 3)
    assert misses[0] > 0 > misses[1]
    # One point says no latency.
    alone = line([(1000, 3.0)], 1.0)
    assert (alone.bandwidth, alone.says_latency) == (500, False)


def problems(use: Callable[[], object]) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        use()
    return caught.value.problems


def without(text: str, start: str) -> str:
    return "\n".join(line for line in text.split("\n") if not line.startswith(start))


SOUND = RINGS.read_text(encoding="utf-8")
ROW = next(line for line in SOUND.split("\n") if "67108864" in line)


@pytest.mark.parametrize(
    ("text", "rule", "words"),
    [
        ("step 1 loss 2.3\n", "no_nccl_tests", "keep all that the program prints"),
        ("", "no_nccl_tests", ""),
        (without(SOUND, "# Avg"), "cut", "no end"),
        (SOUND.replace(ROW, ROW[:60]), "cut", "columns where nccl-tests has 13"),
        (without(SOUND, "#  Rank"), "cut", "0 ranks are listed"),
        (without(SOUND, "#        (B)"), "cut", "heading"),
        (SOUND.replace("(GB/s)", "(GiB/s)"), "units", "other units"),
        (SOUND.replace("49.09", "45.72"), "units", "are 49.09 GB/s, and algbw says 45.72"),
        (SOUND.replace("      0   1367.0", "      7   1367.0"), "wrong_values", "7 values came out wrong"),
        (SOUND.replace(" 1367.0", "    N/A"), "no_number", "no time and bandwidths"),
        (SOUND.replace("on node002 device  7", "on node001 device  7"), "uneven", "ranks each"),
        (without(log("alltoall", 8, 1, [(1 << 24, 1e-3)]), "# Collective"), "not_said", "said nowhere"),
    ],
)
def test_a_log_with_one_mistake(tmp_path: Path, text: str, rule: str, words: str) -> None:
    path = tmp_path / "mine.log"
    path.write_text(text, encoding="utf-8")
    found = problems(lambda: read_log(path))
    assert {problem.rule for problem in found} == {rule}
    assert words in found[0].line()
    assert found[0].file == str(path)


def test_old_versions_and_launchers_tags(tmp_path: Path) -> None:
    """Without the column root, with errors for wrong values, and each line tagged by mpirun or srun."""
    rows = [line for line in SOUND.split("\n") if line.strip() and line.strip()[0].isdigit()]
    old = SOUND
    for row in rows:
        words = row.split()
        words[8] = words[12] = "5e-07"
        old = old.replace(row, "  " + "  ".join([*words[:4], *words[5:]]))
    (wanted,) = read_log(RINGS)
    for tag in ("", "[1,0]<stdout>:", "0: "):
        path = tmp_path / "all_reduce_perf.log"
        path.write_text("\n".join(tag + line for line in old.split("\n")), encoding="utf-8")
        (found,) = read_log(path)
        assert (found.points, found.hosts) == (wanted.points, wanted.hosts)
    path.write_text(old.replace("5e-07", "5e-01", 1), encoding="utf-8")
    assert [problem.rule for problem in problems(lambda: read_log(path))] == ["wrong_values"]


def test_a_collective_is_told_by_its_ratio_or_its_file(tmp_path: Path) -> None:
    for name, text, collective in (
        ("a.log", log("all_reduce", 8, 1, [(1 << 24, 1e-3)]), "all_reduce"),
        ("b.log", log("reduce_scatter", 8, 1, [(1 << 24, 1e-3)]), "reduce_scatter"),
        ("alltoall_perf.log", log("alltoall", 8, 1, [(1 << 24, 1e-3)]), "all_to_all"),
    ):
        (tmp_path / name).write_text(without(text, "# Collective"), encoding="utf-8")
        assert [run.collective for run in read_log(tmp_path / name)] == [collective]


def test_faults_of_logs_and_options_come_at_once(project: Path) -> None:
    (project / "cut.log").write_text(without(SOUND, "# Avg"), encoding="utf-8")
    out = project / "config/clusters/mine.yaml"
    found = problems(lambda: import_cluster([project / "cut.log", project / "no.log"], out, "dgx", project))
    assert [problem.rule for problem in found] == ["unknown_cluster", "cut", "missing_file"]
    assert problems(lambda: import_cluster([RINGS], out, "", project))[0].path == "--like"
    assert not out.exists()


def test_the_command(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    command = ["import", str(RINGS), "--out", "config/clusters/mine.yaml"]
    assert main([*command, "--like", LIKE[RINGS], "--sweep-out", "sweep.yaml"]) == 2
    assert main(command) == 2
    assert main(["import", str(RINGS), "--like", LIKE[RINGS]]) == 2
    rules = [line.split(": ")[:2] for line in capsys.readouterr().err.splitlines()]
    assert rules == [["--sweep-out", "no_effect"], ["--like", "missing"], ["--out", "missing"]]
    assert not (project / "config/clusters/mine.yaml").exists()
    assert main([*command, "--like", LIKE[RINGS]]) == 0
    assert "ring_efficiency: 0.93" in capsys.readouterr().out
    assert load_cluster(project, "mine").constants["ring_efficiency"].tag == "measured"


def test_what_no_such_machine_reaches(project: Path) -> None:
    out = project / "config/clusters/mine.yaml"
    # 47.7 GB/s a rank through cards of 50 Gbit/s
    (problem,) = problems(lambda: import_cluster([RINGS], out, "aws-p4d-a100-40gb-4xefa100", project))
    assert (problem.rule, problem.path, problem.file) == ("bounds", "ring_efficiency", str(RINGS))
    (problem,) = problems(lambda: import_cluster([RINGS], out, "hgx-a100-80gb-4x-2xhdr200", project))
    assert problem.rule == "gpus_per_node"
    assert not out.exists()
