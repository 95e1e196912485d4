"""SimAI's topology file: GPUs, NVSwitches and switches by number, and every two-way link with rate and delay.

Line 1 `nodes gpus_per_server nvswitches switches links gpu_type`, line 2 the switches, NVSwitches first, then
a link a line, `source target 400Gbps 0.0005ms 0`.
"""

from moesweep.edge.problems import BadInput, Problem
from moesweep.export.network_request import beside, built, gbit, network_of, not_modelled
from moesweep.export.request import Request
from moesweep.network.topology import Topology
from moesweep.store.tablefile import whole
from moesweep.study.networks import load_parts

GPU_TYPES = ("A100", "A800", "H100", "H800")
"""Those that SimAI knows; NONE is any other."""

RATES = (25, 50, 100, 200, 400, 1600)
"""Gbit/s that links at ordinary switches may have."""


def export(world_size: int, request: Request) -> None:
    """Write `<network>-<world>gpus.topo` and the command that runs it. Raises BadInput."""
    network, topology = network_of(request), built(request, world_size)
    if not topology.parts().switches:
        raise not_modelled(network, "simai-topology", "GPUs are not switches there")
    path = request.out / f"{network.name}-{world_size}gpus.topo"
    parts = {name: constant.value for name, constant in load_parts(request.configuration.root).items()}
    gpu = request.configuration.cluster().gpu.upper()
    kind = next((known for known in GPU_TYPES if known in gpu), "NONE")
    with whole(path) as partial:
        partial.write_text(topology_text(topology, kind, parts, network.file), encoding="ascii")
    with whole(beside(path)) as partial:
        settings = "astra-sim-alibabacloud/inputs/config/SimAI.conf"
        command = f"SimAI_simulator -t 16 -w WORKLOAD.txt -n {path.name} -c {settings}\n"
        partial.write_text(command, encoding="ascii")


def topology_text(topology: Topology, gpu_type: str, parts: dict[str, float], file: str) -> str:
    """Return the file of a network with switches. Raises BadInput for rates that it cannot say."""
    links = topology.links.select("source", "target", "class", "bytes_per_second").rows()
    names = dict.fromkeys(end for link in links for end in link[:2])
    gpus = sorted((name for name in names if name.startswith("gpu ")), key=lambda name: int(name.split()[1]))
    nvswitches = [name for name in names if name.startswith("nvswitch ")]
    switches = [name for name in names if name not in {*gpus, *nvswitches}]
    number = {name: i for i, name in enumerate([*gpus, *nvswitches, *switches])}
    lines, open_ = [], dict[tuple[int, int], int]()
    for source, target, class_, rate in links:
        ends = number[source], number[target]
        if open_.get(ends[::-1], 0):
            # The other way of a link that is written already.
            open_[ends[::-1]] -= 1
            continue
        open_[ends] = open_.get(ends, 0) + 1
        delay = (
            parts["nvlink_seconds"] if class_ == "nvlink" else parts["link_seconds"] + parts["switch_seconds"]
        )
        speed = f"{rate * 8 / 1e9:g}" if class_ == "nvlink" else _allowed(rate, file)
        lines.append(f"{ends[0]} {ends[1]} {speed}Gbps {delay * 1e3:.6f}ms 0")
    head = (len(number), topology.island, len(nvswitches), len(switches), len(lines), gpu_type)
    order = [str(number[name]) for name in (*nvswitches, *switches)]
    return "\n".join([" ".join(map(str, head)), " ".join(order), *lines]) + "\n"


def _allowed(bytes_per_second: float, file: str) -> str:
    rate = gbit(bytes_per_second, file)
    if rate not in RATES:
        below, above = ([r for r in RATES if (r < rate) == less] for less in (True, False))
        near = [*below[-1:], *above[:1]]
        message = f"links at switches of {rate} Gbit/s are not modelled in SimAI"
        advice = f"nearest: {', '.join(f'{known} Gbit/s' for known in near)}"
        raise BadInput(
            [Problem(file, "constants.link_bytes_per_second", "simai_rate", str(rate), message, advice)]
        )
    return str(rate)
