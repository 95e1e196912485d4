# Findings about the workloads; errors stop the run while Snakemake parses, warnings are written down.
rule validate:
    input:
        PLAN.inputs("validate"),
    output:
        PLAN.outputs("validate"),
    params:
        findings=PLAN.findings_hash,
        libraries=PLAN.libraries,
    shell:
        "moesweep validate"
