"""The figures by name. A new one: a function, a line here, a caption workflow/report/figures/<name>.rst."""

from collections.abc import Callable

from matplotlib.figure import Figure

from moesweep.report.evidence import Evidence
from moesweep.report.figures.against_dense import moe_against_dense
from moesweep.report.figures.ep_scaling import ep_scaling
from moesweep.report.figures.memory_parts import memory
from moesweep.report.figures.pipeline_turns import pipeline
from moesweep.report.figures.roofline import roofline
from moesweep.report.figures.skew_ratios import skew
from moesweep.report.figures.traffic_maps import traffic

FIGURES: dict[str, Callable[[Evidence], Figure]] = {
    "ep_scaling": ep_scaling,
    "moe_against_dense": moe_against_dense,
    "skew": skew,
    "memory": memory,
    "traffic": traffic,
    "roofline": roofline,
    "pipeline": pipeline,
}
