"""Answers to look at: figures and results/report.html (docs/report.md)."""
