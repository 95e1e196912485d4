rule network:
    """What each network of the catalogue does to every workload."""
    input:
        PLAN.outputs("enumerate"),
    output:
        PLAN.outputs("network"),
    threads: 1
    params:
        code=PLAN.code("network"),
        reads=PLAN.reads("network"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep network {params.options} --planned {params.reads}"
