"""What Snakemake and the command line need to run the stages: the plan, the runner, cleaning up."""
