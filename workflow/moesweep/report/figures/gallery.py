"""The figures by name, as the page shows them. A new one: a module, a line here, and its caption.

The caption is workflow/report/figures/<name>.rst.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesweep.report.evidence import Evidence
from moesweep.report.figures import (
    against_dense,
    ep_scaling,
    memory_parts,
    option_ratios,
    pipeline_turns,
    roofline,
    skew_ratios,
    topologies,
    traffic_maps,
)
from moesweep.report.figures.style import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure: its title on the page, what it shows of the results, and how that is drawn."""

    title: str
    shown: Callable[[Evidence], Shown]
    draw: "Callable[..., Figure]"

    def __call__(self, evidence: Evidence) -> "Figure":
        """Return the figure of some results."""
        return self.draw(**self.shown(evidence))


OWN_SECTIONS = ("options", "topologies")
"""Figures that the page shows in the section that they are about."""

FIGURES = {
    "ep_scaling": Drawing("What a higher ep does, all else equal", ep_scaling.shown, ep_scaling.draw),
    "options": Drawing("What each option does, all else equal", option_ratios.shown, option_ratios.draw),
    "topologies": Drawing("What networks do to MoE and to dense", topologies.shown, topologies.draw),
    "moe_against_dense": Drawing("MoE against dense", against_dense.shown, against_dense.draw),
    "skew": Drawing("What uneven routing costs", skew_ratios.shown, skew_ratios.draw),
    "memory": Drawing("What fills the memory", memory_parts.shown, memory_parts.draw),
    "traffic": Drawing("Who talks to whom", traffic_maps.shown, traffic_maps.draw),
    "pipeline": Drawing("How the stages take turns", pipeline_turns.shown, pipeline_turns.draw),
    "roofline": Drawing("How close ops come to what limits them", roofline.shown, roofline.draw),
}
