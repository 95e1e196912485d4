"""Files of strangers: whatever an import meets is read or refused with its place, and nothing of it runs."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from foreign_files import FILES, MIXTRAL_SCRIPT
from importing import ALL, config_file, written
from malformed import PAYLOADS
from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.importers.known import read_file
from moesweep.study.importers.written import faults_of_model, faults_of_row, joined, write_model
from public_configs import CONFIGS

DOUBLED = "".join(f"A{i}=${{A{i - 1}}}${{A{i - 1}}}\n" for i in range(1, 31))
"""Thirty variables, each twice the one before."""


def faults(folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What an import says of a file that must not be accepted; nothing is written."""
    file, out = folder / name, folder / "out.yaml"
    file.write_text(text, encoding="utf-8")
    assert (
        main(["import", str(file), *given, "--out", str(out), "--sweep-out", str(folder / "row.yaml")]) == 2
    )
    assert not out.exists()
    assert not (folder / "row.yaml").exists()
    return capsys.readouterr().err.replace(str(file), name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "c.json",
            '{"architectures": ["BertModel"]}',
            'the architecture "BertModel" is not known; known: Llama',
        ),
        ("c.json", '{"architectures": [["a"]]}', "is not known"),
        (
            "c.json",
            '{"model_type": "llama", "hidden_size": 1, "hidden_size": 2}',
            '"hidden_size" is given twice',
        ),
        ("c.json", '{"model_type": "llama", "hidden_size": NaN}', "NaN is no number"),
        ("c.json", '{"model_type": "llama", "hidden_size": 1e400}', "1e400 is beyond any number"),
        (
            "c.json",
            '{"model_type": "llama", "hidden_size": 1' + "0" * 400 + "}",
            "a number of 401 characters",
        ),
        ("c.json", '{"model_type": "llama", "a": ' + "[" * 40 + "]" * 40 + "}", "nested more than"),
        ("c.json", '{"model_type": "llama",', "not valid JSON"),
        ("c.json", '{"made": "up"}', "is no file of a known kind; known: a config.json of transformers"),
        ("c.json", " " * 4_000_001, "larger than 4000000 bytes"),
        ("c.yaml", "a: &b [1]\nc: *b\n", "anchors"),
        ("c.yaml", "a: !!python/object/apply:os.system [ls]\n", "tags"),
        ("c.sh", "torchrun x.py --num-layers 2 'open", "cannot be read as a shell script"),
        ("c.sh", f"A0={'x' * 9}\n{DOUBLED}run --num-layers $A30\n", "without end"),
    ],
)
def test_files_of_strangers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    found = faults(tmp_path, name, text, capsys)
    assert said in found
    assert "Traceback" not in found


def test_all_faults_of_a_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["deepseek_v3"] | {
        "hidden_size": "7168",
        "num_hidden_layers": -1,
        "n_shared_experts": 1.5,
    }
    del config["vocab_size"]
    found = faults(tmp_path, "config.json", json.dumps(config), capsys, "tp=0.5", "hiden_size=2")
    assert "there is no key" in found
    found = faults(tmp_path, "config.json", json.dumps(config), capsys)
    assert (
        'config.json: hidden_size: type: the text "7168" where a whole number is needed; write 7168' in found
    )
    assert "config.json: num_hidden_layers: range: num_layers: -1 is below the least allowed value 1" in found
    assert "config.json: n_shared_experts: type: num_shared_experts: " in found
    assert "vocab_size: missing_key: no file says vocab_size; add vocab_size=... to the command" in found
    assert "world_size: missing_key" in found


def test_what_only_a_run_would_know_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = MIXTRAL_SCRIPT.replace("TP=${TP:-1}", "if [ $X ]; then\n  TP=2\nelse\n  TP=4\nfi")
    found = faults(tmp_path, "launch.sh", script.replace("--num-layers 32", "--num-layers $2"), capsys)
    assert (
        'tensor_model_parallel_size is "$TP", which only a run would know; add tp=... to the command' in found
    )
    assert 'num_layers is "$2", which only a run would know; add num_layers=... to the command' in found


def test_files_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = written(tmp_path, "launch.sh")
    config = config_file(tmp_path, CONFIGS["mixtral_8x22B"])
    out = tmp_path / "out.yaml"
    assert main(["import", config, script, "--out", str(out)]) == 2
    found = capsys.readouterr().err
    assert (
        "num_layers: contradiction: num_layers is 32 here and 56 by config.json: num_hidden_layers" in found
    )
    assert not out.exists()


def test_no_code_of_a_script_runs_and_no_path_is_followed(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    script = f"touch {trap}\nX=$(touch {trap})\nsource {tmp_path}/other.sh\n" + MIXTRAL_SCRIPT
    (tmp_path / "launch.sh").write_text(f"{script}\n`touch {trap}`\n", encoding="utf-8")
    (tmp_path / "other.sh").write_text("NNODES=77\n", encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    assert not trap.exists()
    assert draft.row["world_size"][0] == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["aicb.txt", "model=gpt_13B"], "there is nothing to write; add --out"),
        (["none.json", "--out", "x.yaml"], "no such file"),
        (["tp=2", "--out", "x.yaml"], "no file to import is named"),
        (["aicb.txt", "seq_length=1", "--sweep-out", "x.yaml"], "a row needs a model, and none is written"),
        (["calculon_model.json", "vocab_size=9", "--out", ".yaml"], "names no model"),
        (["calculon_model.json", "vocab_size=9", "model=a", "--out", "x.yaml"], "the model is called x"),
    ],
)
def test_commands_that_make_no_sense(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "aicb.txt", "calculon_model.json")
    assert main(["import", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 2.5, 10**18, 1e300, "", "x", "$TP", "([0]*3+[1]*5)", "[[0]*9]*9"),
    *([], {}, [[]], [0, 1], [None], {"a": 1}, "silu", 65536, 1 << 40, "0" * 30),
)


def _changed(random_: random.Random, data: Any, changes: int) -> Any:
    """Data with some values, at any depth, replaced by odd ones."""
    places = list(_places(data))
    for _ in range(changes):
        part, key = random_.choice(places)
        part[key] = random_.choice(ODD)
    return data


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from _places(data[key])


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_file_says_it_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    kinds = [json.dumps(config) for config in ALL.values()]
    kinds += [text for name, text in FILES.items() if name.endswith(".json")]
    kinds += [json.dumps(yaml.safe_load(FILES[name])) for name in ("zoo.yaml", "bridge.yaml")]
    for text in random_.sample(kinds, 20):
        for changes in (1, 3):
            data = _changed(random_, json.loads(text), changes)
            (tmp_path / "f.json").write_text(json.dumps(data), encoding="utf-8")
            try:
                draft = read_file(tmp_path / "f.json")
            except BadInput:
                continue
            found = joined([draft], {})
            lines = [p.line() for p in (*found.problems, *faults_of_model(found), *faults_of_row(found))]
            assert all(len(line) < 1000 for line in lines)


@pytest.mark.parametrize("name", FILES)
def test_payloads_in_any_place_are_read_or_refused(tmp_path: Path, name: str) -> None:
    random_ = random.Random(name)
    words = [found.span() for found in re.finditer(r"[^\s,:{}\"]+", FILES[name])]
    for payload in PAYLOADS:
        start, end = random_.choice(words)
        text = FILES[name][:start] + payload + FILES[name][end:]
        (tmp_path / "f").write_text(text, encoding="utf-8")
        try:
            draft = read_file(tmp_path / "f")
        except BadInput:
            continue
        found = joined([draft], {})
        write_model(found, [draft], tmp_path / "m.yaml")
        said = read_yaml(tmp_path / "m.yaml")
        assert {key: said[key]["value"] for key in found.model} == {
            key: v for key, (v, _) in found.model.items()
        }
    assert {path.name for path in tmp_path.iterdir()} <= {"f", "m.yaml"}
