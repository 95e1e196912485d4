"""The figures' files: SVG and PNG, the same bytes from the same results."""

import matplotlib as mpl

from moesweep.report.evidence import Evidence
from moesweep.report.figures.gallery import FIGURES
from moesweep.report.figures.style import RC
from moesweep.store.layout import Results
from moesweep.store.tablefile import whole

PNG_DOTS_PER_INCH = 130


def write_figures(results: Results) -> None:
    """Write figures/<name>.svg and .png; raise BadInput on unusable results."""
    evidence = Evidence(results)
    # Before the first figure is written, not when one is drawn that needs them.
    evidence.check()
    for name, draw in FIGURES.items():
        with mpl.rc_context():
            # Nobody's own matplotlibrc has a say.
            mpl.rcdefaults()
            mpl.rcParams.update(RC | {"svg.hashsalt": name})
            drawn = draw(evidence)
            with whole(results.figure(name, "svg")) as partial:
                drawn.savefig(partial, format="svg", metadata={"Date": None, "Creator": None, "Title": name})
            # Placed once; finding places for all text takes longer than drawing.
            drawn.set_layout_engine("none")
            with whole(results.figure(name, "png")) as partial:
                # A page behind it: PNGs are pasted into all kinds of places.
                drawn.savefig(
                    partial,
                    format="png",
                    dpi=PNG_DOTS_PER_INCH,
                    facecolor="white",
                    metadata={"Software": None},
                )
