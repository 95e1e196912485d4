"""What users get wrong: each mistake is named with its place, its rule, its value and a way out."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesweep.edge.problems import BadInput, Problem, did_you_mean
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import checked

SWEEP = "config/sweeps/mine.yaml"
OPTIONS = {"num_experts": 8, "moe_router_topk": 2, "seq_length": 128, "micro_batch_size": 1}
ROW = {"model": "gpt_7B", "world_size": 64, "tp": 4, "pp": 2, "ep": 4, "global_batch_size": 64}


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project of one's own: the catalogue, and no sweep yet."""
    shutil.copytree(root / "config", tmp_path / "config")
    return tmp_path


def problems(use: Callable[[], object]) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        use()
    for problem in caught.value.problems:
        assert problem.file
        assert problem.rule
        assert problem.message
        assert "\n" not in problem.line()
        assert len(problem.line()) < 500
    return caught.value.problems


def sweep_problems(project: Path, content: str | bytes | dict[str, Any]) -> list[Problem]:
    data = json.dumps(content) if isinstance(content, dict) else content
    (project / SWEEP).write_bytes(data.encode() if isinstance(data, str) else data)
    found = problems(lambda: checked(project, SWEEP))
    assert {problem.file for problem in found} == {SWEEP}
    return found


def one_row(**changes: Any) -> dict[str, Any]:
    return {"options": OPTIONS, "rows": [ROW | changes]}


def test_the_row_itself_is_sound(project: Path) -> None:
    (project / SWEEP).write_text(json.dumps(one_row()), encoding="utf-8")
    assert checked(project, SWEEP)[1].height == 0


# what to change in the row, the path, the rule, the value, part of the message, part of the suggestion
ROWS: list[tuple[dict[str, Any], str, str, str, str, str]] = [
    ({"model": "gpt_7b"}, "model", "unknown_model", "gpt_7b", "no model", "did you mean gpt_7B"),
    ({"model": "no"}, "model", "unknown_model", "no", "no model", "known: "),
    ({"model": "../gpt_7B"}, "model", "pattern", '"../gpt_7B"', "form", "letters"),
    ({"model": "/etc/passwd"}, "model", "pattern", '"/etc/passwd"', "form", "letters"),
    ({"model": "gpt\x1b[31m"}, "model", "pattern", r'"gpt\x1b[31m"', "form", "letters"),
    ({"model": "x" * 300}, "model", "pattern", '"' + "x" * 76 + "...", "form", "letters"),
    ({"wrold_size": 64}, "wrold_size", "unknown_key", "wrold_size", "unknown key", ""),
    ({"tp": 0}, "tp", "range", "0", "below the least", "nearest: 1"),
    ({"tp": -4}, "tp", "range", "-4", "below the least", "nearest: 1"),
    ({"tp": 2.5}, "tp", "type", "2.5", "the number 2.5 where a whole number", "nearest: 2, 3"),
    ({"tp": 4.0}, "tp", "type", "4.0", "the number 4.0 where a whole number", "write 4"),
    ({"tp": "4"}, "tp", "type", '"4"', 'the text "4" where a whole number', "write 4"),
    ({"tp": True}, "tp", "type", "true", "the truth value true where a whole number", "needed: 1 to 1048576"),
    ({"tp": None}, "tp", "type", "null", "null where a whole number", "needed: 1 to 1048576"),
    ({"tp": [4]}, "tp", "type", "[4]", "the list [4] where a whole number", "needed: 1 to 1048576"),
    ({"world_size": 10**30}, "world_size", "range", str(10**30), "above the greatest", "nearest: 1048576"),
    (
        {"sequence_parallel": 1},
        "sequence_parallel",
        "type",
        "1",
        "the number 1 where true or false",
        "write true",
    ),
    ({"tp": 0.5}, "tp", "type", "0.5", "where a whole number", "nearest: 1"),
    ({"tp": 1e300}, "tp", "type", "1e+300", "where a whole number", "nearest: 1048576"),
    ({"tp": " 8 "}, "tp", "type", '" 8 "', "where a whole number", "write 8"),
    ({"tp": "9" * 12}, "tp", "type", '"' + "9" * 12 + '"', "where a whole number", "nearest: 1048576"),
    ({"tp": "eight"}, "tp", "type", '"eight"', "where a whole number", "needed: 1 to 1048576"),
    ({"ep": True}, "ep", "type", "true", "the truth value true", "needed: a whole number, `largest`"),
    ({"sequence_parallel": "No"}, "sequence_parallel", "type", '"No"', "true or false", "write false"),
    ({"sequence_parallel": None}, "sequence_parallel", "type", "null", "", "needed: true or false"),
    ({"recompute": None}, "recompute", "type", "null", "where text", "did you mean none?"),
    ({"model": 7}, "model", "type", "7", "where text", 'write "7"'),
    ({"routing": {"zipf": "1.2"}}, "routing.zipf", "type", '"1.2"', "where a number", "write 1.2"),
    ({"routing": {"zipf": "99"}}, "routing.zipf", "type", '"99"', "where a number", "write 64"),
    ({"routing": {"zipf": None}}, "routing.zipf", "type", "null", "where a number", "needed: 0 to 64"),
    ({"ep": {"largest_for_tp": 4}}, "ep.largest_for_tp", "type", "4", "where a list", "write [4]"),
    ({"recompute": "fulll"}, "recompute", "choice", '"fulll"', "not one of", "did you mean full"),
    ({"dtype": "fp8"}, "dtype", "not_modelled", '"fp8"', "is not modelled", "known: bf16, fp16"),
    ({"dtype": "bf8"}, "dtype", "choice", '"bf8"', "not one of", "bf16"),
    ({"ep": "larger"}, "ep", "pattern", '"larger"', "form", "largest"),
    ({"etp": "ep"}, "etp", "pattern", '"ep"', "form", "`tp`"),
    ({"listed": 0}, "listed", "range", "0", "below the least", "nearest: 1"),
    ({"global_batch_size": {"per_gpu": 0}}, "global_batch_size.per_gpu", "range", "0", "below", "nearest: 1"),
    (
        {"global_batch_size": {"times": 2}},
        "global_batch_size.times",
        "unknown_key",
        "times",
        "unknown",
        "per_gpu",
    ),
    ({"ep": {"largest_for_tp": []}}, "ep.largest_for_tp", "range", "[]", "empty list", "nearest: 1"),
    ({"ep": {"largest_for_tp": [3]}}, "ep", "ep_rule", "{'largest_for_tp': [3]}", "no largest ep", ""),
    ({"tp": 3}, "tp", "world_by_tp", "3", "tp 3 * pp 2 does not divide world_size 64", "nearest: 2, 4"),
    ({"pp": 3}, "pp", "world_by_pp", "3", "pp 3 does not divide world_size 64", "nearest: 2, 4"),
    (
        {"num_experts": 12, "ep": 8},
        "ep",
        "experts_by_ep",
        "8",
        "does not divide num_experts 12",
        "nearest: 4",
    ),
    ({"num_experts": 16, "ep": 16}, "ep", "ep_within_dp", "16", "tp 4 * cp 1 * dp 8", "nearest: 8"),
    ({"global_batch_size": 60}, "global_batch_size", "global_batch", "60", "dp 8", "nearest: 56, 64"),
    ({"moe_router_topk": 9}, "moe_router_topk", "topk_of_experts", "9", "9 of 8 experts", "nearest: 8"),
]


@pytest.mark.parametrize(("changes", "path", "rule", "value", "message", "suggestion"), ROWS)
def test_a_row_with_one_mistake(
    project: Path, changes: dict[str, Any], path: str, rule: str, value: str, message: str, suggestion: str
) -> None:
    found = {(problem.path, problem.rule): problem for problem in sweep_problems(project, one_row(**changes))}
    problem = found[f"rows[0].{path}", rule]
    assert problem.value == value
    assert message in problem.message
    assert suggestion in problem.suggestion


def test_a_misspelt_key_is_suggested(project: Path) -> None:
    row = {"wrold_size" if key == "world_size" else key: value for key, value in ROW.items()}
    found = sweep_problems(project, {"options": OPTIONS | {"flash_atention": True}, "rows": [row]})
    assert [(p.path, p.rule, p.suggestion) for p in found] == [
        ("options.flash_atention", "unknown_key", "did you mean flash_attention?"),
        ("rows[0].wrold_size", "unknown_key", "did you mean world_size?"),
    ]


def test_a_mistake_in_a_grid_s_list_is_placed(project: Path) -> None:
    grid = ROW | {"model": ["gpt_7B", "gpt_8B"], "tp": [2, 0, "8"], "pp": [2, 2], "dtype": ["bf16", "bf8"]}
    found = sweep_problems(project, {"options": OPTIONS, "grids": [grid]})
    assert [(p.path, p.rule) for p in found] == [
        ("grids[0].dtype[1]", "choice"),
        ("grids[0].pp", "duplicate"),
        ("grids[0].tp[1]", "range"),
        ("grids[0].tp[2]", "type"),
        ("grids[0].model[1]", "unknown_model"),
    ]


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e400", "2.5", "1e3"])
def test_numbers_that_are_not_whole(project: Path, number: str) -> None:
    text = json.dumps(one_row()).replace('"tp": 4', f'"tp": {number}')
    (problem,) = sweep_problems(project, text)
    assert (problem.path, problem.rule) == ("rows[0].tp", "type")


@pytest.mark.parametrize(
    ("content", "rule", "path", "message"),
    [
        ("", "type", "", "where a mapping is needed"),
        ("# nothing\n", "type", "", "where a mapping is needed"),
        ("[]", "type", "", "where a mapping is needed"),
        ("{}", "empty", "", "lists no workload"),
        ("description: later\n", "empty", "", "lists no workload"),
        ("grids: []", "range", "grids", "empty list"),
        ("rows:\n", "type", "rows", "where a list is needed"),
        ("rows:\n  - {tp: 1\n  - {tp: 2}\n", "yaml_syntax", "line 3, column 5", "not valid YAML"),
        ("rows:\n\t- 1\n", "yaml_syntax", "line 2, column 1", "not valid YAML"),
        ("rows: [1]\x00", "yaml_syntax", "line 1", "not valid YAML"),
        (b"rows:\n  - {model: gpt_\xff7B}\n", "utf8", "line 2", "not UTF-8: byte 0xff"),
        (b"\xff\xfer\x00o\x00", "utf8", "line 1", "not UTF-8"),
        ("rows: []\nrows: []\n", "duplicate_key", "line 2, column 1", "the key rows is given twice"),
        ("rows: [{tp: 1, tp: 2}]", "duplicate_key", "line 1, column 16", "the key tp is given twice"),
        ("? [a]\n: 1\n", "key", "line 1, column 5", "a key must be text"),
        ("1: 2\n", "key", "line 1, column 1", "a key must be text"),
        ("rows: !!python/object/apply:os.system ['true']", "tag", "line 1, column 7", "tags"),
        ("rows: !!set {a}", "tag", "line 1, column 7", "tags"),
        ("a: &x [1]\nb: *x\n", "alias", "line 1, column 4", "anchors"),
        ("a: *x\n", "alias", "line 1, column 4", "aliases"),
        ("--- 1\n--- 2\n", "one_document", "line 2, column 1", "second document"),
        ("a: " + "9" * 100, "number", "line 1, column 4", "a number of 100 characters"),
        ("[" * 5000, "depth", "line 1, column 21", "20 levels"),
        ("a: 1\n" + "# " + "x" * 64_000_001, "file_size", "", "larger than 64000000 bytes"),
    ],
)
def test_a_sweep_file_that_is_not_one(
    project: Path, content: str | bytes, rule: str, path: str, message: str
) -> None:
    (problem,) = sweep_problems(project, content)
    assert (problem.rule, problem.path) == (rule, path)
    assert message in problem.message


def test_a_billion_laughs_are_refused_at_the_first(project: Path) -> None:
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    (problem,) = sweep_problems(project, "\n".join(lines))
    assert (problem.rule, problem.path) == ("alias", "line 1, column 5")


def test_a_missing_file_and_a_directory(project: Path) -> None:
    (problem,) = problems(lambda: load_sweep(project, "config/sweeps/none.yaml"))
    assert (problem.file, problem.rule) == ("config/sweeps/none.yaml", "missing_file")
    (problem,) = problems(lambda: load_sweep(project, "config/sweeps"))
    assert (problem.file, problem.rule) == ("config/sweeps", "unreadable_file")
    (problem,) = problems(lambda: load_sweep(project, "a\x00b"))
    assert problem.rule == "unreadable_file"


def test_an_entry_listed_twice(project: Path) -> None:
    (problem,) = sweep_problems(project, {"options": OPTIONS, "rows": [ROW, ROW]})
    assert (problem.path, problem.rule) == ("rows[1]", "duplicate")
    assert problem.workload == "gpt_7B-ws64-tp4-pp2-ep4-gbs64-mbs1-seq128-moe"
    assert "rows[0]" in problem.message
    assert "listed: 2" in problem.suggestion


def test_a_key_given_nowhere(project: Path) -> None:
    row = {key: value for key, value in ROW.items() if key not in ("tp", "model")}
    found = sweep_problems(project, {"options": OPTIONS, "rows": [row]})
    assert [(p.path, p.rule) for p in found] == [
        ("rows[0].model", "missing_key"),
        ("rows[0].tp", "missing_key"),
    ]


def test_faults_of_every_kind_are_reported_at_once(project: Path) -> None:
    rows = [
        ROW | {"worldsize": 8},
        ROW | {"model": "gpt_8B"},
        ROW | {"world_size": 10},
        ROW | {"tp": True},
        ROW | {"ep": {"largest_for_tp": [3]}},
        ROW | {"routing": "zipf"},
        ROW,
        ROW,
    ]
    found = sweep_problems(project, {"options": OPTIONS | {"recompute": "some"}, "rows": rows})
    assert {(p.path, p.rule) for p in found} == {
        ("options.recompute", "choice"),
        ("rows[0].worldsize", "unknown_key"),
        ("rows[1].model", "unknown_model"),
        ("rows[2].tp", "world_by_tp"),
        ("rows[3].tp", "type"),
        ("rows[4].ep", "ep_rule"),
        ("rows[5].routing", "routing_form"),
        ("rows[7]", "duplicate"),
    }


@pytest.mark.parametrize(
    "faulty",
    [
        {"optoins": {}},
        {"options": OPTIONS | {"num_experts": "16"}},
        {"options": OPTIONS | {"sequence_parallel": "off", "seq_length": 126}},
    ],
)
def test_what_concerns_every_workload_is_mended_first(project: Path, faulty: dict[str, Any]) -> None:
    """What num_experts is not known cannot be told what ep it divides by: no faults made up."""
    (fault,) = sweep_problems(project, {"options": OPTIONS, "rows": [ROW | {"world_size": 10}]} | faulty)
    assert fault.rule in ("unknown_key", "type")


@pytest.mark.parametrize(
    ("key", "value", "message", "suggestion"),
    [
        ("hidden_dropout", float("nan"), "nan where a number is needed", ""),
        ("moe_expert_capacity_factor", float("nan"), "nan where a number is needed", "needed: "),
        ("window_size", 128, "128 where a list is needed", "needed: a list of 2 or more items"),
        ("window_size", [128], "[128] is a shorter list than the 2 items needed", ""),
        ("window_size", [], "[] is an empty list", "nearest: 2"),
    ],
)
def test_values_that_no_bound_refuses(
    project: Path, key: str, value: object, message: str, suggestion: str
) -> None:
    """A nan was called a fault of workloads.parquet; 128 was to be written [128], which is no window."""
    text = json.dumps({"options": OPTIONS, "rows": [ROW | {key: value}]}).replace("NaN", ".nan")
    (fault,) = sweep_problems(project, text)
    assert fault.path == f"rows[0].{key}"
    assert message in fault.message
    assert suggestion in fault.suggestion


def test_where_a_character_stands_that_yaml_has_not(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\nb: \u00e9\x00\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert caught.value.problems[0].path == "line 2"


def test_a_name_in_other_letters_is_found() -> None:
    assert did_you_mean("EP", ["ep", "etp"]) == did_you_mean("ep ", ["ep", "etp"]) == "did you mean ep?"


NUMBERS = st.integers(-2, 70) | st.sampled_from([2**20, 2**30, 10**30, 2.5, float("inf"), float("nan")])
WORDS = st.sampled_from(["tp", "largest", "full", "gpt_7B"]) | st.text(max_size=4)
SCALARS = NUMBERS | WORDS | st.booleans() | st.none()
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=4), SCALARS, max_size=2)
KEYS = st.sampled_from([*ROW, *OPTIONS, "etp", "virtual_pipeline", "recompute", "listed", "first_k_dense"])
CHANGES = st.dictionaries(KEYS, VALUES, max_size=3)


@given(CHANGES, CHANGES, st.booleans())
def test_any_sweep_is_enumerated_or_refused(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any], grid: dict[str, Any], twins: bool
) -> None:
    root = Path(__file__).parents[1]
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    sweep = {"twins": twins, "options": OPTIONS, "rows": [ROW | row], "grids": [ROW | {"tp": 2} | grid]}
    path.write_text(json.dumps(sweep), encoding="utf-8")
    with suppress(BadInput):
        checked(root, path)


@given(st.text(alphabet="ab:-[]{}&*!#|>'\"\n\t ,?%@`~1.\x00\u2028é", max_size=60))
def test_any_text_is_yaml_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text, encoding="utf-8")
    with suppress(BadInput):
        read_yaml(path)
