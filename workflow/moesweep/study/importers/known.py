"""Which kind of file it is, by what it says: each kind has one reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moesweep.edge.problems import BadInput, Problem
from moesweep.edge.yaml_reader import read_yaml_text
from moesweep.study.importers import bridge, launch, simulators, transformers
from moesweep.study.importers.draft import Draft
from moesweep.study.importers.foreign import read_foreign, read_json

_Read = Callable[[Any, str], Draft]

OF_TEXT: tuple[tuple[Callable[[str], bool], _Read], ...] = (
    (simulators.is_aicb, simulators.read_aicb),
    (launch.is_script, launch.read_script),
)
OF_DATA: tuple[tuple[Callable[[Any], bool], _Read], ...] = (
    (launch.is_zoo, launch.read_zoo),
    (bridge.is_recipe, bridge.read_recipe),
    (simulators.is_simumax_model, simulators.read_simumax_model),
    (simulators.is_simumax_strategy, simulators.read_simumax_strategy),
    (transformers.is_config, transformers.read_config),
    (simulators.is_calculon, simulators.read_calculon),
)

KINDS = (
    "a config.json of transformers, a launch script of Megatron-LM, YAML of Megatron-MoE-ModelZoo or "
    "Megatron-Bridge, JSON of SimuMax or Calculon, a workload for SimAI"
)


def read_file(path: Path) -> Draft:
    """Return what a file says of a model and a row. Raises BadInput."""
    file, text = str(path), read_foreign(path)
    for is_of_text, read in OF_TEXT:
        if is_of_text(text):
            return read(text, file)
    data = read_json(text, file) if text.lstrip()[:1] in ("{", "[") else read_yaml_text(text, file)
    for is_of_data, read in OF_DATA:
        if is_of_data(data):
            return read(data, file)
    message = "is no file of a known kind"
    raise BadInput([Problem(file, "", "unknown_kind", "", message, f"known: {KINDS}")])
