# The answers: small tables and the study's summary.
rule tables:
    input:
        PLAN.inputs("tables"),
        PLAN.outputs("enumerate"),
        PLAN.outputs("validate"),
        PLAN.outputs("cost"),
    output:
        PLAN.outputs("tables"),
    shell:
        "moesweep tables"
