"""The catalogue's public models: right to the parameter, by config.json and as published."""

import csv
import json
import re
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from moesweep.study.importers.known import read_file
from moesweep.study.models import given_by_model
from moesweep.study.sweep import load_sweep
from naive_checkpoint import counted
from public_configs import CONFIGS

SIZES = ("parameters", "active_parameters", "mtp_parameters")
OF_THE_STUDY = {"gpt_7B", "gpt_13B", "gpt_22B", "gpt_175B", "llama_65B", "llama_405B"}


def published() -> dict[str, dict[str, str]]:
    with (Path(__file__).parent / "data/published_parameters.csv").open(encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


PUBLISHED = published()


@pytest.fixture(scope="module")
def workloads(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Each model of the catalogue on one GPU."""
    root = tmp_path_factory.mktemp("catalogue")
    row = "world_size: 1, tp: 1, pp: 1, global_batch_size: 1, seq_length: 4096"
    rows = "".join(f"  - {{model: {name}, {row}}}\n" for name in PUBLISHED)
    (root / "all.yaml").write_text(f"description: all\nrows:\n{rows}", encoding="utf-8")
    return load_sweep(root, "all.yaml").workloads


def test_the_catalogue_holds_them_all(root: Path) -> None:
    names = {path.stem for path in (root / "config/models").glob("*.yaml")}
    assert names == OF_THE_STUDY | PUBLISHED.keys()
    assert PUBLISHED.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_says_what_its_config_says(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    said = {key: value for key, (value, _) in read_file(tmp_path / "config.json").model.items()}
    assert given_by_model(root, name) == said


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(workloads: pl.DataFrame, name: str) -> None:
    row = workloads.row(by_predicate=pl.col("model") == name, named=True)
    found = tuple(row[size] for size in SIZES)
    assert found == tuple(int(PUBLISHED[name][size]) for size in SIZES)
    assert found == counted(CONFIGS[name])


def about(text: str) -> tuple[float, float]:
    """The least and greatest number of parameters that a published number of billions may stand for."""
    number = Decimal(text)
    half = Decimal((0, (5,), int(number.as_tuple().exponent) - 1))
    return float(number - half) * 1e9, float(number + half) * 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(workloads: pl.DataFrame, name: str) -> None:
    row = workloads.row(by_predicate=pl.col("model") == name, named=True)
    least, most = about(PUBLISHED[name]["published_billions"])
    assert least <= row["parameters"] <= most
    # Some count neither the embedding nor the head among the active ones, and some round down.
    least, most = about(PUBLISHED[name]["published_active_billions"])
    tables = 2 * row["vocab_size"] * row["hidden_size"]
    assert least <= row["active_parameters"]
    assert row["active_parameters"] - tables <= most


def test_a_checkpoint_with_multi_token_prediction(workloads: pl.DataFrame) -> None:
    # GLM-4.5's checkpoint: the copies of embedding and head of its prediction module, and 160 biases for
    # balance in each of 89 layers with experts and of the module, are no parameters of ours
    row = workloads.row(by_predicate=pl.col("model") == "glm_4_5", named=True)
    copies, balance = 2 * 151_552 * 5120, 160 * (89 + 1)
    assert row["parameters"] + row["mtp_parameters"] + copies + balance == 358_337_791_296


def test_the_documented_table(root: Path, workloads: pl.DataFrame) -> None:
    text = (root / "docs/models.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|", text, flags=re.MULTILINE)
    found = {name: tuple(int(cell.replace(",", "")) for cell in cells) for name, *cells in table}
    columns = workloads.select("model", *SIZES[:2]).rows()
    assert found == {name: (all_, active) for name, all_, active in columns}
