# The answers: small tables and the study's summary.
rule tables:
    input:
        PLAN.inputs("tables"),
        PLAN.outputs("enumerate"),
        PLAN.outputs("validate"),
        PLAN.outputs("cost"),
        PLAN.outputs("traffic"),
        PLAN.uneven,
    output:
        PLAN.outputs("tables"),
    params:
        libraries=PLAN.libraries,
    shell:
        "moesweep tables"
