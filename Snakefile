# MoE Sweep: enumerate -> validate -> trace -> cost -> tables -> (figures, report, manifest).
# Rules call the command line, nothing else.
from moesweep.run.plan import plan_or_exit

PLAN = plan_or_exit("config/config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/enumerate.smk"
include: "workflow/rules/validate.smk"
include: "workflow/rules/trace.smk"
include: "workflow/rules/traffic.smk"
include: "workflow/rules/cost.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/manifest.smk"


localrules:
    all,
    enumerate,
    validate,


rule all:
    default_target: True
    input:
        PLAN.wanted,
