"""Results to damage, the commands that read each, and code to draw into figures."""

WORKLOAD = "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe"

RESULTS = {
    "results/workloads.parquet": (
        "cost",
        "tables",
        "report",
        "explain",
        "diff",
        "export",
        "network",
        "whatif",
    ),
    "results/validation.parquet": ("tables", "report"),
    "results/costs.parquet": ("tables", "figures", "report", "diff", "whatif"),
    "results/costs/sensitivity.parquet": ("report",),
    "results/traffic/links.parquet": ("tables", "report"),
    "results/tables/ep_claims.parquet": ("report",),
    "results/figures/*.svg": ("report", "archive"),
    "results/costs/ops/*/*.parquet": ("tables", "export"),
    "results/traces/programs/*/*.parquet": ("cost", "traffic"),
    "results/traces/ranks/*/*.parquet": ("traffic",),
    "archive/*.parquet": ("verify",),
}

DRAWN = (
    "<script>alert(1)</script>",
    '<image href="http://example.org/x.png"/>',
    '<g onload="alert(1)"/>',
    '<a href="javascript:alert(1)"><text>x</text></a>',
    "<style>@import 'http://example.org/x.css';</style>",
    "<foreignObject><body/></foreignObject>",
    '<use href="/etc/passwd#x"/>',
    "<",
    "&xxe;",
)


def arguments(command: str) -> tuple[str, ...]:
    """Return a command with what it needs, on the results of the project that it runs in."""
    more = {
        "explain": (WORKLOAD, "iteration_seconds"),
        "diff": ("results", "results"),
        "export": ("--format", "perfetto", "--out", "exported", "--workload", WORKLOAD),
        "archive": ("--out", "archived"),
        "verify": ("archive",),
        "whatif": ("ep=4", "--workload", WORKLOAD),
        "network": ("--topology", "rail-only"),
    }
    return (command, *more.get(command, ()))
