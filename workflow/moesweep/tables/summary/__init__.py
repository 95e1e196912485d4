"""The study's summary as text: how experts are spread, what is sent, what it costs."""

from moesweep.tables.results import Inputs
from moesweep.tables.summary.experts import ep_breakdown, expert_distribution, global_parameters
from moesweep.tables.summary.findings import costs, dense_twins, memory, parameters, refusals, validated
from moesweep.tables.summary.insights import key_insights
from moesweep.tables.summary.patterns import communication_patterns
from moesweep.tables.summary.wording import RULER, Tables

SECTIONS = (
    ("EXPERT PARALLELISM (EP) BREAKDOWN", ep_breakdown),
    ("HOW EXPERTS ARE DISTRIBUTED ACROSS GPUs", expert_distribution),
    ("COMMUNICATION PATTERNS FOR MOE", communication_patterns),
    ("KEY INSIGHTS", key_insights),
    ("MOE AGAINST DENSE", dense_twins),
    ("PARAMETERS OF THE MODELS", parameters),
    ("SECONDS, TOKENS, DOLLARS", costs),
    ("MEMORY", memory),
    ("WHAT MEGATRON WOULD REFUSE", refusals),
    ("WHAT IS VALIDATED, AND WHAT IS NOT", validated),
)
"""Title and text of each section, in order."""


def summary(inputs: Inputs, tables: Tables) -> str:
    """Return the whole document."""
    lines = [
        RULER,
        "MOE WORKLOAD EXPERT CONFIGURATION SUMMARY",
        RULER,
        "",
        *global_parameters(inputs, tables),
    ]
    for title, section in SECTIONS:
        lines += ["", RULER, title, RULER, "", *section(inputs, tables)]
    return "\n".join([*lines, "", RULER, ""])
