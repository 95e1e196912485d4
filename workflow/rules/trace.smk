# The op traces, a few workloads a job. A job depends on its own workloads (params) and on the code,
# and only waits for the catalogue and the findings.
for chunk, ids in PLAN.trace_jobs.items():

    rule:
        name:
            f"trace_{chunk}"
        input:
            PLAN.inputs("trace"),
            order=ancient(PLAN.outputs("validate")),
        output:
            PLAN.trace_outputs(ids),
        params:
            ids=ids,
            workloads=[PLAN.described[id_] for id_ in ids],
        shell:
            "moesweep trace --workload {params.ids}"
