"""Time against length and against batch, measured and drawn: `python -m benchmarks.selective_scan --plot`."""

import json
import pathlib
from collections.abc import Callable, Iterable

import jax
from bdgf_kernels.selective_scan.shapes import Shape

from benchmarks import selective_scan as benchmark

CPU = {
    "length": [Shape(16, length, 64, 16, "a series") for length in (16, 49, 121, 289)],
    "batch": [Shape(b, 49, 64, 16, "a series") for b in (4, 16, 64, 128)],
}
ACCELERATOR = {
    "length": [Shape(512, length, 128, 16, "a series") for length in (49, 121, 289, 1024)],
    "batch": [Shape(b, 121, 128, 16, "a series") for b in (64, 256, 1024, 4096)],
}


def main(measure: Callable[[str, Shape], Iterable[dict]], results: pathlib.Path) -> None:
    """Measures both series, and writes their rows and the figure."""
    series = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    rows = {axis: [] for axis in series}
    for axis, shapes in series.items():
        for shape in shapes:
            new = list(measure("x".join(map(str, shape[:4])), shape))
            print(benchmark.table(new), flush=True)
            rows[axis] += new
    results.mkdir(parents=True, exist_ok=True)
    everything = [row for axis in series for row in rows[axis]]
    benchmark.file(results, "_series.json").write_text(json.dumps(everything, indent=2) + "\n")
    draw(rows, benchmark.file(results, ".png"))


def draw(rows: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Draws a panel for each series: forward dashed, forward+backward solid, a colour an implementation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(rows), figsize=(9, 3.6), layout="constrained", sharey=True)
    names = list(dict.fromkeys(row["implementation"] for x in rows.values() for row in x))
    for panel, (axis, measured), place in zip(panels, rows.items(), (1, 0)):
        for name, color in zip(names, pyplot.rcParams["axes.prop_cycle"].by_key()["color"]):
            for kind, style in zip(benchmark.PASSES, ("--", "-")):
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
    device = next(row["device"] for x in rows.values() for row in x)
    figure.suptitle(f"selective scan, {device}", fontsize="medium")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit("Run it as: python -m benchmarks.selective_scan --plot")
