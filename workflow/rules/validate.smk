rule validate:
    """Findings about the workloads: errors stop the run while Snakemake parses, warnings are written down."""
    output:
        PLAN.outputs("validate"),
    localrule: True
    threads: 1
    params:
        code=PLAN.code("validate"),
        reads=PLAN.reads("validate"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep validate {params.options} --planned {params.reads}"
