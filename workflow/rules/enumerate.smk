# The catalogue: the workloads that the sweep declares, resolved.
rule enumerate:
    input:
        PLAN.inputs("enumerate"),
    output:
        PLAN.outputs("enumerate"),
    params:
        workloads=PLAN.workloads_hash,
        libraries=PLAN.libraries,
    shell:
        "moesweep enumerate"
