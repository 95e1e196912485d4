# Seconds, bytes and money of every workload, from the trace tables alone.
rule cost:
    input:
        PLAN.inputs("cost"),
        PLAN.outputs("enumerate"),
        PLAN.traced("programs", "routing"),
    output:
        PLAN.outputs("cost"),
    params:
        libraries=PLAN.libraries,
    shell:
        "moesweep cost"
