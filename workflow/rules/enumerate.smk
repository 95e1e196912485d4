rule enumerate:
    """The catalogue: the workloads that the sweep declares, resolved."""
    output:
        PLAN.outputs("enumerate"),
    localrule: True
    threads: 1
    params:
        code=PLAN.code("enumerate"),
        reads=PLAN.reads("enumerate"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep enumerate {params.options} --planned {params.reads}"
