"""Lists of runs: columns read, passed on and refused; cells of every form; models by name; the template."""

import csv
from pathlib import Path

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.edge.problems import BadInput, Problem
from moesweep.predict import template
from moesweep.study.keys import SCHEMA
from moesweep.study.names import ELSEWHERE, UNMODELLED
from moesweep.study.run_columns import READ
from moesweep.study.runs import Runs, read_runs
from moesweep.study.sweep import enumerate_sweep
from project import Project, make_project

RUN = {"run": "a", "cluster": "c", "model": "gpt_7B", "world_size": "64", "global_batch_size": "64"}
RUN |= {"seq_length": "128"}


def runs_of(root: Path, folder: Path, *rows: dict[str, str], cluster: str = "") -> Runs:
    path = folder / "runs.csv"
    header = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return read_runs(path, ["c", "d"], root, cluster)


def refusals(root: Path, folder: Path, *rows: dict[str, str]) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        runs_of(root, folder, *rows)
    return caught.value.problems


def faults(root: Path, folder: Path, **cells: str) -> list[tuple[str, str]]:
    """Place and message of what is wrong with a run."""
    found = runs_of(root, folder, RUN | cells)
    assert found.workloads.is_empty() == bool(found.problems)
    return [(problem.path, problem.message) for problem in found.problems.get(0, [])]


def test_a_model_by_name_is_what_a_sweep_resolves(root: Path, tmp_path: Path) -> None:
    found = runs_of(root, tmp_path, RUN | {"num_experts": "8", "moe_router_topk": "2", "ep": "largest"})
    options = "num_experts: 8, moe_router_topk: 2, ep: largest, tp: 1, pp: 1, seq_length: 128"
    row = f"{{model: gpt_7B, world_size: 64, global_batch_size: 64, {options}}}"
    (tmp_path / "sweep.yaml").write_text(f"rows: [{row}]\n", encoding="utf-8")
    columns = [name for name in SCHEMA if name not in ("workload", "routing")]
    assert found.workloads.select(columns).equals(
        enumerate_sweep(root, tmp_path / "sweep.yaml").select(columns)
    )
    assert found.workloads.select("workload", "routing", "cluster").rows() == [("0", "uncontrolled", "c")]


def test_a_cell_wins_over_the_model_and_an_empty_one_is_the_default(root: Path, tmp_path: Path) -> None:
    rows = [RUN | {"num_layers": "12", "dtype": "fp16"}, RUN | {"num_layers": "", "dtype": ""}]
    frame = runs_of(root, tmp_path, *rows).workloads
    assert frame.select("num_layers", "dtype", "tp").rows() == [(12, "fp16", 1), (36, "bf16", 1)]


def test_a_run_without_a_name_or_a_cluster(root: Path, tmp_path: Path) -> None:
    row = {name: value for name, value in RUN.items() if name not in ("run", "cluster")}
    frame = runs_of(root, tmp_path, row, row, cluster="d").workloads
    assert frame.select("workload", "cluster").rows() == [("0", "d"), ("1", "d")]
    (problem,) = refusals(root, tmp_path, row)
    assert (problem.path, problem.rule) == ("cluster", "missing_column")


def test_free_columns_pass_through(root: Path, tmp_path: Path) -> None:
    found = runs_of(root, tmp_path, RUN | {"notes": "x", "source": "mine", "iteration_seconds": "2"})
    assert found.unread == ("notes", "source")
    assert found.given["notes"].to_list() == ["x"]


@pytest.mark.parametrize(
    ("column", "rule", "advice"),
    [
        ("hiden_size", "unknown_column", "did you mean hidden_size?"),
        ("num_experts_per_tok", "unknown_column", "did you mean moe_router_topk?"),
        ("tensor-model-parallel-size", "unknown_column", "did you mean tp?"),
        ("Recompute", "unknown_column", "did you mean recompute?"),
        ("fp4", "not_modelled", "remove the column"),
        ("fp8_format", "unknown_column", "did you mean fp8?"),
        ("deterministic", "unknown_column", "did you mean deterministic_mode?"),
        ("context_parallel_size", "unknown_column", "did you mean cp?"),
        ("dp", "no_effect", "remove the column"),
        ("listed", "no_effect", "remove the column"),
    ],
)
def test_columns_that_cannot_be_meant_to_pass(
    root: Path, tmp_path: Path, column: str, rule: str, advice: str
) -> None:
    if column in UNMODELLED or ELSEWHERE.get(column) in UNMODELLED:
        rule, advice = "not_modelled", "remove the column"
    (problem,) = refusals(root, tmp_path, RUN | {column: "1"})
    assert (problem.path, problem.rule) == (f"line 1, column {column}", rule)
    assert problem.suggestion == advice


def test_missing_columns_are_all_named(root: Path, tmp_path: Path) -> None:
    found = refusals(root, tmp_path, {"run": "a", "cluster": "c", "hiden_size": "4096"})
    missing = {problem.path: problem for problem in found if problem.rule == "missing_column"}
    assert {"world_size", "global_batch_size", "seq_length", "num_layers", "hidden_size"} <= set(missing)
    assert missing["hidden_size"].suggestion == "did you mean hiden_size?"
    assert missing["num_layers"].message == "no column num_layers or model"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"tp": "1.5"}, '"1.5" where a whole number of at least 1 and at most 1048576 is needed'),
        ({"tp": "nan"}, '"nan" where a whole number'),
        ({"hidden_size": str(2**30)}, "at most 1048576"),
        ({"num_layers": str(2**40)}, "at most 65536"),
        ({"tp": "9" * 400}, "where a whole number"),
        ({"gated_mlp": "yes"}, '"yes" where 0 or 1 is needed'),
        ({"dtype": "fp8"}, '"fp8" is not modelled, where bf16 or fp16 is needed'),
        ({"dtype": "bf8"}, '"bf8" where bf16 or fp16 is needed'),
        (
            {"routing": "zipf"},
            '"zipf" where uncontrolled, bias, aux_loss, balanced, padded, zipf:1.2 '
            "or lognormal:0.5 is needed",
        ),
        ({"routing": "zipf:-1"}, "below the least"),
        ({"routing": "{table: config/x.parquet}"}, "measured tables are not modelled in a list"),
        ({"routing": "{zipf: 1, lognormal: 1}"}, "here are 2 of them"),
        ({"etp": "pp"}, "does not have the form"),
        ({"ep": "{largest_for_tp: [1, 2]}"}, "one ep is needed"),
        ({"ep": "[1"}, "not valid YAML"),
        ({"global_batch_size": "{per_gpu: 0}"}, "below the least"),
        ({"model": "gpt_8B"}, 'there is no model "gpt_8B"'),
    ],
)
def test_cells_that_mean_nothing(root: Path, tmp_path: Path, cells: dict[str, str], said: str) -> None:
    (place, message), *more = faults(root, tmp_path, **cells)
    assert place == f"line 2, column {next(iter(cells))}"
    assert said in message
    assert cells == {"model": "gpt_8B"} or not more


def test_routings_of_a_list(root: Path, tmp_path: Path) -> None:
    cells = ["", "balanced", "aux_loss", "bias", "zipf:1.2", "{lognormal: 0.5, seed: 3}"]
    moe = RUN | {"num_experts": "8", "moe_router_topk": "2"}
    frame = runs_of(root, tmp_path, *(moe | {"routing": cell} for cell in cells)).workloads
    wanted = ["uncontrolled", "balanced", "aux_loss", "bias"]
    wanted += ["zipf(alpha=1.2,seed=0)", "lognormal(sigma=0.5,seed=3)"]
    assert frame["routing"].to_list() == wanted


def test_padded_experts_of_a_list(root: Path, tmp_path: Path) -> None:
    """A capacity factor of 1 to which experts are padded; a dense run has none to pad."""
    moe = RUN | {"num_experts": "8", "moe_router_topk": "2"}
    said = {"moe_expert_capacity_factor": "1.0", "moe_pad_expert_input_to_capacity": "1"}
    names = ("routing", *said)
    rows = [moe, moe | said, RUN, moe | {"routing": "bias"}]
    frame = runs_of(root, tmp_path, *({"routing": "padded"} | dict.fromkeys(said, "") | row for row in rows))
    assert frame.workloads.select(names).rows() == [
        *[("balanced", 1.0, True)] * 2,
        ("balanced", 0.0, False),
        ("bias", 0.0, False),
    ]
    for key, cell, text in (("moe_expert_capacity_factor", "1.25", "1.25"), (names[2], "0", "False")):
        found = faults(root, tmp_path, **moe, routing="padded", **{key: cell})
        other = "1.0" if "factor" in key else "True"
        assert found == [(f"line 2, column {key}", f"{text} where routing says {other}")]


def test_a_window_of_so_many_keys(root: Path, tmp_path: Path) -> None:
    rows = [RUN | {"window_size": cell, "flash_attention": "1"} for cell in ("128", "[127, 0]", "1")]
    assert runs_of(root, tmp_path, *rows).workloads["window_size"].to_list() == ["[127,0]"] * 2 + ["[0,0]"]
    assert faults(root, tmp_path, window_size="0")[0][1].startswith("the number 0 where a list is needed")


def test_an_option_that_no_run_has_passes_through(root: Path, tmp_path: Path) -> None:
    """A list may say of options that are not modelled that its runs do without them."""
    for column in sorted(UNMODELLED)[:3]:
        found = runs_of(root, tmp_path, RUN | {column: "0"}, RUN | {column: ""}, RUN | {column: "false"})
        assert (found.unread, found.problems) == ((column,), {})
        (problem,) = refusals(root, tmp_path, RUN | {column: "0"}, RUN | {column: "1"})
        assert (problem.path, problem.rule) == (f"line 1, column {column}", "not_modelled")


def test_what_is_said_nowhere_is_named(root: Path, tmp_path: Path) -> None:
    found = faults(root, tmp_path, model="", num_layers="4")
    assert ("line 2, column hidden_size", "hidden_size is said neither here nor by a model") in found
    assert all("num_layers" not in place for place, _ in found)


MLA = "mla(q_lora=1536,kv_lora=512,qk_nope=128,qk_rope=64,v=128)"


def test_the_widths_of_latent_attention(root: Path, tmp_path: Path) -> None:
    rows = [RUN | {"attention": text} for text in (MLA, "mla( kv_lora = 512, qk_nope=64,v=64)", "mha", "")]
    frame = runs_of(root, tmp_path, *rows).workloads
    widths = [
        "attention",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
    ]
    assert frame.select(widths).rows() == [
        ("mla", 1536, 512, 128, 64, 128),
        ("mla", 0, 512, 64, 0, 64),
        ("mha", 0, 0, 0, 0, 0),
        ("mha", 0, 0, 0, 0, 0),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("x", "NaN", "mqa", "MHA", "mla(", "mla)", "mla()x", "mla(q_lora=1", "mla(kv_lora=512)", "gqa(v=1)"),
        *("mla(kv_lora=512,kv_lora=512,qk_nope=128,v=128)", "mla(kv_lora=-1,qk_nope=128,v=128)"),
        *(f"mla(kv_lora={10**30},qk_nope=128,v=128)", f"mla(kv_lora={2**62 // 1000},qk_nope=128,v=128)"),
        *("mla(kv_lora=512,qk_nope=128,v=128,w=1)", "mla(kv_lora=512,,qk_nope=128,v=128)", "mha\n"),
    ],
)
def test_no_other_text_is_a_kind_of_attention(root: Path, tmp_path: Path, text: str) -> None:
    if text.strip() == "mha":
        assert faults(root, tmp_path, attention=text) == []
        return
    ((place, message),) = faults(root, tmp_path, attention=text)
    assert place.endswith("column attention")
    assert "where mha, gqa, or mla(q_lora=" in message


def test_attention_against_the_groups(root: Path, tmp_path: Path) -> None:
    ((place, message),) = faults(root, tmp_path, attention="mha", num_query_groups="8")
    assert place == "line 2, column attention"
    assert message == "8 query groups of 32 heads are no mha"
    assert faults(root, tmp_path, attention="gqa", num_query_groups="8") == []
    found = faults(root, tmp_path, attention=MLA, kv_lora_rank="256")
    assert ("line 2, column kv_lora_rank", "256 where attention says 512") in found


def test_lines_are_those_of_the_file(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    names = ",".join(RUN)
    path.write_text(f'{names},notes\n{",".join(RUN.values())},"two\nlines"\n\n{",".join(RUN.values())}x,y\n')
    found = read_runs(path, ["c"], root)
    ((problem,),) = found.problems.values()
    assert problem.path == "line 5, column seq_length"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = make_project(tmp_path)
    monkeypatch.chdir(made.root)
    return made


def test_the_template_is_a_list(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--template"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text == template(project.root)
    (project.root / "runs.csv").write_text(text)
    assert main(["predict", "runs.csv", "--out", "out.csv"]) == 0
    assert capsys.readouterr().err == "out.csv: every run with its cost columns\n"
    out = pl.read_csv(project.root / "out.csv")
    assert set(READ) <= set(out.columns)
    assert out["iteration_seconds"][0] > 0


def test_what_takes_runs_out_of_the_measured_range_is_said(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    header, row = template(project.root).splitlines()
    name, size = header.split(",").index("world_size"), 4096
    cells = row.split(",")
    cells[name] = str(size)
    cells[header.split(",").index("global_batch_size")] = str(size)
    (project.root / "runs.csv").write_text("\n".join([header, row, ",".join(cells), ""]))
    assert main(["predict", "runs.csv", "--out", "out.csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "runs.csv: 1 of 2 runs inside the range of measured runs",
        "runs.csv: outside: 1: on more GPUs than measured",
    ]


def test_columns_that_pass_through_are_named_once(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    header, row = template(project.root).splitlines()
    (project.root / "runs.csv").write_text(f"{header},notes\n{row},x\n{row},y\n")
    assert main(["predict", "runs.csv", "--out", "out.csv"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "runs.csv: columns that pass through unread: notes"
    assert pl.read_csv(project.root / "out.csv")["notes"].to_list() == ["x", "y"]
