rule manifest:
    """Every result's checksum, and what the results were made from."""
    input:
        PLAN.declared,
    output:
        PLAN.outputs("manifest"),
    threads: 1
    params:
        code=PLAN.code("manifest"),
        reads=PLAN.reads("manifest"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep manifest {params.options} --planned {params.reads}"
