"""Graphs from strangers: GraphML, lists of edges, and SimAI's topology files, read without trust.

A node is a GPU, an NVSwitch or a switch: by its datum `kind` (GraphML), else by how its name begins, `gpu`,
`nvswitch` or anything else. GPUs are numbered by the numbers in their names, else as they come. A link has
two ways.
"""

import re
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from xml.parsers import expat

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.quantities import QuantityError, parse_quantity
from moesweep.edge.textfile import read_text

MAX_BYTES = 64 << 20
MAX_NODES = 200_000
MAX_LINKS = 2_000_000
MAX_DEPTH = 64
KINDS = ("gpu", "nvswitch", "switch")

_SIMAI_RATE = re.compile(r"([0-9.]+)([KMGT]?)bps")
_SIMAI_TIME = re.compile(r"([0-9.]+)(ns|us|ms|s)")


@dataclass(frozen=True)
class Link:
    """A two-way link between two named nodes, of rate 0 where the file gives none; `place` says where."""

    ends: tuple[str, str]
    bytes_per_second: float
    place: str


@dataclass(frozen=True)
class GraphFile:
    """What a graph's file says: kind of each node in the file's order, and the links."""

    file: str
    kinds: dict[str, str]
    links: list[Link]


def read_graph(path: Path, name: str) -> GraphFile:
    """Return a graph. Raises BadInput with all faults of its form; `name` is the file as problems show it."""
    text = read_text(path, name, MAX_BYTES)
    reader = {".graphml": _graphml, ".topo": _simai, ".edges": _edges}[path.suffix]
    problems: list[Problem] = []
    graph = reader(text, name, problems)
    if len(graph.kinds) > MAX_NODES or len(graph.links) > MAX_LINKS:
        message = (
            f"{len(graph.kinds)} nodes and {len(graph.links)} links are more than {MAX_NODES} and {MAX_LINKS}"
        )
        problems.append(Problem(name, "", "graph_size", "", message))
    if not problems and "gpu" not in graph.kinds.values():
        message = "holds no GPU: none has the kind gpu, and no name begins with gpu"
        problems.append(Problem(name, "", "gpus", "", message, "name GPUs gpu0, gpu1, ..."))
    if problems:
        raise BadInput(problems)
    return graph


def kind_by_name(node: str) -> str:
    """Return the kind that a node's name says."""
    return next((kind for kind in KINDS[:2] if node.lower().startswith(kind)), "switch")


def _edges(text: str, file: str, problems: list[Problem]) -> GraphFile:
    """Read lines `a b [rate [latency]]`; what follows # is a comment."""
    kinds: dict[str, str] = {}
    links = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if not 2 <= len(words) <= 4:
            message = f"{shown(line)} is no line of two nodes, a rate and a latency"
            problems.append(
                Problem(file, f"line {number}", "edge", line, message, "such as gpu0 leaf0 200Gbit/s")
            )
            continue
        for node in words[:2]:
            kinds.setdefault(node, kind_by_name(node))
        rate = _quantity(words[2], file, f"line {number}", problems) if len(words) > 2 else 0.0
        links.append(Link((words[0], words[1]), rate, f"line {number}"))
    return GraphFile(file, kinds, links)


def _quantity(text: str, file: str, place: str, problems: list[Problem]) -> float:
    """Return a rate, 0 with a problem where it is none or not above 0."""
    try:
        rate = parse_quantity(text, "byte/second")
    except QuantityError as error:
        problems.append(Problem(file, place, "quantity", text, error.message, error.suggestion))
        return 0.0
    if rate == 0:
        message = "a link of 0 bytes a second carries nothing"
        problems.append(Problem(file, place, "positive", text, message, "such as 200 Gbit/s"))
    return rate


def _simai(text: str, file: str, problems: list[Problem]) -> GraphFile:
    """Read SimAI's topology: a line of counts, the switches' numbers, then the links, one a line."""
    lines = [line.split() for line in text.splitlines()]
    head, listed = (lines[at] if len(lines) > at else [] for at in range(2))
    if len(head) != 6 or not all(word.isdecimal() and len(word) < 10 for word in head[:5]):
        message = "line 1 is not `nodes gpus_per_server nvswitches switches links gpu_type`"
        problems.append(Problem(file, "line 1", "header", "", message, "such as 30 8 2 12 64 H100"))
        return GraphFile(file, {}, [])
    nodes, _, nvswitches, switches, count = map(int, head[:5])
    kinds = {str(node): "gpu" for node in range(min(nodes, MAX_NODES + 1))}
    for place, node in enumerate(listed):
        kinds[node] = "nvswitch" if place < nvswitches else "switch"
    if len(listed) != nvswitches + switches or len(kinds) != min(nodes, MAX_NODES + 1):
        message = (
            f"line 2 names {len(listed)} switches, where line 1 counts {nvswitches + switches} of {nodes}"
        )
        problems.append(Problem(file, "line 2", "switches", "", message))
    rows = [(number, words) for number, words in enumerate(lines[2:], 3) if words]
    if len(rows) != count:
        message = f"{len(rows)} links follow, where line 1 counts {count}"
        problems.append(Problem(file, "line 1", "links", str(count), message))
    links = [_simai_link(words, file, number, kinds, problems) for number, words in rows]
    return GraphFile(file, kinds, links)


def _simai_link(
    words: list[str], file: str, number: int, kinds: dict[str, str], problems: list[Problem]
) -> Link:
    place = f"line {number}"
    rate = _SIMAI_RATE.fullmatch(words[2]) if len(words) == 5 else None
    if rate is None or not _SIMAI_TIME.fullmatch(words[3]) or not {words[0], words[1]} <= kinds.keys():
        message = f"{shown(' '.join(words))} is no link between two of the nodes"
        problems.append(Problem(file, place, "link", "", message, "such as 0 16 400Gbps 0.0005ms 0"))
        return Link(("", ""), 0.0, place)
    scale = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[rate[2]]
    bits = float(rate[1]) * scale if rate[1].count(".") < 2 and rate[1] != "." else 0.0
    if bits == 0:
        problems.append(
            Problem(file, place, "positive", words[2], "a link of 0 bits a second carries nothing")
        )
    if isinf(bits):
        message = f"{shown(words[2])} is too large for a number"
        problems.append(Problem(file, place, "quantity", words[2], message, "such as 400Gbps"))
    return Link((words[0], words[1]), bits / 8, place)


def _graphml(text: str, file: str, problems: list[Problem]) -> GraphFile:
    """Read GraphML's nodes and edges with their data `kind`, `bytes_per_second` (or `rate`)."""
    found = _GraphML(file, problems)
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = found.start, found.end
    parser.CharacterDataHandler = found.characters
    # A document type is where entities are declared: graphs need none.
    parser.StartDoctypeDeclHandler = found.doctype
    parser.buffer_text = True
    found.parser = parser
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        message = f"not XML: {expat.ErrorString(error.code)}"
        problems.append(Problem(file, f"line {error.lineno}", "xml", "", message))
    return GraphFile(file, found.kinds, found.links)


class _GraphML:
    """Nodes and edges of a GraphML document, as the parser meets them."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        self.kinds: dict[str, str] = {}
        self.links: list[Link] = []
        self.keys: dict[str, str] = {}
        self.data: dict[str, str] = {}
        self.open: list[str] = []
        self.reading = ""
        self.ends = ("", "")
        self.node = ""
        self.parser: expat.XMLParserType | None = None

    @property
    def _line(self) -> str:
        return f"line {self.parser.CurrentLineNumber}" if self.parser is not None else ""

    def doctype(self, *_: object) -> None:
        """Refuse a document type."""
        raise BadInput(
            [Problem(self.file, self._line, "doctype", "", "declares a document type", "remove it")]
        )

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        self.open.append(tag := tag.rpartition(":")[2])
        if len(self.open) > MAX_DEPTH or len(self.kinds) > MAX_NODES or len(self.links) > MAX_LINKS:
            raise BadInput(
                [Problem(self.file, self._line, "graph_size", "", "nested too deep, or too large")]
            )
        if tag == "key":
            self.keys[attributes.get("id", "")] = attributes.get("attr.name", "")
        elif tag in ("node", "edge"):
            self.data = {}
            self.node = attributes.get("id", "")
            self.ends = attributes.get("source", ""), attributes.get("target", "")
        elif tag == "data":
            self.reading = self.keys.get(attributes.get("key", ""), attributes.get("key", ""))
            self.data[self.reading] = ""

    def characters(self, text: str) -> None:
        """Take a datum's text."""
        if self.reading:
            self.data[self.reading] += text.strip()

    def end(self, tag: str) -> None:
        """End an element."""
        self.open.pop()
        tag = tag.rpartition(":")[2]
        if tag == "data":
            self.reading = ""
        elif tag == "node":
            self._end_node()
        elif tag == "edge":
            text = self.data.get("bytes_per_second") or self.data.get("rate") or ""
            rate = _quantity(text, self.file, self._line, self.problems) if text else 0.0
            self.links.append(Link(self.ends, rate, self._line))

    def _end_node(self) -> None:
        kind = self.data.get("kind") or kind_by_name(self.node)
        if kind not in KINDS:
            message = f"{shown(kind)} is no kind of node"
            self.problems.append(
                Problem(self.file, self._line, "kind", kind, message, f"one of {', '.join(KINDS)}")
            )
        if self.node in self.kinds:
            message = f"the node {shown(self.node)} is there twice"
            self.problems.append(Problem(self.file, self._line, "twice", self.node, message))
        self.kinds[self.node] = kind
