"""Recipes of Megatron-Bridge as YAML: Megatron's configuration by its own names, in sections."""

from collections.abc import Mapping
from typing import Any

from moesweep.study.importers.draft import Draft, Told
from moesweep.study.importers.eight_bits import fp8_of_precision
from moesweep.study.importers.flags import read_options

_SECTIONS = ("train", "ddp", "optimizer", "dataset", "comm_overlap", "mixed_precision", "dist", "model")
"""Sections that say options of Megatron; the model's win over the others'."""

_PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "float16": "fp16", "16": "fp16"}


def is_recipe(data: Any) -> bool:
    """Whether YAML data are a recipe of Megatron-Bridge."""
    model = data.get("model") if isinstance(data, dict) else None
    return isinstance(model, dict) and ("num_layers" in model or "tensor_model_parallel_size" in model)


def read_recipe(data: Mapping[str, Any], file: str) -> Draft:
    """Return the model and row that a recipe of Megatron-Bridge describes."""
    draft = Draft(file, "Megatron-Bridge recipe")
    said: dict[str, Any] = {}
    for section in _SECTIONS:
        part = data.get(section)
        said |= (
            {name: value for name, value in part.items() if value is not None}
            if isinstance(part, dict)
            else {}
        )
    precision = data.get("mixed_precision")
    if isinstance(precision, str):
        said |= {word: True for start, word in _PRECISIONS.items() if precision.startswith(start)}
    said |= fp8_of_precision(precision)
    read_options(draft, Told(said), switches=False)
    rest = {name: value for name, value in data.items() if name not in _SECTIONS}
    draft.leave(Told(rest), rest)
    return draft
