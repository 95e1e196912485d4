"""Launch scripts of Megatron, and ModelZoo's configurations, which say the same options as YAML."""

import re
from collections.abc import Mapping
from typing import Any

from moesweep.edge.argument_numbers import is_index
from moesweep.edge.problems import BadInput, Problem
from moesweep.study.importers.draft import Draft, Told
from moesweep.study.importers.flags import read_options
from moesweep.study.importers.shell import Script, TooLong

_SLURM = re.compile(
    r"^#SBATCH\s+(?:--(nodes|gpus-per-node|ntasks-per-node)|-(N))[= ]\s*([0-9]{1,6})\b", re.MULTILINE
)
_SAID = re.compile(r"--(num-layers|tensor-model-parallel-size)[ \t=]")
_OPTION = re.compile(r"--([a-z][a-z0-9_-]*)(?:=(.*))?", re.IGNORECASE)
_INTEGER, _FLOAT = (
    re.compile(r"-?[0-9]{1,18}"),
    re.compile(r"-?([0-9]{0,18}\.[0-9]{1,18}|[0-9]+)([eE][-+]?[0-9]{1,2})?"),
)
_MAX_DIGITS = 9
_OF_LAUNCHER = ("nproc_per_node", "nnodes", "node_rank", "master_addr", "master_port")


def is_script(text: str) -> bool:
    """Whether a text is a launch script: it says Megatron's options, as a command line does."""
    return _SAID.search(text) is not None


def read_script(text: str, file: str) -> Draft:
    """Return the model and row that a launch script describes; raise BadInput if it cannot be read."""
    try:
        script = Script(text)
        words = script.commands()
    except ValueError as error:
        message = f"cannot be read as a shell script: {error}"
        raise BadInput([Problem(file, "", "shell_syntax", "", message)]) from None
    except TooLong:
        message = "its variables fill each other in without end"
        raise BadInput([Problem(file, "", "size", "", message)]) from None
    draft = Draft(file, "Megatron launch script")
    options = _options(words)
    slurm = {name or "nodes": int(number) for name, short, number in _SLURM.findall(text)}
    nodes = options.get("nnodes", slurm.get("nodes"))
    per_node = options.get("nproc_per_node", slurm.get("gpus-per-node", slurm.get("ntasks-per-node")))
    if isinstance(nodes, int) and isinstance(per_node, int):
        options["world_size"] = nodes * per_node
    elif is_index(world := script.value("WORLD_SIZE")) and len(world) < _MAX_DIGITS:
        options["world_size"] = int(world)
    draft.idle += [name for name in _OF_LAUNCHER if options.pop(name, None) is not None]
    read_options(draft, Told(options), switches=True)
    return draft


def is_zoo(data: Any) -> bool:
    """Whether YAML data are a configuration of Megatron-MoE-ModelZoo: options with their hyphens as keys."""
    arguments = data.get("MODEL_ARGS") if isinstance(data, dict) else None
    return isinstance(arguments, dict) and any(str(name).startswith("--") for name in arguments)


def read_zoo(data: Mapping[str, Any], file: str) -> Draft:
    """Return the model and row that a configuration of Megatron-MoE-ModelZoo describes."""
    draft = Draft(file, "Megatron-MoE-ModelZoo configuration")
    said = {_snake(name): value for name, value in data["MODEL_ARGS"].items()}
    # As on the command line, what is off is left out.
    draft.idle += [name for name, value in said.items() if value is False or value is None]
    read_options(
        draft, Told({name: value for name, value in said.items() if value is not False}), switches=True
    )
    draft.leave(Told({name: value for name, value in data.items() if name != "MODEL_ARGS"}), ("ENV_VARS",))
    return draft


def _options(words: list[str]) -> dict[str, Any]:
    """The options among words, by name in snake case: values, or true. Of two of a name the last counts."""
    said: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if found := _OPTION.fullmatch(word):
            name = _snake(found[1])
            said[name] = [] if found[2] is None else [found[2]]
        elif word.endswith((".py", ";", "|", "&")):
            name = ""
        elif name:
            said[name].append(word)
    return {name: _value(values) for name, values in said.items()}


def _value(words: list[str]) -> Any:
    if len(words) != 1:
        return " ".join(words) if words else True
    (word,) = words
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else word


def _snake(option: str) -> str:
    return option.removeprefix("--").replace("-", "_").lower()
