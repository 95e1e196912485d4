# A job depends on its own workloads (params) and on the code, not on the catalogue, which changes with every
# workload. Nor does it wait for it, as ancient() would have it: of a job that waits for another which runs,
# Snakemake (9.27) no longer asks whether its own params changed.
rule trace:
    """The op traces of a few workloads; declared is the index of their files."""
    output:
        str(PLAN.results.trace_index("{chunk}")),
    wildcard_constraints:
        chunk=CHUNK,
    # A cluster takes several of these as one job; one machine does not care.
    group:
        "trace"
    threads: 1
    params:
        code=PLAN.code("trace"),
        workloads=lambda wildcards: PLAN.chunk(wildcards.chunk),
        options=lambda wildcards, output: PLAN.trace_options,
        named=lambda wildcards, output: PLAN.named(wildcards.chunk),
    shell:
        "moesweep trace {params.options} --chunk {wildcards.chunk}  # {params.named}"


rule traces:
    """All op traces."""
    input:
        PLAN.outputs("trace"),
    localrule: True
