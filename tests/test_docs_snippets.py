"""Every line that README and docs tell a reader to type runs in CI as it stands there, or is named here."""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from moesweep.cli import main
from project import CHECKOUT
from public_configs import CONFIGS
from snippets import PAGES, blocks
from test_measure import times

EXAMPLE = "gpt_13B-ws1024-tp16-pp2-ep16-gbs2048-mbs1-seq4096-moe"
SWEEP = """\
description: The workload that README and docs name.
options: {num_experts: 16, moe_router_topk: 2, seq_length: 4096, sequence_parallel: true}
grids: [{model: gpt_13B, world_size: 1024, tp: 16, pp: 2, ep: 16, global_batch_size: 2048}]
"""
CONFIGURATION = """\
sweep: config/sweeps/moe-a100-123.yaml
cluster: dgx-a100-80gb-8xhdr200
outputs: [network, manifest]
"""
SPACE = """\
description: Layouts of a small world.
options: {num_experts: 16, moe_router_topk: 2, seq_length: 2048, global_batch_size: 64}
grids: [{model: gpt_7B, world_size: 16, tp: [1, 2], pp: [1, 2], ep: [1, 2, 4]}]
"""
# What a usage line leaves to its reader, first match first. DIR is as good a name of a folder as any.
FILLED = {
    r"\[|\](\.\.\.)?|\.\.\.": "",
    r"--results DIR": "--results results",
    r"RESULTS_[AB]": "results",
    r"WORKLOAD|ID\|GLOB|\bID\b": EXAMPLE,
    r"METRIC": "iteration_seconds",
    r"--gpus N": "--gpus 64",
    r"--(top|layer|microbatches) N": r"--\1 1",
    r"N\|all": "0",
    r"OP\|all": "moe_dispatch",
    r"--phase P": "--phase forward",
    r"NAME\|FILE.yaml": "fat-tree",
    r"AXES": "tp-pp-dp",
    r"MODEL": "gpt_7B",
    r"--cluster C": "--cluster dgx-a100-40gb-8xhdr200",
    r"SIZE": "40GiB",
    r"whatif NAME=VALUE": "whatif ep=8",
    r"NAME=VALUE": "num_experts=16",
    r"LEVELS": "1",
    r"SHARE": "0.1",
    r"(?<=\w)\|[\w|-]+": "",
}
CI = "CI runs it, or its parts, by itself: .ci/run"
NETWORK = "asks a registry"
SLURM = "needs a cluster of one's own: tests/test_slurm.py runs the same on a SLURM that it brings up"
HOURS = "takes too long for CI"
NAMED = {
    r"moesweep explain gpt_13B.* op:.*": "tests/test_explain.py compares what it prints with the page",
    r"make sweep": "tests/test_workflow.py types it with a small sweep, make bench with the default one",
    r"make (quick|check|test|docs)( ARGS=\"-m long\")?": CI,
    r"make test ARGS=\"-m endurance\"": HOURS,
    r"make (bench|calibrate)": HOURS,
    r"make audit": NETWORK,
    r"pip install \.": f"{NETWORK}; tests/test_wheel.py builds the wheel and runs it",
    r"\.venv/bin/uv sync --frozen( --no-dev)? --group slurm": f"{NETWORK}; .ci/run does it",
    r"make sweep PROFILE=slurm ARGS=.*ACCOUNT.*": SLURM,
    r"CI=true make test ARGS=\"tests/test_slurm.py -rP\"": CI,
    r"npm pack axe-core .*": NETWORK,
    r"MOESWEEP_AXE=.*": "needs what npm brings",
    r"python -m cProfile .*": "leaves out the options that are asked about",
    r"python measure_gpu.py > mine.json": "needs a GPU; tests/test_measure.py says what it prints",
}
FORMULAS = ("docs/costs.md", "docs/networks.md", "docs/traffic.md")
"""Pages whose blocks, what is typed aside, are formulas: naive_*.py and hand-worked tests hold them."""

# Blocks that nobody types, by their first words: code and YAML that other tests take, and what is only read.
READ = {
    "README.md": ["┌────", "SELECT", "import moesweep"],
    "docs/models.md": ["description:"],
    "docs/slurm.md": ["  slurmstepd: error"],
    "docs/sweeps.md": ["claims:", "{model}-ws{W}"],
    "docs/trace.md": ["routing:"],
    "docs/workflow.md": ["module moesweep:"],
}


OTHERS = "".join(
    (CHECKOUT / f"tests/test_{name}.py").read_text(encoding="utf-8") for name in ("workflow", "wheel")
)


def typed(page: str) -> list[str]:
    return [line for block in blocks() if block.page == page for line in block.typed]


def named(line: str) -> list[str]:
    return [pattern for pattern in NAMED if re.fullmatch(pattern, line)]


def here(page: str) -> list[str]:
    """Return the lines that this file runs: of moesweep, in a study."""
    lines = [line for line in typed(page) if line.startswith("moesweep ") and not named(line)]
    return [] if page == "docs/workflow.md" else [line for line in lines if f'"{line}"' not in OTHERS]


NAMES = [str(page.relative_to(CHECKOUT)) for page in PAGES]
HERE = [name for name in NAMES if here(name)]


def test_every_line_is_run_or_named() -> None:
    lines = {(page, line) for page in NAMES for line in typed(page)}
    run = {(page, line) for page in NAMES for line in here(page)}
    others = {(page, line) for page, line in lines if f'"{line}"' in OTHERS or f"'{line}'" in OTHERS}
    reasons = {(page, line) for page, line in lines if named(line)}
    assert lines - run - others - reasons == set()
    assert not reasons & (run | others)
    assert set(NAMED) == {pattern for _, line in reasons for pattern in named(line)}


def test_every_other_block_is_known() -> None:
    read = [block for block in blocks() if not block.typed and not block.language.startswith("{")]
    languages = {(block.language, block.page) for block in read if block.language}
    assert languages == {("python", "docs/python.md"), ("mermaid", "docs/architecture.md")}
    plain = [(block.page, block.text) for block in read if not block.language and block.page not in FORMULAS]
    begins = [(page, start) for page, starts in READ.items() for start in starts]
    assert len(plain) == len(begins)
    for (page, text), (known, start) in zip(plain, begins, strict=True):
        assert (page, text[: len(start)]) == (known, start)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of one workload, and the files that pages take a reader to have."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("config/sweeps", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "config/sweeps/moe-a100-123.yaml").write_text(SWEEP, encoding="utf-8")
    (folder / "config/config.yaml").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "SPACE.yaml").write_text(SPACE, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIGS["qwen3_30B_A3B"]), encoding="utf-8")
    (folder / "mine.json").write_text(json.dumps(times(CHECKOUT)), encoding="utf-8")
    for log in (CHECKOUT / "tests/data").glob("nccl_tests_*.log"):
        shutil.copy(log, folder / "logs")
    with contextlib.chdir(folder):
        for stage in ("enumerate", "validate", "trace", "cost", "traffic", "tables", "network", "manifest"):
            assert main([stage]) == 0
    return folder


def filled(line: str) -> str:
    for pattern, value in FILLED.items():
        line = re.sub(pattern, value, line)
    return line


def matches(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def run(line: str) -> int:
    """Run a line as a shell does, in this process."""
    line, _, out = line.partition(" > ")
    words = [found for word in shlex.split(line)[1:] for found in matches(word)]
    # A folder that was there before is for the line before.
    if "--check" not in words and "--out DIR" in line:
        shutil.rmtree("DIR", ignore_errors=True)
    with contextlib.ExitStack() as stack:
        if out:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(out).open("w"))))
        try:
            return main(words)
        except SystemExit as ended:
            return int(ended.code or 0)


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE)
def test_lines_run(study: Path, tmp_path: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    with contextlib.chdir(tmp_path):
        for line in here(page):
            assert run(filled(line)) == 0, (line, capsys.readouterr().err)


def test_lines_of_a_model_are_its_keys(tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks() if block.text.startswith("description:")]
    keys = json.loads((CHECKOUT / "schemas/model.schema.json").read_text(encoding="utf-8"))["properties"]
    assert set(yaml.safe_load(text)) <= set(keys)
