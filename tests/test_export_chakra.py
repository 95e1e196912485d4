"""Chakra sets: valid, complete, canonical protobuf, runnable; and mutated ones refused with the reason."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from chakra_changes import MUTATIONS, Change, joined, split
from export_workloads import MICROBATCHES, SMALL, traced_workload
from moesweep.cli import main
from moesweep.export import chakra
from moesweep.export.chakra_check import check_folder
from moesweep.export.chakra_read import BrokenTrace, Node, metadata, nodes
from moesweep.export.chakra_schema import message_classes
from moesweep.export.unroll import executed
from moesweep.shapes.parallelism import ranks

SETS = ["moe16", "moe64", "moe256", "dense16", "dense64", "dense256"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("chakra")

    def written(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            chakra.write_set(traced_workload(name), folder)
        return folder

    return written


@pytest.mark.parametrize("name", SMALL)
def test_sets_pass_the_check(name: str, folders: Callable[[str], Path]) -> None:
    found = check_folder(folders(name))
    assert [problem.line() for problem in found.problems] == []
    each = traced_workload(name)
    per_stage = each.workload["world_size"] // each.workload["pp"]
    assert found.ranks == each.workload["world_size"] == SMALL[name]["world_size"]
    assert found.nodes == each.program["num_microbatches"].sum() * per_stage
    assert found.unjudged_messages == 0


@pytest.mark.parametrize("name", ["moe16", "interleaved", "recompute", "etp1"])
def test_a_rank_runs_its_stages_ops_in_schedule_order_over_its_own_groups(
    name: str, folders: Callable[[str], Path]
) -> None:
    each = traced_workload(name)
    groups = {
        key: set(value) for key, value in json.loads((folders(name) / "comm_groups.json").read_text()).items()
    }
    members = ranks(each.workload)
    shard = pl.when(pl.col("collective") == "all_gather").then(pl.col("comm_bytes") // pl.col("group_size"))
    sizes = each.program.select("stage", "op_index", size=shard.otherwise("comm_bytes"))
    ops = executed(each).join(sizes, on=["stage", "op_index"], how="left", maintain_order="left")
    for rank in (0, each.workload["world_size"] - 1):
        me = members.row(rank, named=True)
        mine = ops.filter(pl.col("stage") == me["stage"])
        found = list(nodes(folders(name) / f"trace.{rank}.et"))
        assert [node.name.split(".")[0] for node in found] == mine["op"].to_list()
        for node, kind, size, group_kind in zip(
            found, *(mine[column] for column in ("kind", "size", "group_kind")), strict=True
        ):
            assert node.attributes["is_cpu_op"] is False
            if kind not in ("collective", "p2p"):
                assert (node.type, node.attributes["num_ops"] > 0, node.attributes["tensor_size"] > 0) == (
                    4,
                    1,
                    1,
                )
                continue
            assert node.attributes["comm_size"] == size
            if kind == "collective":
                together = members.filter(pl.col(f"{group_kind}_group") == me[f"{group_kind}_group"])
                assert groups[node.attributes["pg_name"]] == set(together["rank"])


def test_the_encoding_is_what_protobuf_itself_would_write(folders: Callable[[str], Path]) -> None:
    classes = message_classes()
    for name, rank in (("moe256", 255), ("interleaved", 5)):
        messages = split((folders(name) / f"trace.{rank}.et").read_bytes())
        assert classes["GlobalMetadata"].FromString(messages[0]).version
        assert all(
            classes["Node"].FromString(message).SerializeToString() == message for message in messages[1:]
        )


def test_kernels_carry_the_costs_time_in_whole_microseconds(folders: Callable[[str], Path]) -> None:
    each = traced_workload("moe16")
    found = [
        message_classes()["Node"].FromString(m)
        for m in split((folders("moe16") / "trace.0.et").read_bytes())[1:]
    ]
    mine = each.program.filter(pl.col("stage") == 0)
    seconds = dict(mine.filter(pl.col("phase") == "forward").select("op", "seconds").iter_rows())
    for node in found[:30]:
        op = node.name.split(".")[0]
        is_kernel = node.type == 4
        assert node.duration_micros == (max(1, round(round(seconds[op] * 1e9) / 1e3)) if is_kernel else 0)


def test_communication_beside_a_gemm_does_not_wait_for_it_nor_the_gemm_for_it(
    folders: Callable[[str], Path],
) -> None:
    found = {node.id: node for node in nodes(folders("moe16") / "trace.0.et")}
    gathers = [node for node in found.values() if node.name.startswith("attention_regather")]
    assert gathers
    for gather in gathers:
        gemm, after = found[gather.id + 1], found[gather.id + 2]
        assert gemm.name.startswith("qkv_dgrad")
        assert gemm.waits == gather.waits
        assert sorted(after.waits) == [gather.id, gemm.id]


def test_nothing_but_the_next_send_waits_for_a_send(folders: Callable[[str], Path]) -> None:
    found = {node.id: node for node in nodes(folders("moe64") / "trace.20.et")}
    waiting = [node for node in found.values() for other in node.waits if found[other].type == 5]
    sends = [node for node in found.values() if node.type == 5]
    assert waiting == sends[1:]


@pytest.mark.parametrize(
    "name", ["moe16", "interleaved", "two_stages_interleaved", "etp1", "leading_dense", "dense16"]
)
def test_a_simulator_reaches_the_end_of_every_rank(name: str, folders: Callable[[str], Path]) -> None:
    groups = json.loads((folders(name) / "comm_groups.json").read_text())
    programs = [list(nodes(folders(name) / f"trace.{rank}.et")) for rank in range(SMALL[name]["world_size"])]
    assert run(programs, groups) == [len(program) for program in programs]


def run(programs: list[list[Node]], groups: dict[str, list[int]]) -> list[int]:
    """Run a set as a simulator does: nodes whose waits are over, collectives when all members have come."""
    open_waits = [{node.id: len(node.waits) for node in program} for program in programs]
    followers: list[dict[int, list[Node]]] = [defaultdict(list) for _ in programs]
    for rank, program in enumerate(programs):
        for node in program:
            for other in node.waits:
                followers[rank][other].append(node)
    ready = deque((rank, node) for rank, program in enumerate(programs) for node in program if not node.waits)
    finished, issued = [0] * len(programs), Counter[tuple[str, int]]()
    meeting: dict[Any, list[tuple[int, Node]]] = defaultdict(list)
    while ready:
        rank, node = ready.popleft()
        have = node.attributes
        if node.type == 7:
            issued[have["pg_name"], rank] += 1
            key: Any = (have["pg_name"], issued[have["pg_name"], rank])
            needed = len(groups[have["pg_name"]])
        elif node.type in (5, 6):
            key, needed = (have["comm_src"], have["comm_dst"], have["comm_tag"]), 2
        else:
            key, needed = (rank, node.id), 1
        meeting[key].append((rank, node))
        if len(meeting[key]) < needed:
            continue
        done = meeting.pop(key)
        assert (
            len({(each.attributes.get("comm_type"), each.attributes.get("comm_size")) for _, each in done})
            == 1
        )
        for place, each in done:
            finished[place] += 1
            for follower in followers[place][each.id]:
                open_waits[place][follower.id] -= 1
                if open_waits[place][follower.id] == 0:
                    ready.append((place, follower))
    return finished


@pytest.mark.parametrize(("change", "reason"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_mutated_sets_are_refused_with_the_reason(
    change: Change,
    reason: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in folders("moe16").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "trace.5.et"
    metadata, *messages = split(victim.read_bytes())
    found = [message_classes()["Node"].FromString(message) for message in messages]
    change(found)
    victim.write_bytes(joined([metadata, *(node.SerializeToString() for node in found)]))
    assert main(["export", "--check", "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert " fault" in captured.out


@pytest.mark.parametrize("size", [0, 3, 5000])
def test_files_cut_short_are_refused(
    size: int, folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folders("moe16").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "trace.5.et"
    victim.write_bytes(victim.read_bytes()[:size])
    assert main(["export", "--check", "--out", str(tmp_path)]) == 2
    assert "trace.5.et: readable: " in capsys.readouterr().err


def test_a_folder_without_traces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--check", "--out", str(tmp_path)]) == 2
    assert "holds no .et, .goal, .cm, .topo or .yml files" in capsys.readouterr().err


def test_chosen_ranks_get_the_files_of_the_whole_set(folders: Callable[[str], Path], tmp_path: Path) -> None:
    chakra.write_set(traced_workload("moe256"), tmp_path, [0, 127, 128, 255])
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(["comm_groups.json", *(f"trace.{rank}.et" for rank in (0, 127, 128, 255))])
    assert all((tmp_path / name).read_bytes() == (folders("moe256") / name).read_bytes() for name in written)
    found = check_folder(tmp_path)
    assert found.problems == []
    assert found.unjudged_messages > 0


@pytest.mark.parametrize(("name", "microbatches"), [("moe16", 1), ("moe64", 3), ("interleaved", 4)])
def test_a_shorter_iteration_is_a_valid_set(name: str, microbatches: int, tmp_path: Path) -> None:
    each = traced_workload(name)
    chakra.write_set(each, tmp_path, None, microbatches)
    found = check_folder(tmp_path)
    assert found.problems == []
    once = pl.col("num_microbatches") == 1
    runs = each.program.select(
        pl.when(once).then(1).otherwise(pl.col("num_microbatches") * microbatches // MICROBATCHES)
    )
    assert found.nodes == runs.sum().item() * each.workload["world_size"] // each.workload["pp"]


def test_the_command_writes_a_set_whole_or_not_at_all(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    id_ = "gpt_7B-ws512-tp4-pp2-ep16-gbs1024-mbs1-seq4096-moe"
    command = ["export", "--format", "chakra", "--workload", id_, "--ranks", "0-3,256", "--microbatches", "2"]
    command += ["--results", str(tmp_path / "none"), "--sweep", "config/sweeps/moe-a100-123.yaml", "--out"]
    for folder in ("a", "b"):
        assert main([*command, str(tmp_path / folder)]) == 0
    files = sorted((tmp_path / "a" / id_).iterdir())
    assert len(files) == 6
    assert all(file.read_bytes() == (tmp_path / "b" / id_ / file.name).read_bytes() for file in files)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moesweep.export.chakra_nodes.Template.give", full)
    assert main([*command, str(tmp_path / "c")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "c").iterdir()) == []
    assert main([*command, str(tmp_path / "a"), "--overwrite"]) == 1
    assert sorted((tmp_path / "a" / id_).iterdir()) == files


HEADER = b"\x07\x0a\x050.0.4"
"""A GlobalMetadata of version 0.0.4 behind its length."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x80", "byte 1: the file ends in a message's length"),
        # a length of more than five bytes is none
        (b"\x80\x80\x80\x80\x80\x01", "byte 6: the file ends in a message's length"),
        (b"\x05ab", "byte 3: the file ends inside a message of 5 bytes"),
        (b"\xff\xff\xff\xff\x0f", "inside a message of 4294967295 bytes"),
        (b"\x00", "the first message is no GlobalMetadata with a version"),
        # a text of five bytes in a message of two
        (b"\x02\x0a\x05", "byte 3: no Chakra message ends here"),
        (HEADER + b"\x02\x12\x05", "byte 11: no Chakra message ends here"),
        (HEADER + b"\x05ab", "byte 11: the file ends inside a message of 5 bytes"),
    ],
)
def test_a_broken_trace_is_said_to_be_one(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "chakra.0.et"
    file.write_bytes(content)
    with pytest.raises(BrokenTrace, match=reason):
        list(nodes(file))


def test_a_trace_of_no_nodes_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "chakra.0.et"
    file.write_bytes(HEADER)
    assert list(nodes(file)) == []
    assert metadata(file) == {}
