# MoE Sweep: enumerate -> validate -> trace -> (traffic, cost) -> tables -> (network, figures, report, manifest).
# Rules call the command line, nothing else. Their params hold digests of what a stage is made from, which is
# what reruns it; options that depend on the output are no digest, and Snakemake does not compare them.
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

from moesweep.run.plan import CHUNK
from moesweep.run.snakefile import has_configuration, planned
from moesweep.store.provenance import code_checksum

if has_configuration():

    configfile: "config/config.yaml"


PLAN = planned(workflow, config)


report: "workflow/report/workflow.rst"


include: "workflow/rules/enumerate.smk"
include: "workflow/rules/validate.smk"
include: "workflow/rules/trace.smk"
include: "workflow/rules/traffic.smk"
include: "workflow/rules/cost.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/network.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/manifest.smk"


if "space" in PLAN.config:

    include: "workflow/rules/screen.smk"


rule all:
    """Everything that the configuration asks for."""
    default_target: True
    input:
        PLAN.wanted,
    localrule: True
