# The catalogue: the workloads that the sweep declares, resolved.
rule enumerate:
    input:
        PLAN.inputs("enumerate"),
    output:
        PLAN.outputs("enumerate"),
    params:
        workloads=PLAN.fingerprint,
    shell:
        "moesweep enumerate"
