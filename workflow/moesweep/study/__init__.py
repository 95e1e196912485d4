"""What is asked: sweeps, run lists and the catalogue, resolved into workloads and judged."""
