# A space screened in shards, each of which is a job: snakemake screen --config space=config/spaces/x.yaml shards=8
SPACE = PLAN.config["space"]
SCREENED = f"{PLAN.results.root}/screen/{Path(SPACE).stem}.parquet"
SHARDS = range(1, PLAN.config["shards"] + 1)


rule screen:
    """Every legal point of the configured space, costed: the last shard joins them."""
    input:
        [f"{SCREENED}.shards/{shard}" for shard in SHARDS],
    output:
        touch(f"{SCREENED}.shards/all"),
    localrule: True


rule screen_shard:
    """A part of the points of the configured space."""
    input:
        SPACE,
    output:
        touch(SCREENED + ".shards/{shard}"),
    threads: 1
    params:
        code=code_checksum("moesweep.screen.run"),
        reads=PLAN.reads("cost"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep screen {SPACE} --out {SCREENED} --shard {wildcards.shard}/{PLAN.config[shards]} {params.options}"
