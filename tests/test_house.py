"""The house itself: dependency lists that agree, a lock that PyPI alone can serve, small files."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import moesweep
from moesweep.store.provenance import dictionaries
from moesweep.tables.registry import TABLES

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "workflow" / "moesweep"
TASKS = {"sweep", "quick", "test", "check", "bench", "docs", "audit", "sbom", "calibrate"}
CONDA_NAMES = {
    "duckdb": "python-duckdb",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
}
NOT_FROM_PYPI = {"python", "make"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|tmp|root|home)/")


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


PYPROJECT, PIXI, LOCK = (read_toml(name) for name in ("pyproject.toml", "pixi.toml", "uv.lock"))
GROUPS = {"runtime": PYPROJECT["project"]["dependencies"], **PYPROJECT["dependency-groups"]}


def constraints(requirements: list[str]) -> dict[str, SpecifierSet]:
    parsed = [Requirement(text) for text in requirements]
    return {CONDA_NAMES.get(each.name, each.name): each.specifier for each in parsed}


def project_files() -> Iterator[Path]:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return (ROOT / name for name in names if name and (ROOT / name).is_file())


@pytest.mark.parametrize("group", GROUPS)
def test_pixi_and_pyproject_list_the_same_dependencies(group: str) -> None:
    table = PIXI if group == "runtime" else PIXI["feature"][group]
    listed = table["dependencies"] | (table.get("pypi-dependencies", {}) if group != "runtime" else {})
    pixi = {name: SpecifierSet(text) for name, text in listed.items() if name not in NOT_FROM_PYPI}
    assert pixi == constraints(GROUPS[group])


def test_pixi_and_pyproject_want_the_same_python() -> None:
    assert (
        PIXI["dependencies"]["python"] == PYPROJECT["project"]["requires-python"] == LOCK["requires-python"]
    )


def test_pixi_and_make_offer_the_same_tasks() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\w+): \$\(READY\)$", makefile, re.MULTILINE)) == TASKS
    assert set(PIXI["tasks"]) == TASKS
    assert all(command.startswith(f"make {name} ") for name, command in PIXI["tasks"].items())


def test_pip_brings_no_other_uv_than_the_lock_s() -> None:
    """What `make` hands to pip: the lock's version of uv, and the hash of every file of it."""
    asked = ["make", "--no-print-directory", "-C", str(ROOT), "-f-", "uv"]
    rule = "include Makefile\nuv:\n\t@$(PYTHON) -c '$(UV)'\n"
    done = subprocess.run(asked, input=rule, capture_output=True, text=True, check=True)
    (uv,) = (package for package in LOCK["package"] if package["name"] == "uv")
    hashes = [file["hash"] for file in [uv["sdist"], *uv["wheels"]]]
    assert done.stdout.split() == [f"uv=={uv['version']}", *(f"--hash={digest}" for digest in hashes)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(re.findall(r"pip install.*--require-hashes", makefile)) == makefile.count("pip install") == 1


def test_the_lock_holds_every_dependency_in_a_version_that_is_allowed() -> None:
    locked = {package["name"]: package["version"] for package in LOCK["package"]}
    wanted = [Requirement(text) for group in GROUPS.values() for text in group]
    refused = [str(each) for each in wanted if not each.specifier.contains(locked.get(each.name, "0"))]
    assert refused == []


def test_the_lock_installs_from_pypi_alone() -> None:
    sources = {tuple(package["source"].items()) for package in LOCK["package"]}
    assert sources == {(("registry", "https://pypi.org/simple"),), (("editable", "."),)}
    files = [
        each
        for package in LOCK["package"]
        for each in [*package.get("wheels", []), package.get("sdist")]
        if each is not None
    ]
    assert [each for each in files if not each["url"].startswith("https://files.pythonhosted.org/")] == []
    assert [each["url"] for each in files if not each["hash"].startswith("sha256:")] == []


def test_the_slurm_plugin_is_not_installed_by_default() -> None:
    assert PYPROJECT["tool"]["uv"]["default-groups"] == ["dev"]
    assert "slurm" not in " ".join(GROUPS["runtime"] + GROUPS["dev"])


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert moesweep.__version__ == PYPROJECT["project"]["version"] == citation["version"]


CITATION_KEYS = {  # Citation File Format 1.2.0, section "Valid keys"
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers"),
    *("keywords", "license", "license-url", "message", "preferred-citation", "references", "repository"),
    *("repository-artifact", "repository-code", "title", "type", "url", "version"),
}


def test_the_citation_is_valid_before_and_after_it_has_a_doi() -> None:
    before = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "doi:" not in yaml.safe_dump(yaml.safe_load(before))
    after = re.sub(r"^# (?=date-released|identifiers|  - )", "", before, flags=re.MULTILINE)
    for text in (before, after):
        citation = yaml.safe_load(text)
        assert {"authors", "cff-version", "message", "title"} <= citation.keys() <= CITATION_KEYS
        assert (citation["cff-version"], citation["type"], citation["license"]) == (
            "1.2.0",
            "software",
            "Apache-2.0",
        )
        assert all(author["name"] for author in citation["authors"])
    assert isinstance(citation["date-released"], date)
    ((kind, doi),) = [(each["type"], each["value"]) for each in citation["identifiers"]]
    assert (kind, doi.partition(".")[0]) == ("doi", "10")


@pytest.mark.parametrize(
    "path",
    sorted([*LIBRARY.rglob("*.py"), *(ROOT / "tests").glob("*.py")]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert text.count("\n") < MAX_FILE_LINES
    assert {name: lines for name, lines in lengths.items() if lines >= MAX_FUNCTION_LINES} == {}


SCHEMA_OF_FOLDER = {
    "models": "model",
    "gpus": "gpu",
    "clusters": "cluster",
    "networks": "network",
    "spaces": "sweep",
    "sweeps": "sweep",
}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_editors_find_the_schema_of_a_configuration_file(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    schema = SCHEMA_OF_FOLDER.get(path.parent.name, path.stem)
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named
    assert (path.parent / named[1]).resolve() == ROOT / f"schemas/{schema}.schema.json"


def test_the_dictionaries_of_the_tables_are_those_that_no_other_stage_has() -> None:
    assert dictionaries("tables") == sorted(TABLES)


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        if not path.is_relative_to(ROOT / "tests") and path.suffix not in {".parquet", ".png"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []
