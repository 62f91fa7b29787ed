"""Time against length and against batch: which shapes, and their picture."""

import pathlib

from bdgf_kernels.selective_scan.shapes import Shape

CPU = {
    "length": [Shape(16, length, 64, 16, "a series") for length in (16, 49, 121, 289)],
    "batch": [Shape(b, 49, 64, 16, "a series") for b in (4, 16, 64, 128)],
}
ACCELERATOR = {
    "length": [Shape(512, length, 128, 16, "a series") for length in (49, 121, 289, 1024)],
    "batch": [Shape(b, 121, 128, 16, "a series") for b in (64, 256, 1024, 4096)],
}


def of_platform(platform: str) -> dict[str, list[Shape]]:
    """The shapes of both series, by the axis that grows, in sizes that suit a CPU or an accelerator."""
    return CPU if platform == "cpu" else ACCELERATOR


def draw(rows: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Draws a panel for each series: forward dashed, forward+backward solid, a colour an implementation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(rows), figsize=(9, 3.6), layout="constrained", sharey=True)
    everything = [row for measured in rows.values() for row in measured]
    names, passes = (list(dict.fromkeys(row[column] for row in everything)) for column in ("implementation", "pass"))
    for panel, (axis, measured), place in zip(panels, rows.items(), (1, 0)):
        for name, color in zip(names, pyplot.rcParams["axes.prop_cycle"].by_key()["color"]):
            for kind, style in zip(passes, ("--", "-")):
                mine = [row for row in measured if (row["implementation"], row["pass"]) == (name, kind)]
                at = [int(row["shape"].split("x")[place]) for row in mine]
                label = name if style == "-" else None
                panel.plot(at, [row["median_ms"] for row in mine], style, marker=".", color=color, label=label)
        sizes = measured[0]["shape"].split("x")
        sizes[place] = axis
        panel.set(xscale="log", yscale="log", xlabel=axis, title=" × ".join(sizes))
        ticks = sorted({int(row["shape"].split("x")[place]) for row in measured})
        panel.set_xticks(ticks, ticks)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ms (dashed: forward alone)")
    panels[0].legend(fontsize="small")
    figure.suptitle(f"selective scan, {everything[0]['device']}", fontsize="medium")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
