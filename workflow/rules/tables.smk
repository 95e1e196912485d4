rule tables:
    """The answers: small tables and the study's summary."""
    input:
        PLAN.outputs("enumerate"),
        PLAN.outputs("validate"),
        PLAN.outputs("trace"),
        PLAN.outputs("cost"),
        PLAN.outputs("traffic"),
    output:
        PLAN.outputs("tables"),
    threads: 2
    params:
        code=PLAN.code("tables"),
        reads=PLAN.reads("tables"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep tables {params.options} --planned {params.reads}"
