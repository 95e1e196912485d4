"""Any workloads on any constants: programs, fullest ranks, costs. The only way to seconds."""
