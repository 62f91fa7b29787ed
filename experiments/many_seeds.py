"""Wall time of classifiers of many seeds, trained together as one program against one after the other.

    python experiments/many_seeds.py --config demo --seeds 10 --out experiments/results/many_seeds.json

Both ways take the same steps on the same batches, in turns; a round is `--steps` steps of every seed. The fastest round
of each counts, since whatever else the machine does can only slow it down. Compilation stands apart: one after the
other, the seeds share one compiled program, as runs with `bdgf`'s compilation cache do. The seeds' parameters are
compared in the end. Speed does not depend on what was learnt, so the denoiser is taken as it is initialised.
"""

import argparse
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, networks
from bdgf_jax.errors import InputError
from bdgf_jax.fitting import Task, training_task
from bdgf_jax.run import Run, open_run, write_json
from bdgf_jax.training.indices import IndexStream, IndexStreams
from bdgf_jax.training.members import Members
from bdgf_jax.training.mesh import make_mesh, put_batches, put_replicated
from bdgf_jax.training.optimiser import make_optimiser
from bdgf_jax.training.placement import Placement
from bdgf_jax.training.state import TrainState, initial_state
from bdgf_jax.training.step import make_steps
from experiments.real_scenes import configured


class Training(NamedTuple):
    """A training that goes on step by step.

    Attributes:
      state: where it is.
      stream: what it draws.
      key: of its steps.
    """

    state: TrainState
    stream: IndexStream | IndexStreams
    key: jax.Array


def main() -> int:
    """Times both ways and writes the record; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seeds", type=int, default=10, help="classifiers (10)")
    parser.add_argument("--steps", type=int, default=20, help="of a round (20)")
    parser.add_argument("--rounds", type=int, default=5, help="of each way (5)")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    options, overrides = parser.parse_known_args()
    try:
        config = configuration.load(options.config, overrides)
        config = configured(config, features__source="untrained", train__num_seeds=options.seeds)
        with tempfile.TemporaryDirectory() as folder:
            run = open_run(config, pathlib.Path(folder) / "run")
            record = {"config": options.config, **measure(run, options.steps, options.rounds)}
    except InputError as error:
        print(f"many_seeds: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, record)
    print(told(record))
    return 0


def measure(run: Run, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step of all seeds and of compilation, both ways.

    Args:
      run: whose `train.num_seeds` seeds are trained.
      steps: of a round.
      rounds: of each way.
    """
    task, config, seeds = training_task(run, extraction.features(run)), run.config.train, networks.seeds(run.config)
    mesh = make_mesh({"data": -1})
    members = Members(task.parameters, mesh, seeds)
    streams = members.streams(len(task.samples), config.batch_size)
    parameters = networks.separate(task.parameters, run.config)
    one = Placement(parameters[0], mesh)
    ways = {
        "together": (members, [Training(begun(task, task.parameters, members, config), streams, members.keys())]),
        "in_a_row": (one, [alone(task, of_seed, one, config, seed) for of_seed, seed in zip(parameters, seeds)]),
    }
    seconds, compiling, programs = {name: [] for name in ways}, {}, {}
    data = put_replicated(task.data, mesh)
    for name, (placed, trainings) in ways.items():
        began = time.perf_counter()
        programs[name] = compiled(task, placed, config, trainings[0], data, mesh, steps)
        compiling[name] = time.perf_counter() - began
    for index in range(rounds):
        for name, (placed, trainings) in ways.items():
            began = time.perf_counter()
            trainings = [advanced(programs[name], one, data, index * steps, steps, task, mesh) for one in trainings]
            seconds[name].append((time.perf_counter() - began) / steps)
            ways[name] = placed, trainings
    together, in_a_row = (
        [one for placed, trainings in [ways[name]] for one in finished(placed, trainings, run)] for name in ways
    )
    fastest = {name: min(values) for name, values in seconds.items()}
    return {
        "seeds": len(seeds),
        "batch_size": config.batch_size,
        "branches": list(run.config.classifier.branches),
        "device": f"{jax.devices()[0].device_kind or platform.processor()} x{jax.device_count()}",
        "jax": jax.__version__,
        "steps_of_a_round": steps,
        "seconds_a_step_of_all_seeds": {name: {"fastest": fastest[name], "rounds": seconds[name]} for name in ways},
        "compile_seconds": compiling,
        "times_as_fast_without_compilation": fastest["in_a_row"] / fastest["together"],
        "train_steps": config.steps,
        "seconds_of_a_training_with_compilation": {
            name: compiling[name] + config.steps * fastest[name] for name in ways
        },
        "relative_difference_of_parameters": max(map(difference, together, in_a_row)),
    }


def begun(task: Task, parameters: Any, placed: Placement | Members, config: Any) -> TrainState:
    """The packed state before the first step."""
    moments = make_optimiser(config, placed.layout).init(jnp.zeros(placed.layout.size))
    begin = placed.beginning(lambda parameters, carry: initial_state(parameters, carry, moments))
    return placed.pack(begin(parameters, task.carry))


def alone(task: Task, parameters: Any, placed: Placement, config: Any, seed: int) -> Training:
    """The training of one seed by itself."""
    stream = IndexStream(len(task.samples), batch_size=config.batch_size, seed=seed)
    return Training(begun(task, parameters, placed, config), stream, jax.random.key(seed))


def compiled(
    task: Task, placed: Placement | Members, config: Any, training: Training, data: Any, mesh: Any, steps: int
) -> Callable:
    """The program of so many steps."""
    program: Any = make_steps(task.objective, make_optimiser(config, placed.layout), placed, config)
    return program.lower(training.state, data, drawn(training, 0, steps, task, mesh), training.key).compile()


def drawn(training: Training, start: int, steps: int, task: Task, mesh: Any) -> Any:
    """The training's batches of so many steps."""
    return put_batches(np.stack([task.samples[training.stream[step]] for step in range(start, start + steps)]), mesh)


def advanced(
    program: Callable, training: Training, data: Any, start: int, steps: int, task: Task, mesh: Any
) -> Training:
    """The training some steps on, waited for."""
    state, _ = program(training.state, data, drawn(training, start, steps, task, mesh), training.key)
    return training._replace(state=jax.block_until_ready(state))


def finished(placed: Placement | Members, trainings: list[Training], run: Run) -> list[Any]:
    """The parameters of each seed."""
    if isinstance(placed, Members):
        return networks.separate(placed.unpack(trainings[0].state).parameters, run.config)
    return [placed.unpack(training.state).parameters for training in trainings]


def difference(one: Any, other: Any) -> float:
    """The norm of the difference of two trees of arrays, over that of the second.

    Adam moves parameters without a gradient by rounding errors alone, so single ones may lie apart by more.
    """
    vectors = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, other)]
    return float(np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[1]))


def told(record: dict[str, Any]) -> str:
    """The record in words."""
    steps = {name: figures["fastest"] for name, figures in record["seconds_a_step_of_all_seeds"].items()}
    title = f"{record['seeds']} seeds, {record['config']}"
    lines = [f"| {title} | a step of all, ms | compiled in s | {record['train_steps']} steps, s |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, words in (("together", "together"), ("in_a_row", "in a row")):
        whole = record["seconds_of_a_training_with_compilation"][name]
        lines.append(f"| {words} | {1e3 * steps[name]:.1f} | {record['compile_seconds'][name]:.1f} | {whole:.1f} |")
    lines.append(
        f"Together is {record['times_as_fast_without_compilation']:.2f} times as fast, compilation apart; parameters"
        f" differ by {record['relative_difference_of_parameters']:.1e} of their norm at most."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
