"""What people wrote and were misled about: public cases whose right answer is a message.

Cases whose answer is an option of runs are in test_public_options.py.
"""

from pathlib import Path

import polars as pl
import pytest

from moesweep.edge.problems import BadInput
from moesweep.study.runs import read_runs
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import findings

OPTIONS = "micro_batch_size: 1, seq_length: 4096, flash_attention: true, etp: 1"


def sweep(folder: Path, *rows: str) -> pl.DataFrame:
    listed = "".join(f"  - {{{row}}}\n" for row in rows)
    (folder / "sweep.yaml").write_text(f"options: {{{OPTIONS}}}\nrows:\n{listed}", encoding="utf-8")
    return load_sweep(folder, "sweep.yaml").workloads


def problems(folder: Path, *rows: str) -> dict[str, tuple[str, str]]:
    with pytest.raises(BadInput) as caught:
        sweep(folder, *rows)
    return {problem.path: (problem.message, problem.suggestion) for problem in caught.value.problems}


@pytest.mark.parametrize(
    "row",
    [
        "model: kimi_k2, world_size: 256, tp: 1, pp: 4, ep: 64, virtual_pipeline: 4, global_batch_size: 128",
        "model: qwen3_235B_A22B, world_size: 256, tp: 2, pp: 8, ep: 32, virtual_pipeline: 4, "
        "global_batch_size: 256",
    ],
)
def test_chunks_offered_are_accepted(tmp_path: Path, row: str) -> None:
    """Kimi K2 was offered 3 and 5 chunks of its 61 layers, Qwen3-235B 11 of its 94."""
    found = findings(sweep(tmp_path, row)).filter(rule="interleaving_by_layers")
    assert found["suggestion"].to_list() == ["nearest: 1"]
    again = sweep(tmp_path, row.replace("virtual_pipeline: 4", "virtual_pipeline: 1"))
    assert "error" not in findings(again)["severity"].to_list()


def test_the_width_of_a_head_by_any_name(root: Path, tmp_path: Path) -> None:
    row = "model: qwen3_30B_A3B, world_size: 8, tp: 1, pp: 1, ep: 8, global_batch_size: 8"
    assert sweep(tmp_path, row)["head_dim"].to_list() == [128]
    said = problems(tmp_path, f"{row}, kv_channels: 128")
    assert said["rows[0].kv_channels"][1] == "did you mean head_dim?"
    # v_head_dim, to which head_dim once led, is a key of another kind of attention.
    found = findings(sweep(tmp_path, f"{row}, v_head_dim: 128")).filter(severity="error")
    assert found["rule"].to_list() == ["keys_of_mla"]


HEADER = "run,cluster,model,world_size,tp,pp,ep,etp,global_batch_size,seq_length,num_query_groups"


def test_columns_of_a_list_are_read_or_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    row = "m756,c,mixtral_8x7B,16,2,1,8,2,128,2048,8"
    path.write_text(f"{HEADER},routing,head_dim\n{row},balanced,96\n", encoding="utf-8")
    runs = read_runs(path, ["c"], root)
    assert runs.workloads.select("routing", "head_dim").rows() == [("balanced", 96)]
    assert runs.workloads.width > 0
    path.write_text(f"{HEADER},moe_router_fusion\n{row},1\n", encoding="utf-8")
    assert read_runs(path, ["c"], root).workloads["moe_router_fusion"].to_list() == [True]
    path.write_text(f"{HEADER},fp4\n{row},e2m1\n", encoding="utf-8")
    with pytest.raises(BadInput, match="fp4 is not modelled"):
        read_runs(path, ["c"], root)
