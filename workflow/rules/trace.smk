# The op traces, a few workloads a job. A job depends on its own workloads (params) and on the code, not on
# the catalogue, which changes with every workload. Nor does it wait for it, as ancient() would have it: of a
# job that waits for another which runs, Snakemake (9.27) no longer asks whether its own params changed.
for chunk, ids in PLAN.trace_jobs.items():

    rule:
        name:
            f"trace_{chunk}"
        input:
            PLAN.inputs("trace"),
        output:
            PLAN.trace_outputs(ids),
        # A cluster takes several of these as one job; one machine does not care.
        group:
            "trace"
        params:
            ids=ids,
            workloads=[PLAN.described[id_] for id_ in ids],
            libraries=PLAN.libraries,
        shell:
            "moesweep trace --validated --workload {params.ids}"
