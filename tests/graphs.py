"""Graphs of networks as files, for the tests of what reads and writes them."""

from pathlib import Path

LEAF_SPINE = [(f"gpu{g}", f"leaf{g // 4}") for g in range(16)] + [
    (f"leaf{leaf}", f"spine{spine}") for leaf in range(4) for spine in range(2)
]
"""Golden A: 16 GPUs on 4 leaves below 2 spines."""


def edges(links: list[tuple[str, str]], rate: str = "200Gbit/s") -> str:
    """A list of edges."""
    return "# a comment\n" + "".join(f"{a} {b} {rate} 1us\n" for a, b in links)


def graphml(links: list[tuple[str, str]], rate: str = "200 Gbit/s") -> str:
    """GraphML with the kind of each node and the rate of each edge."""
    nodes = dict.fromkeys(end for ends in links for end in ends)
    kind = "".join(
        f'<node id="n{i}"><data key="d0">{"gpu" if n.startswith("gpu") else "switch"}</data></node>'
        for i, n in enumerate(nodes)
    )
    number = {node: f"n{i}" for i, node in enumerate(nodes)}
    edge = "".join(
        f'<edge source="{number[a]}" target="{number[b]}"><data key="d1">{rate}</data></edge>'
        for a, b in links
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
        '<key id="d0" for="node" attr.name="kind" attr.type="string"/>'
        '<key id="d1" for="edge" attr.name="rate" attr.type="string"/>'
        f'<graph edgedefault="undirected">{kind}{edge}</graph></graphml>'
    )


def simai(links: list[tuple[str, str]], gpus: int, per_server: int = 1, nvswitches: int = 0) -> str:
    """SimAI's topology file: GPUs, then NVSwitches, then switches, by number."""
    names = dict.fromkeys(end for ends in links for end in ends)
    order = [f"gpu{g}" for g in range(gpus)] + sorted(
        (n for n in names if not n.startswith("gpu")), key=lambda n: not n.startswith("nvswitch")
    )
    number = {name: i for i, name in enumerate(order)}
    head = f"{len(order)} {per_server} {nvswitches} {len(order) - gpus - nvswitches} {len(links)} A100\n"
    switches = " ".join(str(number[name]) for name in order[gpus:]) + "\n"
    return head + switches + "".join(f"{number[a]} {number[b]} 200Gbps 0.0005ms 0\n" for a, b in links)


def network_file(folder: Path, graph: str, **more: object) -> Path:
    """A network of topology graph that reads a file of the folder."""
    path = folder / "network.yaml"
    keys = {"description": "a test", "source": "a test", "topology": "graph", **more}
    text = "".join(f"{key}: {value}\n" for key, value in keys.items())
    path.write_text(text + f"shape:\n  file: {graph}\n", encoding="utf-8")
    return path
