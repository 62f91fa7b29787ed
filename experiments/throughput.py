"""Where the time goes: both trainings, feature extraction and prediction, by stretch, by branch and by stride.

    python experiments/throughput.py --config demo --out experiments/results/throughput.json

`--config demo:paper --own` times the method as its paper has it, with a patch of 11×11 for each pixel. With `--accuracy
experiments/results/ablation.json`, on a scene that ablation.py was run on, each rate stands beside the accuracy that it
comes with.

Speed does not depend on what was learnt, so networks are taken as they are initialised. Every program is compiled
anew, then timed several times; rows carry the median and the quartiles' distance. FLOPs are those that the compiler
counts in the compiled program; it counts the body of a loop once, so that draws of noise are multiplied here, and the
selective scan's chunks are not: FLOPs of the Mamba branch are a lower bound. Two peaks of float32 matrix products are
timed on the same devices at the beginning and at the end: of large square ones, and of narrow ones, many tokens by the
branches' width, which is what the branches are made of. A training's rate is that of its compiled steps on resident
inputs; `loop_overhead` is how much longer a step takes in the whole loop, with its batches, logs and progress. New rows
are appended to the file, so that what a change was worth can be read off it; `--plot` draws the latest commit's.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, mapping, networks
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.prediction import predict_scene
from bdgf_jax.fitting import Task, pretraining_task, training_task
from bdgf_jax.run import Run, open_run, read_json, write_json
from bdgf_jax.training.loop import IN_FLIGHT, fit, steps_together
from bdgf_jax.training.mesh import make_mesh
from bdgf_jax.training.optimiser import make_optimiser
from bdgf_jax.training.placement import Placement
from bdgf_jax.training.state import initial_state
from bdgf_jax.training.step import make_steps
from experiments.ablation import CHANGES
from experiments.real_scenes import configured

ROOT = pathlib.Path(__file__).parent.parent
STRIDES = (1, 3, 5, 7)
BLOCK = 96  # side of the block of pixels that is predicted


def main() -> int:
    """Times every stretch, appends the rows and prints them; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument(
        "--accuracy", type=pathlib.Path, metavar="FILE.json", help="what ablation.py found on this scene, for the OA"
    )
    parser.add_argument("--own", action="store_true", help="only the patch and centre of the config, not every stride")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each program (7)")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.png", help="draw the rows of this commit")
    options, overrides = parser.parse_known_args()
    try:
        config = configuration.load(options.config, [*overrides, "--config.features.source=untrained"])
        with tempfile.TemporaryDirectory() as folder:
            jax.config.update("jax_compilation_cache_dir", folder)  # what is compiled to be counted is then timed
            run = open_run(config, pathlib.Path(folder) / "run")
            rows = measure(run, options.config, options.repeats, own=options.own)
    except InputError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 2
    if options.accuracy:
        name = pathlib.Path(config.scene.folder).name or config.scene.name
        records = [record for record in read_json(options.accuracy)["scenes"] if record["scene"] == name]
        if not records:
            print(f"throughput: {options.accuracy} holds nothing of the scene {name}", file=sys.stderr)
            return 2
        rows = [with_accuracy(row, records[0], config.classifier.centre) for row in rows]
    rows = [*(read_json(options.out) or {"rows": []})["rows"], *rows]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"rows": rows})
    here = [row for row in rows if row["commit"] == commit()]
    print(table(here))
    if options.plot:
        plot(here, options.plot)
    return 0


def measure(run: Run, name: str, repeats: int, *, own: bool = False) -> list[dict[str, Any]]:
    """One row for each stretch and variant, all timed in this process.

    Args:
      run: of the scene.
      name: of its config.
      repeats: timings of each program.
      own: whether the classifier is only timed as the config has it, and not at every stride of `ablation.py`.
    """
    width, tokens = run.config.classifier.width, 25 * run.config.predict.batch_size
    square, narrow = (2048, 2048, 2048), (tokens, width, width)
    before = [matmul_peak(repeats, *shape) for shape in (square, narrow)]
    guidance = extraction.features(run)
    rows = []
    for row in stretches(run, guidance, repeats, own=own):
        rows.append(row)
        print(brief(row), flush=True)
    guides = [row for row in rows if row["stretch"] in ("features", "context")]
    rows += [whole_map(row, guides) for row in rows if row["stretch"] == "predict"]
    peak, narrow_peak = (max(first, matmul_peak(repeats, *shape)) for first, shape in zip(before, (square, narrow)))
    device = f"{jax.devices()[0].device_kind or platform.processor()} x{jax.device_count()}"
    shared = {"commit": commit(), "config": name, "device": device, "jax": jax.__version__}
    shared |= {"matmul_peak": peak, "narrow_matmul_peak": narrow_peak}
    fractions = lambda row: {
        "fraction_of_matmul_peak": row.get("flops_per_second", 0.0) / peak,
        "fraction_of_narrow_matmul_peak": row.get("flops_per_second", 0.0) / narrow_peak,
    }
    return [shared | row | fractions(row) for row in rows]


def stretches(run: Run, guidance: tuple[np.ndarray, ...], repeats: int, *, own: bool) -> Iterator[dict[str, Any]]:
    """The rows of guidance, trainings and predictions; those of some branches alone at the config's own stride."""
    yield feature_extraction(run, repeats)
    if run.config.features.context.components:
        yield context(run, repeats)
    yield {"stretch": "pretrain"} | training_steps(pretraining_task(run), run.config.pretrain, repeats)
    for stride in [run.config.classifier.centre] if own else STRIDES:
        changes = {} if stride == run.config.classifier.centre else CHANGES[f"stride {stride}"]
        dense = dataclasses.replace(run, config=configured(run.config, **changes))
        yield from predictions(dense, guidance, repeats, subsets=not changes)
        yield training(dense, guidance, repeats)


def brief(row: dict[str, Any]) -> str:
    """The row in a line, for those who wait."""
    unit = "samples" if "samples_per_second" in row else "pixels"
    which = f", stride {row['stride']}, {', '.join(row['branches'])}" if "stride" in row else ""
    return f"{row['stretch']}{which}: {row[f'{unit}_per_second']:,.0f} {unit} a second"


def matmul_peak(repeats: int, rows: int, inner: int, columns: int) -> float:
    """FLOPs a second of a float32 matrix product of these sizes, the best of the timings."""
    product = jax.jit(jnp.matmul)
    a, b = jnp.ones((rows, inner), jnp.float32), jnp.ones((inner, columns), jnp.float32)
    return 2.0 * rows * inner * columns / min(timings(lambda: product(a, b), repeats))


def training(run: Run, guidance: tuple[np.ndarray, ...], repeats: int) -> dict[str, Any]:
    """Steps of the classifier's training at the config's stride."""
    row = training_steps(training_task(run, guidance), run.config.train, repeats)
    variant = {"stride": run.config.classifier.centre, "branches": list(run.config.classifier.branches)}
    return {"stretch": "train", **variant} | row


def training_steps(task: Task, config: Any, repeats: int) -> dict[str, Any]:
    """Compiles and times as many steps as one call takes on resident inputs, and then as many in the training loop."""
    count = steps_together(config, 0)
    drawn = np.resize(np.arange(len(task.samples)), count * config.batch_size)
    batches = jax.tree.map(lambda array: jnp.asarray(array.reshape(count, -1, *array.shape[1:])), task.samples[drawn])
    steps, counted = compiled_steps(task, config, batches)
    counted["flops"] *= count  # the loop over the steps is counted once
    row = spread(timings(lambda: steps(batches), repeats), count * config.batch_size, "samples", counted)
    return row | {"loop_overhead": looped(task, config) * count / row["seconds"] - 1.0}


def compiled_steps(task: Task, config: Any, batches: Any) -> tuple[Callable, dict[str, float]]:
    """Steps of a training as a function of batches that are like these, and what `compiled` counts of them."""
    placed = Placement(task.parameters, make_mesh({"data": -1}), "replicated")
    optimiser = make_optimiser(config, placed.layout)
    state = placed.pack(initial_state(task.parameters, task.carry, optimiser.init(jnp.zeros(placed.layout.size))))
    data, key = jax.tree.map(jnp.asarray, task.data), jax.random.key(config.seed)
    program, counted = compiled(make_steps(task.objective, optimiser, placed, config), state, data, batches, key)

    def steps(batches):
        nonlocal state
        state, metrics = program(state, data, batches, key)
        return metrics

    return steps, counted


def looped(task: Task, config: Any, steps: int = 80) -> float:
    """Seconds of a step in the training loop, between the first calls, which compile, and the last, which save."""
    together = steps_together(config, 0)
    calls = steps // together
    changed = config.copy_and_resolve_references()
    changed.update(steps=calls * together, log_every=together, evaluate_every=0, checkpoint_every=0)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            task.objective,
            jax.tree.map(jnp.copy, task.parameters),
            carry=task.carry,
            data=task.data,
            samples=task.samples,
            config=changed,
            workdir=pathlib.Path(folder),
            title="Loop",
        )
        log = [json.loads(line) for line in (pathlib.Path(folder) / "log.jsonl").read_text().splitlines()]
    at = {line["step"]: line["seconds"] for line in log}
    first, last = 2 * together, (calls - IN_FLIGHT - 1) * together
    return (at[last] - at[first]) / (last - first)


def feature_extraction(run: Run, repeats: int) -> dict[str, Any]:
    """The diffusion features of one tile."""
    tile = extraction.scene_tile(run)
    graph, parameters = networks.denoiser(run)
    activations, arrays = extraction.feature_extractor(run, graph, tile)
    centre = jnp.array([tile // 2, tile // 2], jnp.int32)
    program, counted = compiled(activations, parameters, arrays, centre)
    counted["flops"] *= run.config.features.draws  # the loop over the draws is all of the program, and is counted once
    seconds = timings(lambda: program(parameters, arrays, centre), repeats)
    return {"stretch": "features"} | spread(seconds, tile**2, "pixels", counted)


def predictions(run: Run, guidance: tuple[np.ndarray, ...], repeats: int, *, subsets: bool) -> Iterator[dict[str, Any]]:
    """Class probabilities of a block of pixels at the config's stride, by all branches and, where asked, by some."""
    graph, parameters = networks.build(run, guidance)
    data = jax.tree.map(jnp.asarray, {"images": run.images, "guidance": guidance})
    where = np.zeros(run.scene.shape, bool)
    where[:BLOCK, :BLOCK] = True
    batch = jnp.zeros((run.config.predict.batch_size, 2), jnp.int32)
    names, stride = tuple(run.config.classifier.branches), run.config.classifier.centre
    for count in range(len(names), 0 if subsets else len(names) - 1, -1):
        for branches in itertools.combinations(names, count):
            classify = mapping.classifier_function(run, graph, branches)
            _, counted = compiled(classify, parameters, data, batch)
            counted["flops"] *= where.sum() / (len(batch) * stride**2)
            predict = partial(
                predict_scene,
                lambda centres, classify=classify: classify(parameters, data, centres),
                run.scene.shape,
                stride=stride,
                batch_size=len(batch),
                where=where,
            )
            row = spread(timings(predict, repeats), int(where.sum()), "pixels", counted)
            yield {"stretch": "predict", "stride": stride, "branches": list(branches)} | row


def context(run: Run, repeats: int) -> dict[str, Any]:
    """The classical context of the whole scene, which SciPy and scikit-image compute."""
    seconds = timings(lambda: extraction.context_features(run), repeats)
    nothing = {"flops": 0.0, "peak_bytes": 0, "compile_seconds": 0.0}
    return {"stretch": "context"} | spread(seconds, run.scene.valid.size, "pixels", nothing)


def whole_map(prediction: dict[str, Any], guidance: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Guidance and prediction together, from their times a pixel."""
    stretches = (*guidance, prediction)
    seconds = sum(1.0 / row["pixels_per_second"] for row in stretches)
    flops = sum(row["flops_per_pixel"] for row in stretches)
    row = {key: prediction[key] for key in ("stride", "branches")}
    return {"stretch": "map", **row, "pixels_per_second": 1.0 / seconds, "flops_per_pixel": flops} | {
        "flops_per_second": flops / seconds,
        "peak_bytes": max(row["peak_bytes"] for row in stretches),
    }


def with_accuracy(row: dict[str, Any], record: dict[str, Any], centre: int) -> dict[str, Any]:
    """The row with the mean OA that the ablation found for its stride and branches, where it did.

    Args:
      row: of a prediction or a map; others stay as they are.
      record: of the scene, as `ablation.py` writes it.
      centre: side of what a patch predicts by default.
    """
    if "stride" not in row or row["stretch"] == "train":
        return row
    if row["stride"] == centre:
        found = record["subsets"].get(", ".join(row["branches"]))
    else:
        every = len(row["branches"]) == max(len(names.split(", ")) for names in record["subsets"])
        found = record["variants"].get(f"stride {row['stride']}", {}).get("oa") if every else None
    return row | {"oa": float(np.mean(found))} if found else row


def compiled(function: Any, *arguments) -> tuple[Callable, dict[str, float]]:
    """The program of a jitted function, and its seconds of tracing and compilation, FLOPs and bytes.

    Nothing that an earlier call has traced is used, so that the seconds are those of a new process.
    """
    jax.clear_caches()
    began = time.perf_counter()
    program = function.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    memory = program.memory_analysis()
    size = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return program, {"compile_seconds": seconds, "flops": program.cost_analysis()["flops"], "peak_bytes": size}


def timings(function: Callable, repeats: int) -> list[float]:
    """Seconds of each of the calls after the first."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return seconds


def spread(seconds: list[float], count: int, unit: str, counted: dict[str, float]) -> dict[str, Any]:
    """Rates of a program that makes `count` samples or pixels in each of these times."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {
        f"{unit}_per_second": count / median,
        "seconds": median,
        "quartiles_distance": high - low,
        "repeats": len(seconds),
        f"flops_per_{unit[:-1]}": counted["flops"] / count,
        "flops_per_second": counted["flops"] / median,
        "peak_bytes": counted["peak_bytes"],
        "compile_seconds": counted["compile_seconds"],
    }


def commit() -> str:
    """The commit that is measured, with a plus where files differ from it."""
    git = lambda *arguments: subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout
    return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| stretch | stride | branches | a second | MFLOP each | of peak, narrow | MiB | compiled, s | loop | OA |",
        "|" + " --- |" * 10,
    ]
    for row in rows:
        unit = "samples" if "samples_per_second" in row else "pixels"
        cells = [
            row["stretch"],
            str(row.get("stride", "")),
            ", ".join(row.get("branches", [])),
            f"{row[f'{unit}_per_second']:,.0f} {unit}",
            f"{row[f'flops_per_{unit[:-1]}'] / 1e6:.2f}",
            f"{row['fraction_of_matmul_peak']:.0%}, {row['fraction_of_narrow_matmul_peak']:.0%}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "",
            f"{row['loop_overhead']:+.1%}" if "loop_overhead" in row else "",
            f"{row['oa']:.1%}" if "oa" in row else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Pixels a second of prediction by stride, a line for all branches and for each alone."""
    predicted = [row for row in rows if row["stretch"] == "predict"]
    most = max(len(row["branches"]) for row in predicted)
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for branches in dict.fromkeys(tuple(row["branches"]) for row in predicted):
        if len(branches) in (1, most):
            line = [row for row in predicted if tuple(row["branches"]) == branches]
            strides, rates = zip(*sorted((row["stride"], row["pixels_per_second"]) for row in line))
            axes.plot(strides, rates, "o-", label="all branches" if len(branches) == most else branches[0])
    axes.set(xlabel="stride, pixels", ylabel="pixels a second", xticks=STRIDES)
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    sys.exit(main())
