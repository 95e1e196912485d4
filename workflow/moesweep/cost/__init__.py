"""From trace tables to seconds, memory and price on A100s; the formulas are derived in docs/costs.md."""
