"""What a sweep's file claims of expert parallelism, so that the tables hold it against the comparisons."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.schema import check
from moesweep.store.tablefile import facts_of
from moesweep.study.forms import Schema

QUANTITIES = (
    "all_to_all_comm_bytes",
    "all_to_all_wire_bytes",
    "all_to_all_seconds",
    "expert_flops",
    "expert_gemm_seconds",
    "expert_sort_seconds",
    "edp_comm_seconds",
    "compute_seconds",
    "iteration_seconds",
    "tokens_per_second_per_gpu",
    "state_bytes",
    "activations_bytes",
    "peak_memory_bytes",
    "experts_per_ep_rank",
)
"""What a claim may be about: what a comparison of degrees of ep measures (table ep_scaling).

`all_to_all_` and `expert_` are of the mean rank, one iteration.
"""

FACT = "claims"
"""What the catalogue's file calls the claims in its metadata."""

DIRECTIONS = ("rises", "falls")


_LINE: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*(?![\s\S])",
    "x-form": "one line of text",
}
_CLAIM: Schema = {
    "description": "One claim, and the quantities that it is about.",
    "type": "object",
    "properties": {
        "claim": {"description": "The claim in words.", **_LINE},
        "by_source": {
            "description": "Whether the source that the sweep follows makes it; otherwise the sweep does.",
            "type": "boolean",
            "default": False,
        },
        "under": {"description": "Words above it, and above its neighbours that say the same.", **_LINE},
        **{
            word: {
                "description": f"What {word[:-1]}s with rising ep if it holds: columns of table ep_scaling.",
                "type": "array",
                "items": {"description": "A quantity.", "type": "string", "enum": list(QUANTITIES)},
                "minItems": 1,
                "maxItems": len(QUANTITIES),
                "uniqueItems": True,
            }
            for word in DIRECTIONS
        },
    },
    "required": ["claim"],
    "anyOf": [{"required": [word]} for word in DIRECTIONS],
    "x-need": "the claim is about nothing: give rises, falls or both",
    "additionalProperties": False,
}
CLAIMS: Schema = {
    "description": "What is claimed of expert parallelism: table ep_claims and the summary hold it against "
    "the workloads that differ in ep alone. Left out: they say what ep does, and judge nothing.",
    "type": "array",
    "items": _CLAIM,
    "minItems": 1,
    "maxItems": 100,
}
"""The form of a sweep's claims."""


@dataclass(frozen=True)
class Claim:
    """One claim: what the QUANTITIES of `rises` and `falls` do as ep rises, if it holds.

    by_source  whether the source that the sweep follows makes it; otherwise the sweep itself does
    under      words that the summary prints above it and its neighbours with the same ones; empty for none
    """

    claim: str
    by_source: bool = False
    under: str = ""
    rises: tuple[str, ...] = ()
    falls: tuple[str, ...] = ()

    @property
    def moves(self) -> Iterator[tuple[str, str]]:
        """Each quantity with what it does if the claim holds."""
        for direction in DIRECTIONS:
            for quantity in getattr(self, direction):
                yield quantity, direction

    @property
    def quantities(self) -> list[str]:
        """What it is about."""
        return [quantity for quantity, _ in self.moves]


def claims_of(written: Iterable[dict[str, Any]]) -> tuple[Claim, ...]:
    """Return claims as a file writes them, once its schema has nothing against them."""
    return tuple(Claim(**each | {key: tuple(each.get(key, ())) for key in DIRECTIONS}) for each in written)


def contradictions(claims: Iterable[Claim], file: str) -> list[Problem]:
    """Return a problem for each claim that is made twice, and each of a quantity that rises and falls."""
    problems, first = [], dict[str, int]()
    for number, each in enumerate(claims):
        path = f"claims[{number}]"
        if first.setdefault(each.claim, number) != number:
            message = f"is claims[{first[each.claim]}] already"
            advice = "say all that it is about in one of them"
            problems.append(Problem(file, f"{path}.claim", "duplicate", shown(each.claim), message, advice))
        for at, quantity in enumerate(each.falls):
            if quantity in each.rises:
                message, advice = f"{quantity} cannot both rise and fall", "name it once"
                problems.append(
                    Problem(file, f"{path}.falls[{at}]", "contradiction", quantity, message, advice)
                )
    return problems


def as_written(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """Return claims as a file writes them."""
    told = (asdict(each) | {key: list(getattr(each, key)) for key in DIRECTIONS} for each in claims)
    return [{key: value for key, value in each.items() if value} for each in told]


def as_facts(claims: Sequence[Claim]) -> dict[str, str]:
    """Return what the catalogue's file says of claims in its metadata: nothing where there are none."""
    return {FACT: json.dumps(as_written(claims), ensure_ascii=False)} if claims else {}


def read_claims(catalogue: Path) -> tuple[Claim, ...]:
    """Return the claims that a catalogue's file tells; raise BadInput if no sweep can make them."""
    text = facts_of(catalogue).get(f"moesweep.{FACT}", "[]")
    try:
        told = json.loads(text)
    except ValueError:
        told = text
    problems = [] if told == [] else check(told, "sweep", str(catalogue), key="claims", prefix="claims")
    if problems:
        raise BadInput(problems)
    found = claims_of(told)
    if problems := contradictions(found, str(catalogue)):
        raise BadInput(problems)
    return found
