"""htsim's connection matrices: what cards send in one op, or in a whole micro-batch one op after the other.

One flow for each pair of GPUs on different nodes; what stays in a node takes no card. With `--op all` a
barrier holds back an op's flows until all of the op before it on the same pass are done, stage after stage
forward, then back; computation takes no time. Grammar of csg-htsim (Broadcom): see htsim_check.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean
from moesweep.export.network_request import beside, built, gbit, network_of, not_modelled
from moesweep.export.request import Request
from moesweep.export.rounds import Exchange
from moesweep.export.source import Traced
from moesweep.export.timeline import step_programs
from moesweep.network.hashed import HashedTree
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from moesweep.shapes.parallelism import stage_of
from moesweep.shapes.schedule import GROUP, schedules
from moesweep.store.tablefile import whole
from moesweep.study.keys import SCHEMA
from moesweep.study.networks import Network

MOST_BYTES = 2**31 - 1
"""Of one flow; larger ones are several at a time."""

EVERYTHING = "all"
DEFAULT_OP = "moe_dispatch"


@dataclass(frozen=True)
class Matrix:
    """Flows of one op after the other: source host, target host, bytes."""

    nodes: int
    steps: list[list[tuple[int, int, int]]]

    def text(self) -> str:
        """Return the connection matrix."""
        flows = sum(map(len, self.steps))
        triggers = max(len(self.steps) - 1, 0)
        return (
            "\n".join([f"Nodes {self.nodes}", f"Connections {flows}", f"Triggers {triggers}", *self._lines()])
            + "\n"
        )

    def _lines(self) -> Iterator[str]:
        number, last = 0, len(self.steps) - 1
        for step, flows in enumerate(self.steps):
            begins = f"trigger {step}" if step else "start 0"
            ends = f" send_done_trigger {step + 1}" if step < last else ""
            for source, target, size in flows:
                number += 1
                yield f"{source}->{target} id {number} {begins} size {size}{ends}"
        for step, flows in enumerate(self.steps[:-1]):
            yield f"trigger id {step + 1} barrier count {len(flows)}"


def export(traced: Traced, request: Request) -> None:
    """Write `<workload>.cm`, the topology where it is a tree, and the command."""
    network, topology = network_of(request), built(request, traced.workload["world_size"])
    tree = _tree(network, topology)
    nodes = topology.fabric.hosts if tree is not None else _fat_tree_hosts(topology.gpus)
    matrix = Matrix(nodes, [_of_hosts(flows, topology, tree) for flows in steps(traced, request)])
    path = request.out / f"{traced.workload['workload']}.cm"
    with whole(path) as partial:
        partial.write_text(matrix.text(), encoding="ascii")
    rate, layout = gbit(topology.nic_bytes_per_second, network.file), ""
    if tree is not None:
        layout = f"{network.name}-{nodes}nodes.htsim"
        with whole(request.out / layout) as partial:
            partial.write_text(tree_text(tree, network), encoding="ascii")
    with whole(beside(path)) as partial:
        partial.write_text(_command(path.name, layout, matrix, rate, topology), encoding="ascii")


def _tree(network: Network, topology: Topology) -> Tree | None:
    """Return the tree that htsim can be told of; None for its own full fat tree. Raises BadInput."""
    if not network.blocks:
        return None
    fabric = topology.fabric.tree if isinstance(topology.fabric, HashedTree) else topology.fabric
    if not isinstance(fabric, Tree) or topology.order == "apart" or fabric.levels not in (2, 3):
        raise not_modelled(network, "htsim", "its topologies are trees of two or three levels")
    return fabric


def _fat_tree_hosts(gpus: int) -> int:
    """Return the hosts of the smallest full fat tree, k³/4 of an even k."""
    k = 2
    while k**3 // 4 < gpus:
        k += 2
    return k**3 // 4


def _of_hosts(
    flows: list[tuple[int, int, int]], topology: Topology, tree: Tree | None
) -> list[tuple[int, int, int]]:
    """Return flows between the fabric's hosts, none larger than may be."""
    place = topology.hosts_of_gpus().tolist() if tree is not None else range(topology.gpus)
    return [
        (place[source], place[target], part)
        for source, target, size in flows
        for part in [MOST_BYTES] * (size // MOST_BYTES) + [size % MOST_BYTES] * (size % MOST_BYTES > 0)
    ]


def steps(traced: Traced, request: Request) -> list[list[tuple[int, int, int]]]:
    """Return what goes between nodes, op after op; raise BadInput for an op that is not there."""
    messages, node = Exchange(traced).messages, traced.gpus_per_node
    ops = _everything(traced) if request.op == EVERYTHING else _one_op(traced, request)
    leaving = messages.filter(pl.col("src") // node != pl.col("dst") // node)
    stage = stage_of(pl.col("src"), traced.workload)
    by_op = leaving.with_columns(stage=stage).partition_by(
        "stage", "op_index", as_dict=True, include_key=False
    )
    found = []
    for group in ops:
        parts = [by_op[key].select("src", "dst", "bytes").rows() for key in group if key in by_op]
        if parts:
            found.append([row for part in parts for row in part])
    if not found:
        message = "nothing leaves a node in it"
        raise BadInput(
            [Problem(traced.workload["workload"], "--op", "network", request.op or DEFAULT_OP, message)]
        )
    return found


def _one_op(traced: Traced, request: Request) -> list[list[tuple[int, int]]]:
    """Return one op of one layer, on the stage that has it."""
    op, phase = request.op or DEFAULT_OP, request.phase or "forward"
    program = traced.program.with_columns(pl.col("phase").cast(pl.String))
    sends = program.filter((pl.col("wire_bytes") > 0) & (pl.col("phase") == phase))
    rows = sends.filter(pl.col("op") == op)
    layer = pl.col("layer").min() if request.layer is None else pl.lit(request.layer)
    rows = rows.filter(pl.col("layer") == layer)
    if rows.is_empty():
        where = "" if request.layer is None else f" of layer {request.layer}"
        message = f"the workload sends nothing in an op {op}{where} in the {phase} pass"
        advice = did_you_mean(op, set(sends["op"])) or "choose another layer"
        raise BadInput([Problem(traced.workload["workload"], "--op", "known", op, message, advice)])
    return [[(stage, index)] for stage, index in rows.select("stage", "op_index").rows()]


def _everything(traced: Traced) -> list[list[tuple[int, int]]]:
    """Return all ops of one micro-batch, in the order in which they wait for one another."""
    workload = pl.DataFrame([traced.workload], schema=SCHEMA)
    order = (
        schedules(workload.with_columns(num_microbatches=pl.col(GROUP)))
        .filter(pl.col("microbatch") == 0)
        .select("stage", "phase", "chunk")
    )
    pp = traced.workload["pp"]
    virtual, chunks = pl.col("chunk") * pp + pl.col("stage"), traced.workload["virtual_pipeline"]
    back = pl.when(pl.col("phase") == "backward").then(2 * pp * chunks - virtual)
    ordered = order.sort(back.otherwise(virtual))
    programs = step_programs(traced).with_columns(pl.col("phase").cast(pl.String))
    rows = ordered.join(programs, on=["stage", "phase", "chunk"], how="left", maintain_order="left_right")
    sends = rows.filter(pl.col("wire_bytes") > 0)
    return [[(stage, index)] for stage, index in sends.select("stage", "op_index").rows()]


def tree_text(tree: Tree, network: Network) -> str:
    """Return a tree as htsim's -topo file."""
    pod = tree.hosts if tree.levels == 2 else tree.below[0] * tree.below[1]
    lines = [f"Nodes {tree.hosts}", f"Tiers {tree.levels}", f"Podsize {pod}"]
    for level in range(tree.levels):
        top = level == tree.levels - 1
        lines += [
            f"Tier {level}",
            f"Downlink_speed_Gbps {gbit(tree.capacities[level], network.file)}",
            f"Radix_Down {tree.tops if top else tree.below[level]}",
        ]
        if not top:
            up = tree.above[level + 1]
            down, above = tree.below[level] * tree.capacities[level], up * tree.capacities[level + 1]
            lines += [f"Radix_Up {up}", f"Oversubscribed {round(down / above) or 1}"]
    return "\n".join(lines) + "\n"


def _command(name: str, layout: str, matrix: Matrix, rate: int, topology: Topology) -> str:
    """Return the command; `-end` is well above what the flows take one after the other on their cards."""
    least = 0.0
    for flows in matrix.steps:
        sent: dict[int, int] = {}
        for source, _, size in flows:
            sent[source] = sent.get(source, 0) + size
        least += max(sent.values()) / topology.nic_bytes_per_second
    end = max(1000, round(20 * least * 1e6))
    topo = f" -topo {layout}" if layout else ""
    return (
        "# Flows that -end cuts off vanish with exit code 0: count the flows that finished.\n"
        f"# All {sum(map(len, matrix.steps))} flows take {least * 1e6:.1f} us on cards alone.\n"
        f"htsim_ndp -tm {name}{topo} -nodes {matrix.nodes} -linkspeed {rate * 1000} -end {end}\n"
    )
