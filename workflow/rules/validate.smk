# Findings about the workloads; errors stop the run while Snakemake parses, warnings are written down.
rule validate:
    input:
        PLAN.inputs("validate"),
    output:
        PLAN.outputs("validate"),
    params:
        node=PLAN.gpus_per_node,
    shell:
        "moesweep validate"
