"""A GPU's file from the times of kernels that users measured on it (`on_gpu`), and from another GPU's."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moesweep.cost.compute import wave_efficiency
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.textfile import read_text
from moesweep.store.tablefile import whole
from moesweep.study.catalog import CALIBRATION_FILE
from moesweep.study.catalog_files import Constant, read_constant, read_entry, read_named
from moesweep.study.cluster_import import entry_lines, quoted

MOST_BYTES = 1 << 20
MEMORY = {
    "elementwise": "elementwise_hbm_fraction",
    "permute": "permute_hbm_fraction",
    "adam": "adam_hbm_fraction",
}
"""Constants by what times of kernels that memory bounds are called."""

_HEADER = (
    "# yaml-language-server: $schema=../../schemas/gpu.schema.json\n"
    "# Keys: schemas/gpu.schema.json. What constants mean: $defs/constants of schemas/cluster.schema.json.\n"
)


def write_gpu(times: Path, like: str, out: Path, root: Path) -> list[str]:
    """Write a GPU's file; return what was found, a line each. Raises BadInput with every fault.

    `like` names the GPU that says what no kernel does: peak, memory, links. What goes beyond its peak or its
    memory is refused.
    """
    said, problems = _read(times)
    entry, more = read_named(root, "gpu", like, ("", "--like"))
    shared, others = read_entry(root, CALIBRATION_FILE, "calibration")
    if problems or more or others:
        raise BadInput([*problems, *more, *others])
    own = _constants(entry["constants"], f"config/gpus/{like}.yaml")
    known = _constants(shared["constants"], CALIBRATION_FILE) | own
    found = found_in(said, {name: each.value for name, each in known.items()})
    advice = "are they times of the GPU that --like names?"
    beyond = [
        Problem(str(times), name, "bounds", f"{value:.4g}", f"{name} would be {value:.4g}: {why}", advice)
        for name, value in found.items()
        if (why := _beyond(name, value))
    ]
    if beyond:
        raise BadInput(beyond)
    with whole(out) as partial:
        partial.write_text(_yaml(said, like, own, found), encoding="utf-8")
    return [f"{name}: {value:.4g}" for name, value in found.items()]


def _constants(entries: Mapping[str, Any], file: str) -> dict[str, Constant]:
    read = {name: read_constant(name, entry, file) for name, entry in entries.items()}
    if problems := [problem for _, found in read.values() for problem in found]:
        raise BadInput(problems)
    return {name: constant for name, (constant, _) in read.items() if constant is not None}


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """What the script printed, and what is wrong with it."""
    file = str(path)
    try:
        said = json.loads(read_text(path, file, MOST_BYTES))
    except ValueError as error:
        return {}, [Problem(file, "", "json", "", f"no JSON: {error}", "keep all that the script prints")]
    if not isinstance(said, dict):
        return {}, [Problem(file, "", "json", "", "not what the script of moesweep measure prints")]
    problems = [Problem(file, "gemm", "missing", "", "no products of gemm")] if not said.get("gemm") else []
    gemm = _list(said.get("gemm"))
    parts = [(f"gemm[{at}]", each, "m n k seconds") for at, each in enumerate(gemm)]
    if len({each.get("k") for each in gemm if isinstance(each, dict)}) == 1:
        problems.append(Problem(file, "gemm", "few", "", "products of one inner size say no half of it"))
    sizes = "seq_length heads head_dim forward_seconds backward_seconds"
    parts += [("attention", said.get("attention"), sizes)]
    parts += [(name, said.get(name), "bytes seconds") for name in MEMORY]
    for place, part, keys in parts:
        for key in keys.split():
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                message = f"{place}.{key} is {shown(value)} where a number above 0 is needed"
                problems.append(Problem(file, f"{place}.{key}", "number", shown(value), message))
    return said, problems


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def found_in(said: Mapping[str, Any], constants: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of the model that times say, over those that they do not.

    A product of m, n, k takes launch + 2mnk / (peak · E · waves · gain · k/(k + half)): what it takes over
    what it would without gain and half is (1 + half/k) / gain, a line in 1/k. Attention: causal flops, two
    products forward and five backward, over peak · gain · heads/(heads + half heads).
    """
    gemm = pl.DataFrame(said["gemm"]).cast(pl.Float64)
    frame = gemm.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
    waves = frame.select(wave_efficiency(pl.col("m"), pl.col("n"), pl.lit(1.0))).to_series().to_numpy()
    m, n, k, seconds = (gemm[name].to_numpy() for name in ("m", "n", "k", "seconds"))
    rate = constants["matrix_flops_per_second"] * constants["gemm_forward_efficiency"] * waves
    over = np.maximum(seconds - constants["kernel_seconds"], 0.1 * seconds) * rate / (2 * m * n * k)
    lines = np.stack([1 / over, 1 / (k * over)], axis=1)
    level, slope = np.linalg.lstsq(lines, np.ones(len(over)), rcond=None)[0]
    found = {"gemm_gain": 1 / level, "gemm_half_inner_dimension": max(slope / level, 0.0)}
    of = said["attention"]
    product = of["seq_length"] ** 2 * of["heads"] * of["head_dim"]
    for phase, products in (("forward", 2), ("backward", 5)):
        few = of["heads"] / (of["heads"] + constants[f"flash_{phase}_half_heads"])
        reached = products * product / of[f"{phase}_seconds"]
        found[f"flash_{phase}_efficiency"] = reached / (
            constants["matrix_flops_per_second"] * found["gemm_gain"] * few
        )
    for name, constant in MEMORY.items():
        taken = said[name]["seconds"] * constants["hbm_bytes_per_second"]
        found[constant] = said[name]["bytes"] / taken
    return {name: float(value) for name, value in found.items()}


def _beyond(name: str, value: float) -> str:
    """Why no GPU has such a value; empty where one may."""
    if name == "gemm_gain":
        return "" if 0.1 <= value <= 1.28 else "products reach 0.1 to 1.28 times 0.78 of a peak"
    if name == "gemm_half_inner_dimension":
        return "" if value <= 4096 else "long products would not reach half of their rate"
    return "" if 0.01 <= value <= 1 else "a share of what the data sheet says lies between 0.01 and 1"


def _yaml(said: Mapping[str, Any], like: str, own: Mapping[str, Constant], found: Mapping[str, float]) -> str:
    measured = f"moesweep measure: {said.get('device', 'GPU')}, PyTorch {said.get('torch', '')}"
    lines = [f"\ndescription: {quoted(f'{measured}; what no kernel says as {like}.')}", "\nconstants:"]
    for name in dict.fromkeys((*own, *found)):
        if name in found:
            value = found[name]
            most = max(4 * value, 1.0) if name == "gemm_half_inner_dimension" else max(1.28, value)
            lines += entry_lines(name, Constant(value, "", "measured", measured, value / 4, most, ""))
        else:
            lines += entry_lines(name, own[name], f"as {like}: {own[name].source}")
    return _HEADER + "\n".join(lines) + "\n"
