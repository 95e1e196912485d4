# Who sends how much to whom: node matrices of every workload, and which links carry what.
rule traffic:
    input:
        PLAN.inputs("traffic"),
        PLAN.outputs("enumerate"),
        PLAN.traced("programs", "groups", "ranks", "routing"),
        PLAN.uneven,
    output:
        PLAN.outputs("traffic"),
    params:
        node=PLAN.gpus_per_node,
        libraries=PLAN.libraries,
    shell:
        "moesweep traffic"
