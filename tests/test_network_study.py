"""The source study's own metric, bytes times hops: its 2,944 published sums, by our topologies."""

from collections.abc import Mapping
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moesweep.export import simai_aicb
from moesweep.network.dragonfly import Dragonfly
from moesweep.network.flows import Flows, Ints
from moesweep.network.lattice import Lattice
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from moesweep.study.sweep import enumerate_sweep

PUBLISHED = Path(__file__).parent / "data/topology_published.csv"
NAMES = ("fat_tree", "rail_only", "hyperx", "dragonfly_plus")


def topologies(world: int, tp: int) -> dict[str, Topology]:
    """What its hops are those of: islands of tp GPUs, a leaf a rail, a HyperX that fits, all islands joined.

    Hops: 2 inside an island, 2 on a rail, else 4 (by a spine, or by NVLink and a rail); coordinates that
    differ; 2 at one switch, else 3.
    """
    n, one = world // tp, (1.0, 1.0)
    side = isqrt(n) + 1
    return {
        "fat_tree": Topology(world, tp, Tree(world, (n, tp), (1, 1), one), "rail", n, False, 1.0, 1.0),
        "rail_only": Topology(world, tp, Tree(n, (n,), (1,), (1.0,)), "apart", 1, True, 1.0, 1.0),
        "hyperx": Topology(
            side * side * tp,
            1,
            Lattice((side, side, tp), False, False, 0, 1.0, 1.0),
            "rank",
            1,
            False,
            1.0,
            1.0,
        ),
        "dragonfly_plus": Topology(
            world, tp, Dragonfly(n, 1, tp, 0, n - 1, False, (1.0, *one)), "rank", 1, False, 1.0, 1.0
        ),
    }


def patterns(world: int, tp: int, pp: int) -> dict[str, tuple[Ints, Ints]]:
    """Its closed rings: of tp, of a stage with steps of tp, and to both neighbouring stages."""
    rank, stage = np.arange(world), world // pp
    ends = {
        "tp": (rank, rank // tp * tp + (rank % tp + 1) % tp),
        "dp": (rank, rank // stage * stage + (rank % stage + tp) % stage),
    }
    up, down = rank[rank + stage < world], rank[rank >= stage]
    return ends | {"pp": (np.concatenate([up, down]), np.concatenate([up + stage, down - stage]))}


@cache
def hops(world: int, tp: int, pp: int) -> dict[tuple[str, str], int]:
    """Hops of a unit of each pattern on each topology; a pair with itself has none."""
    found = {}
    for name, topology in topologies(world, tp).items():
        for pattern, (source, target) in patterns(world, tp, pp).items():
            apart = source != target
            flows = Flows(1, source[apart] * 0, source[apart], target[apart], np.ones(apart.sum()))
            found[name, pattern] = round(float(topology.loads(flows).sum()))
    return found


def totals(workload: Mapping[str, Any]) -> tuple[int, int]:
    """Its bytes a rank of tp and dp: a sum over an AICB file's rows, each cut to whole bytes twice."""
    tp, pp, world = (workload[name] for name in ("tp", "pp", "world_size"))
    sums = [0, 0]
    for block in simai_aicb._dense(workload)[1]:
        for row in block.rows:
            fields = row.rstrip("\n").split("\t")
            for at, (word, size) in enumerate(((3, 4), (6, 7), (9, 10))):
                if fields[word] == "NONE":
                    continue
                ranks = tp if at < 2 else world // pp
                passes = 2 if fields[word].startswith("ALLREDUCE") else 1
                sums[at == 2] += int(int((ranks - 1) / ranks * int(fields[size]) * passes) / pp) * block.times
    return sums[0], sums[1]


def test_the_published_sums(root: Path) -> None:
    published = {row[:2]: row[2:] for row in pl.read_csv(PUBLISHED).iter_rows()}
    assert len(published) == 4 * 184
    more = {"llama_65B": 2, "llama_405B": 4}
    for workload in enumerate_sweep(root, "config/sweeps/dense-a100-184.yaml").iter_rows(named=True):
        model = workload["model"]
        # It takes both Llamas' hidden size for 4096, one micro-batch, and twice what it shows alone in "all".
        hidden = 4096 if model in more else workload["hidden_size"]
        tp, dp = totals(workload)
        pp = 2 * hidden * 2048 if workload["pp"] > 1 else 0
        unit = hops(*(workload[name] for name in ("world_size", "tp", "pp")))
        (name,) = simai_aicb.file_names(workload)
        for at, topology in enumerate(NAMES):
            sums = {
                "tp": tp * unit[topology, "tp"],
                "dp": dp * unit[topology, "dp"],
                "pp": pp * unit[topology, "pp"],
            }
            sums["all"] = sums["tp"] + sums["dp"] + 2 * more.get(model, 1) * sums["pp"]
            for traffic, total in sums.items():
                assert published[name.removesuffix(".txt"), traffic][at] == total, (name, traffic, topology)
