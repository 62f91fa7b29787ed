"""What a map of a city, a country and all land takes: hours and chips, and what bounds them.

    python experiments/at_scale.py --out experiments/results/at_scale.json

Two sources, never mixed in a row: pixels a second that `throughput.py` measured on a CPU, and the rooflines that
`pod_plan.py` made of compiled programs. Of these nothing was timed, and reading the scenes and writing the maps is left
out. Tiles do not talk to each other, so that n chips take an n-th of the time.
"""

import argparse
import math
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax.run import read_json, write_json

RESULTS = pathlib.Path(__file__).parent / "results"
AREAS = {"a city": 1e7, "Germany at 10 m": 3.6e9, "all land at 10 m": 1.5e12}
"""Pixels."""
CHIPS = ("v5e-1", "v6e-1", "h100-1")


def main() -> int:
    """Reads both files, writes the rows and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=pathlib.Path, default=RESULTS / "pod_plan.json", metavar="FILE.json")
    parser.add_argument("--throughput", type=pathlib.Path, default=RESULTS / "throughput.json", metavar="FILE.json")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    options = parser.parse_args()
    rates = [*measured(read_json(options.throughput)), *planned(read_json(options.plan))]
    rows = [rate | {"areas": hours(rate["pixels_per_second"])} for rate in rates]
    missing = [f"no CPU row: there is no {options.throughput.name} yet; `experiments/throughput.py` writes it"]
    missing = [] if options.throughput.is_file() else missing
    absent = sorted(set(CHIPS) - {rate["device"] for rate in rates})
    missing += [f"no row of {chip}: its features or prediction are not in {options.plan.name}" for chip in absent]
    write_json(options.out, {"rows": rows, "missing": missing})
    print(table(rows))
    print("\n".join(missing))
    return 0


def measured(throughput: dict[str, Any]) -> list[dict[str, Any]]:
    """The latest measured rate of whole maps by all branches, at each stride."""
    whole = [row for row in throughput.get("rows", []) if row["stretch"] == "map"]
    most = max((len(row["branches"]) for row in whole), default=0)
    latest = {row["stride"]: row for row in whole if len(row["branches"]) == most}
    return [
        {
            "device": row["device"],
            "source": f"measured, config {row['config']}, stride {stride}",
            "pixels_per_second": row["pixels_per_second"],
            "bound": f"{row['fraction_of_matmul_peak']:.0%} of the matmul peak",
        }
        for stride, row in sorted(latest.items())
    ]


def planned(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The rate of features and classifier one after the other by their rooflines, and what bounds the longer."""
    rates = []
    for chip in CHIPS:
        stretches = [plan.get(chip, {}).get(name) for name in ("features", "predict")]
        if None in stretches:
            continue
        seconds = [1.0 / row["per_second_per_chip"] for row in stretches]
        longer = seconds.index(max(seconds))
        rates.append(
            {
                "device": chip,
                "source": "roofline, at the paper's size, stride 1",
                "pixels_per_second": 1.0 / sum(seconds),
                "bound": f"{stretches[longer]['bound']} of {('features', 'prediction')[longer]}",
            }
        )
    return rates


def hours(pixels_per_second: float) -> dict[str, dict[str, float]]:
    """For each area: hours on one device, and devices that do it in a day."""
    alone = {area: pixels / pixels_per_second / 3600.0 for area, pixels in AREAS.items()}
    return {area: {"hours": value, "devices_for_a_day": math.ceil(value / 24.0)} for area, value in alone.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [f"| device | source | pixels a second | {' | '.join(AREAS)} | bound |", "|" + " --- |" * (len(AREAS) + 4)]
    for row in rows:
        areas = [
            f"{area['hours']:,.2g} h"
            if area["hours"] < 24
            else f"{area['hours']:,.0f} h, or {area['devices_for_a_day']:,} for a day"
            for area in row["areas"].values()
        ]
        cells = [row["device"], row["source"], f"{row['pixels_per_second']:,.0f}", *areas, row["bound"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
