rule traffic:
    """Who sends how much to whom: node matrices of every workload, and which links carry what."""
    input:
        PLAN.outputs("enumerate"),
        PLAN.outputs("trace"),
    output:
        PLAN.outputs("traffic"),
    threads: 1
    params:
        code=PLAN.code("traffic"),
        reads=PLAN.reads("traffic"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep traffic {params.options} --planned {params.reads}"
