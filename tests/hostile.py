"""Malformed inputs for all commands, made from sound ones by a seed; tests/malformed.py judges them.

`hostile` yields inputs of a kind: lists of runs, sweeps, models, clusters and GPUs, networks, files to
import, archives, spaces, arguments, and results that are pipes, links or drawings with code.
"""

import csv
import io
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from archives import signed
from damages import DAMAGES
from foreign_files import FILES
from hostile_results import DRAWN, RESULTS, WORKLOAD, arguments
from hostile_words import SIZES, UNITS, VALUES, WORDS
from malformed import PAYLOADS, Input, Outcome, attempt
from moesweep.study.keys import KEYS
from moesweep.study.run_columns import READ
from public_configs import CONFIGS

CHECKOUT = Path(__file__).resolve().parents[1]
MODEL = "config/models/tiny.yaml"
SWEEP = "config/sweeps/small.yaml"
CLUSTER = "dgx-a100-80gb-8xhdr200"


def hostile(kind: str, project: Path, count: int, seed: int = 0) -> Iterator[Input]:
    """Yield `count` inputs of a kind, the same ones for a seed."""
    for number in range(count):
        dice = random.Random(f"{kind} {seed}.{number}")
        command, prepare = KINDS[kind](project, dice)
        yield Input(f"{kind} {seed}.{number}: {' '.join(command)[:80]!r}", tuple(command), prepare)


Made = tuple[Sequence[str], Callable[[Path], object]]


def _runs(project: Path, dice: random.Random) -> Made:
    """A list of one to four runs with up to three hostile cells, or a strange header or form."""
    sound = {"cluster": CLUSTER, "model": "tiny", "world_size": "16", "tp": "2", "pp": "2", "ep": "2"}
    sound |= {"global_batch_size": "32", "seq_length": "128", "num_experts": "4", "moe_router_topk": "2"}
    header = list(sound | dict.fromkeys(dice.sample(READ, 4), ""))
    rows = [[sound.get(name, "") for name in header] for _ in range(dice.choice((1, 1, 1, 4)))]
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(header))
        dice.choice(rows)[at] = dice.choice((*SIZES, *WORDS, *[_within(header[at], dice)] * 40))
    strange = dice.randrange(12)
    if strange == 0:
        header[dice.randrange(len(header))] = dice.choice(
            (*header, *WORDS, *(name.upper() for name in header))
        )
    if strange == 1:
        dice.choice(rows).append("more")
    if strange == 2:
        dice.choice(rows).pop()
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    content = text.getvalue().encode()
    if strange == 3:
        content = dice.choice((content.decode().encode("utf-16"), content[: dice.randrange(len(content))]))
    if strange == 4:
        content = content.replace(b",", dice.choice((b";", b"\t", b",,", b'"', b"\0")), dice.randrange(1, 9))
    going = ("--keep-going",) if dice.random() < 0.2 else ()
    return ("predict", "runs.csv", "--out", "results/out.csv", *going), partial(_put, {"runs.csv": content})


def _within(name: str, dice: random.Random) -> str:
    """A whole number, a word or a truth that the form of a key allows, small or as large as it may be."""
    form = KEYS[name].form if name in KEYS else {}
    if "enum" in form:
        return str(dice.choice(form["enum"]))
    least, most = form.get("minimum", 0), form.get("maximum", 1)
    return str(dice.choice((least, most, int(2 ** dice.uniform(0, math.log2(most + 1))))))


def _changed(data: Any, dice: random.Random, depth: int = 0) -> Any:
    """The data with one part of it, as deep as the dice say, replaced, removed, renamed or doubled."""
    if isinstance(data, Mapping) and data and (depth == 0 or dice.random() < 0.85):
        key = dice.choice(list(data))
        changed = dict(data)
        kind = dice.randrange(8) if depth else 7
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[dice.choice((f"{key}s", key.upper(), *WORDS))] = changed.pop(key)
        else:
            changed[key] = _changed(data[key], dice, depth + 1)
        return changed
    if isinstance(data, list) and data and dice.random() < 0.85:
        at = dice.randrange(len(data))
        return [*data[:at], *[_changed(data[at], dice, depth + 1)] * dice.choice((1, 1, 2)), *data[at + 1 :]]
    if isinstance(data, str) and dice.random() < 0.3:
        return f"{dice.choice((*SIZES, '-1', '0', '1e308', '1e400', 'nan', '.5'))} {dice.choice(UNITS)}"
    return dice.choice((*VALUES, *WORDS, *PAYLOADS))


def _spoilt(project: Path, file: str, dice: random.Random) -> bytes:
    """A YAML file of the project or checkout with up to two parts changed; sometimes a key said twice."""
    path = project / file if (project / file).exists() else CHECKOUT / file
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for _ in range(dice.choice((1, 1, 2))):
        data = _changed(data, dice)
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    if dice.random() < 0.05:
        text += text
    return text.encode("utf-8", "backslashreplace")


def _sweeps(project: Path, dice: random.Random) -> Made:
    return ("enumerate",), partial(_put, {SWEEP: _spoilt(project, SWEEP, dice)})


def _models(project: Path, dice: random.Random) -> Made:
    """A model that a list of runs, a search or the sweep names."""
    commands = (
        ("validate",),
        ("predict", "runs.csv", "--out", "results/out.csv"),
        ("best", "tiny", "--gpus", "8", "seq_length=128"),
    )
    runs = f"cluster,model,world_size,tp,pp,global_batch_size,seq_length\n{CLUSTER},tiny,16,2,2,32,128\n"
    return dice.choice(commands), partial(
        _put, {MODEL: _spoilt(project, MODEL, dice), "runs.csv": runs.encode()}
    )


def _clusters(project: Path, dice: random.Random) -> Made:
    """A cluster, its GPU or the calibration."""
    file = dice.choice(
        (f"config/clusters/{CLUSTER}.yaml", "config/gpus/a100-sxm-80gb.yaml", "config/calibration.yaml")
    )
    commands = (
        ("collectives", "--cluster", CLUSTER, "--nodes", "2", "--sizes", "8,1MiB,1GiB"),
        ("whatif", "ep=4", "--workload", WORKLOAD),
        ("predict", "runs.csv", "--out", "results/out.csv"),
    )
    runs = f"cluster,model,world_size,tp,pp,global_batch_size,seq_length\n{CLUSTER},tiny,16,2,2,32,128\n"
    return dice.choice(commands), partial(
        _put, {file: _spoilt(project, file, dice), "runs.csv": runs.encode()}
    )


def _networks(project: Path, dice: random.Random) -> Made:
    file = dice.choice(sorted((CHECKOUT / "config/networks").glob("*.yaml"))).relative_to(CHECKOUT)
    commands = (
        ("network", "--topology", "net.yaml"),
        ("export", "--format", "simai-topology", "--network", "net.yaml", "--out", "exported"),
    )
    return dice.choice(commands), partial(_put, {"net.yaml": _spoilt(project, str(file), dice)})


def _foreign(project: Path, dice: random.Random) -> Made:
    """A checkpoint's configuration, a script, a recipe, a simulator's input or a log, spoilt."""
    if dice.random() < 0.5:
        data = dict(dice.choice(list(CONFIGS.values())))
        for _ in range(dice.choice((1, 2))):
            data = _changed(data, dice)
        text = json.dumps(data)
        if dice.random() < 0.3:
            key = dice.choice(list(data))
            more = (
                json.dumps(dice.choice(VALUES)),
                "1" + "0" * 400,
                "-Infinity",
                "[" * 5000,
                "{",
                '"\\ud800"',
            )
            text = f"{text[:-1]}, {json.dumps(key)}: {dice.choice(more)}}}"
        name, content = "config.json", text.encode("utf-8", "backslashreplace")
    else:
        files = FILES | {log: (CHECKOUT / "tests/data" / log).read_text() for log in LOGS}
        name = dice.choice(list(files))
        words = list(re.finditer(r"[A-Za-z0-9_.${}:-]+", files[name]))
        text = files[name]
        for _ in range(dice.choice((1, 2, 5))):
            start, end = dice.choice(words).span()
            put = dice.choice((*WORDS, *SIZES, *PAYLOADS, *INJECTED))
            text = text[:start] + put + text[end:] if end <= len(text) else text + put
        content = text.encode("utf-8", "backslashreplace")
    options = ("--like", CLUSTER) if name.endswith(".log") else ()
    row = ("world_size=8", "tp=1", "pp=1", "ep=1", "etp=1", "global_batch_size=8", "seq_length=4096")
    out = ("--out", "config/models/made.yaml") if not options else ("--out", "config/clusters/made.yaml")
    more = ("--sweep-out", "made.yaml", *row) if dice.random() < 0.3 and not options else ()
    return ("import", Path(name).name, *options, *out, *more), partial(_put, {Path(name).name: content})


LOGS = ("nccl_tests_all_reduce.log", "nccl_tests_alltoall.log")

INJECTED = (
    *(
        "$(touch pwned)",
        "`touch pwned`",
        "${A:=$(touch pwned)}",
        "$((2**64))",
        "$((1/0))",
        "$((9**9**9))",
        "${!A}",
    ),
    *(
        "${A[@]}",
        "'",
        '"',
        "\\",
        "\n--tp 7\n",
        "|",
        "&&",
        ">pwned",
        "<(cat /etc/passwd)",
        "--num-layers=1e9",
        "A=$A$A",
    ),
)
"""What a shell would run, or not end with."""


def _archives(project: Path, dice: random.Random) -> Made:
    """A manifest of another writer, signed."""
    manifest = json.loads((project / "archive/manifest.json").read_bytes())
    for _ in range(dice.choice((1, 1, 3))):
        manifest = _changed(manifest, dice)
    manifest.pop("sha256", None)
    body = json.dumps(manifest).removeprefix("{").encode("utf-8", "backslashreplace")
    return ("verify", "archive"), lambda project: signed(project / "archive/manifest.json", body)


SPACE = {
    "description": "a space",
    "twins": False,
    "options": {"num_experts": 4, "moe_router_topk": 2, "seq_length": 128, "sequence_parallel": True},
    "grids": [
        {
            "model": "tiny",
            "cluster": [CLUSTER],
            "world_size": 16,
            "tp": [1, 2],
            "pp": [1, 2],
            "ep": [1, 2],
            "etp": "tp",
            "global_batch_size": 32,
            "where": "tp * pp <= 4",
        }
    ],
}


def _spaces(project: Path, dice: random.Random) -> Made:
    data: Any = SPACE
    for _ in range(dice.choice((1, 1, 2))):
        data = _changed(data, dice)
    content = yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "backslashreplace")
    return ("screen", "space.yaml", "--out", "o.parquet"), partial(_put, {"space.yaml": content})


def _arguments(project: Path, dice: random.Random) -> Made:
    """A command with options and NAME=VALUE without sense."""
    word = partial(dice.choice, (*SIZES, *WORDS))
    name = partial(dice.choice, (*READ, *CONSTANTS, "network", "tpp", "", "__class__", "memory"))
    unit = partial(dice.choice, UNITS)
    commands: tuple[Sequence[str], ...] = (
        ("best", word(), "--gpus", word()),
        ("best", "tiny", "--gpus", "8", f"{name()}={word()}"),
        ("best", "tiny", "--gpus", word(), "seq_length=128"),
        ("best", "tiny", "--gpus", "8", "--memory", f"{word()} {unit()}", "seq_length=128"),
        ("best", "tiny", "--gpus", "8", "--top", word(), "seq_length=128"),
        ("whatif", f"{name()}={word()}"),
        ("whatif", f"{name()}={word()}{unit()}", f"{name()}={word()}"),
        ("whatif", "ep=4", "--workload", word(), "--tolerance", word()),
        ("whatif", "ep=4", "--top", word(), "--format", word()),
        ("collectives", "--cluster", word(), "--nodes", word()),
        ("collectives", "--cluster", CLUSTER, "--nodes", word(), "--ranks", word()),
        ("collectives", "--cluster", CLUSTER, "--sizes", f"{word()}{unit()},{word()}"),
        ("collectives", "--cluster", CLUSTER, "--collective", word(), "--sizes", "8"),
        ("explain", word(), word()),
        ("explain", WORKLOAD, f"{dice.choice(('stage', 'op', 'x'))}:{word()}:{word()}:seconds"),
        ("explain", WORKLOAD, "iteration_seconds", "--depth", word(), "--top", word()),
        ("export", "--format", word(), "--out", word()),
        ("export", "--format", "chakra", "--out", "exported", "--ranks", word(), "--microbatches", word()),
        ("trace", "--unroll", "--out", "exported", "--workload", word(), "--ranks", word()),
        ("network", "--topology", word(), "--order", word()),
        ("diff", word(), word(), "--tolerance", word()),
        ("enumerate", "--set", f"{dice.choice(('sweep', 'cluster', 'outputs', 'x', ''))}={word()}"),
        ("validate", "--config", word(), "--results", word()),
        ("init", word()),
        ("archive", "--out", word()),
        ("clean", "--stage", word(), "--dry-run"),
        ("verify", word()),
    )
    command = [part.replace("\0", "") for part in dice.choice(commands)]
    return command, lambda project: None


CONSTANTS = (
    *("nic_bytes_per_second", "hbm_bytes", "gpus_per_node", "usd_per_gpu_hour", "fabric_efficiency"),
    *("matrix_flops_per_second", "tp_overlap", "streaming_multiprocessors", "nics_per_node"),
)


def _results(project: Path, dice: random.Random) -> Made:
    """A result that is a pipe, a link, a folder, cut or empty; a figure with code."""
    pattern = dice.choice(list(RESULTS))
    file = str(dice.choice(sorted(project.glob(pattern))).relative_to(project))
    command = dice.choice(RESULTS[pattern])
    if pattern.endswith("svg") and dice.random() < 0.7:
        text = (project / file).read_text(encoding="utf-8")
        text = text.replace("</svg>", f"{dice.choice(DRAWN)}</svg>")
        return arguments(command), partial(_put, {file: text.encode()})
    return arguments(command), partial(dice.choice(DAMAGES), file, dice.random())


def _put(files: Mapping[str, bytes], project: Path) -> None:
    for file, content in files.items():
        (project / file).write_bytes(content)


KINDS: dict[str, Callable[[Path, random.Random], Made]] = {
    "runs": _runs,
    "sweeps": _sweeps,
    "models": _models,
    "clusters": _clusters,
    "networks": _networks,
    "foreign": _foreign,
    "archives": _archives,
    "spaces": _spaces,
    "arguments": _arguments,
    "results": _results,
}

COUNTS = {
    "runs": 400,
    "sweeps": 150,
    "models": 80,
    "clusters": 80,
    "networks": 30,
    "foreign": 400,
    "archives": 100,
    "spaces": 80,
    "arguments": 150,
    "results": 40,
}
"""How many inputs of each kind `python tests/reliability.py malformed` tries; CI tries a tenth."""


def outcomes(project: Path, share: int, seed: int = 0) -> Iterator[Outcome]:
    """Hand the COUNTS, divided by `share`, to the command line."""
    for kind, count in COUNTS.items():
        for case in hostile(kind, project, count // share, seed):
            yield attempt(project, case)
