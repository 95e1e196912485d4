# Results to look at: the figures and the page. `snakemake --report` shows them with their captions.
rule figures:
    input:
        PLAN.inputs("figures"),
        PLAN.outputs("enumerate"),
        PLAN.traced("schedules"),
        PLAN.outputs("cost"),
        PLAN.outputs("traffic"),
        PLAN.outputs("tables"),
    output:
        [
            report(
                f"results/figures/{name}.{suffix}",
                caption=f"../report/figures/{name}.rst",
                category="Figures",
                labels={"figure": name.replace("_", " "), "format": suffix},
            )
            for name in PLAN.figures
            for suffix in ("svg", "png")
        ],
    params:
        libraries=PLAN.drawing_libraries,
    shell:
        "moesweep figures"


rule report:
    input:
        PLAN.inputs("report"),
        PLAN.outputs("enumerate"),
        PLAN.traced("schedules"),
        PLAN.outputs("validate"),
        PLAN.outputs("cost"),
        PLAN.outputs("traffic"),
        PLAN.outputs("tables"),
        PLAN.outputs("figures"),
    output:
        report(
            PLAN.outputs("report"),
            caption="../report/page.rst",
            category="Report",
            labels={"page": "the whole study"},
        ),
    params:
        libraries=PLAN.drawing_libraries,
    shell:
        "moesweep report"
