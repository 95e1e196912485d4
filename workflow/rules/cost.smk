rule cost:
    """Seconds, bytes and money of every workload, from the trace tables alone."""
    input:
        PLAN.outputs("enumerate"),
        PLAN.outputs("trace"),
    output:
        PLAN.outputs("cost"),
    threads: 1
    params:
        code=PLAN.code("cost"),
        reads=PLAN.reads("cost"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep cost {params.options} --planned {params.reads}"
