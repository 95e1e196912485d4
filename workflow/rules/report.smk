rule figures:
    """The figures. `snakemake --report` shows them with their captions."""
    input:
        PLAN.outputs("enumerate"),
        PLAN.outputs("trace"),
        PLAN.outputs("cost"),
        PLAN.outputs("traffic"),
        PLAN.outputs("tables"),
        PLAN.outputs("network"),
    output:
        [
            report(
                str(PLAN.results.figure(name, "svg")),
                caption=f"../report/figures/{name}.rst",
                category="Figures",
                labels={"figure": name.replace("_", " ")},
            )
            for name in PLAN.figures
        ],
    threads: 2
    params:
        code=PLAN.code("figures"),
        reads=PLAN.reads("figures"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep figures {params.options} --planned {params.reads}"


rule png:
    """A figure as PNG, for whoever asks for the file."""
    input:
        str(PLAN.results.figure("{figure}", "svg")),
    output:
        str(PLAN.results.figure("{figure}", "png")),
    wildcard_constraints:
        figure="|".join(PLAN.figures),
    threads: 1
    params:
        code=PLAN.code("figures"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep figures {params.options} --png {wildcards.figure}"


rule report:
    """The page that shows it all."""
    input:
        PLAN.outputs("enumerate"),
        PLAN.outputs("trace"),
        PLAN.outputs("validate"),
        PLAN.outputs("cost"),
        PLAN.outputs("traffic"),
        PLAN.outputs("tables"),
        PLAN.outputs("network"),
        PLAN.outputs("figures"),
    output:
        report(
            PLAN.outputs("report"),
            caption="../report/page.rst",
            category="Report",
            labels={"page": "the whole study"},
        ),
    threads: 2
    params:
        code=PLAN.code("report"),
        reads=PLAN.reads("report"),
        options=lambda wildcards, output: PLAN.options,
    shell:
        "moesweep report {params.options} --planned {params.reads}"
