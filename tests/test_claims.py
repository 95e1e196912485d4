"""What a sweep's file claims of expert parallelism: its form, its faults, its way into the results."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.edge.problems import BadInput
from moesweep.store.tablefile import dictionary, metadata
from moesweep.study.claims import QUANTITIES, Claim, as_facts, read_claims
from moesweep.study.space import load_space
from moesweep.study.sweep import load_sweep, sound_part

ROW = {"model": "gpt_7B", "world_size": 8, "tp": 1, "pp": 1, "global_batch_size": 8, "seq_length": 64}
MORE = {"claim": "More is sent", "rises": ["all_to_all_wire_bytes"]}
LESS = {"claim": "Less | is held", "by_source": True, "under": "And", "falls": ["state_bytes"]}
CLAIMS = (
    Claim("More is sent", rises=("all_to_all_wire_bytes",)),
    Claim("Less | is held", by_source=True, under="And", falls=("state_bytes",)),
)


def write(folder: Path, claims: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(json.dumps({"claims": claims, "rows": [ROW]}), encoding="utf-8")
    return path


def catalogue(folder: Path, text: str) -> Path:
    path = folder / "workloads.parquet"
    pl.DataFrame({"workload": ["x"]}).write_parquet(path, metadata=metadata("workloads", {"claims": text}))
    return path


def test_claims_reach_the_sweep_the_space_and_the_catalogue_s_file(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path, [MORE, LESS])
    assert load_sweep(root, path).claims == CLAIMS
    assert load_space(root, path).file.claims == CLAIMS
    (told,) = as_facts(CLAIMS).values()
    assert json.loads(told) == [MORE, LESS]
    assert read_claims(catalogue(tmp_path, told)) == CLAIMS


def test_a_sweep_without_claims_tells_none(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps({"rows": [ROW]}), encoding="utf-8")
    assert load_sweep(root, path).claims == ()
    assert as_facts(()) == {}
    pl.DataFrame({"workload": ["x"]}).write_parquet(tmp_path / "none.parquet", metadata=metadata("workloads"))
    assert read_claims(tmp_path / "none.parquet") == ()


def test_a_claim_is_about_what_ep_scaling_measures() -> None:
    columns = {column["name"] for column in dictionary("ep_scaling")["columns"]}
    assert columns.issuperset(QUANTITIES)
    assert {f"{name}_ratio" for name in QUANTITIES} == {name for name in columns if name.endswith("_ratio")}


FAULTY: list[tuple[Any, str, str]] = [
    ([], "claims", "range"),
    ("Higher EP", "claims", "type"),
    ([{"claim": "x"}], "claims[0]", "empty"),
    ([{"rises": ["state_bytes"]}], "claims[0].claim", "missing_key"),
    ([MORE | {"claim": "two\nlines\n"}], "claims[0].claim", "pattern"),
    ([MORE | {"claim": "one line\n"}], "claims[0].claim", "pattern"),
    ([MORE | {"claim": ""}], "claims[0].claim", "range"),
    ([MORE | {"rises": ["state_byte"]}], "claims[0].rises[0]", "choice"),
    ([MORE | {"rises": []}], "claims[0].rises", "range"),
    ([MORE | {"rises": ["state_bytes", "state_bytes"]}], "claims[0].rises", "duplicate"),
    ([MORE | {"sources": True}], "claims[0].sources", "unknown_key"),
    ([MORE | {"by_source": 1}], "claims[0].by_source", "type"),
    ([MORE | {"falls": ["all_to_all_wire_bytes"]}], "claims[0].falls[0]", "contradiction"),
    ([LESS, MORE, LESS | {"falls": ["compute_seconds"]}], "claims[2].claim", "duplicate"),
]


@pytest.mark.parametrize(("claims", "path", "rule"), FAULTY)
def test_what_is_no_claim_is_placed_and_the_rest_of_the_sweep_still_judged(
    root: Path, tmp_path: Path, claims: Any, path: str, rule: str
) -> None:
    sweep, problems = sound_part(root, write(tmp_path, claims))
    assert [(problem.path, problem.rule) for problem in problems] == [(path, rule)]
    assert sweep is not None
    assert sweep.workloads.height == 1
    # The same claims in a stranger's results are refused as well.
    with pytest.raises(BadInput) as refused:
        read_claims(catalogue(tmp_path, json.dumps(claims) if claims else '[{"claim": "x"}]'))
    assert refused.value.problems[0].file.endswith("workloads.parquet")


@pytest.mark.parametrize("text", ["", "{", "{}", "null", "[1]", "[[]]", '"x"', "1e999", '{"claim": "x"}'])
def test_a_catalogue_that_tells_other_things_than_claims_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput):
        read_claims(catalogue(tmp_path, text))
