# The manifest: every result's checksum, and what the results were made from.
rule manifest:
    input:
        PLAN.inputs("manifest"),
        PLAN.declared,
    output:
        PLAN.outputs("manifest"),
    params:
        settings=PLAN.config,
    shell:
        "moesweep manifest"
