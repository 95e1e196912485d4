"""From resolved workloads to per-rank op traces: vocabulary, programs, schedules, routing, files."""
