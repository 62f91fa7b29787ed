"""The one training loop: start or resume, step, evaluate, log, save."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from bdgf_jax.errors import InputError
from bdgf_jax.progress import progress
from bdgf_jax.training import batches
from bdgf_jax.training.checkpoints import Checkpoints
from bdgf_jax.training.indices import IndexStream
from bdgf_jax.training.log import RunLog
from bdgf_jax.training.members import Members
from bdgf_jax.training.mesh import DATA, check_batch_size, make_mesh, put_replicated, replicated
from bdgf_jax.training.optimiser import make_optimiser
from bdgf_jax.training.placement import Placement
from bdgf_jax.training.preemption import heeding_preemption
from bdgf_jax.training.state import TrainState, initial_state
from bdgf_jax.training.step import SKIPPED_IN_A_ROW, make_steps
from bdgf_jax.training.vector import Layout

# Calls that are handed to the device before the oldest is waited for: it never idles, and memory stays bounded.
IN_FLIGHT = 2

# Steps that one call takes on an accelerator.
STEPS_TOGETHER = 10

CONTINUES = "The same command continues from there."

Objective = Callable[
    [PyTree, PyTree, PyTree, PyTree, Array, Int[Array, ""]],
    tuple[Array, tuple[Mapping[str, Array], PyTree]],
]


def fit(
    objective: Objective,
    parameters: PyTree,
    *,
    carry: PyTree,
    data: PyTree,
    samples: batches.Samples,
    config,
    workdir: Path,
    title: str,
    mesh: Mesh | None = None,
    placement: str = "replicated",
    evaluate: Callable[[PyTree], Mapping[str, SupportsFloat]] | None = None,
    best: str | None = None,
    files: Mapping[str, Path] | None = None,
    seeds: Sequence[int] = (),
) -> TrainState:
    """Trains until `config.steps` steps are done, and returns the state then.

    A run that was stopped, by whatever, continues from its last whole checkpoint and comes out as if it had not been
    (bit by bit on the same devices); one that is finished already is returned at once. On SIGTERM the state is saved
    and the program left with status 0.

    Leaves in `workdir`: `checkpoints`, `log.jsonl` with a line a logged step, and TensorBoard events.

    Args:
      objective: (parameters, carry, data, batch, key, step) -> (loss, (terms, carry)), pure; `terms` are scalars by
        name that are logged, `carry` is what it remembers for the next step.
      parameters: to begin with.
      carry: to begin with.
      data: arrays that the objective reads, such as the scene; copied to every device.
      samples: what batches consist of, such as rows and columns of pixels; every epoch draws each of them once. Those
        that are no array are read ahead of the steps.
      config: the optimisation: steps, steps_together, batch_size, learning_rate, warmup, weight_decay, clip, ema,
        seed, log_every, evaluate_every (0: never), checkpoint_every, keep.
      workdir: the run's folder.
      title: what the progress bar calls it.
      mesh: devices; all of them along `data` by default.
      placement: of parameters and optimiser: "replicated" on every device or "sharded" among them all.
      evaluate: from the averaged parameters to figures by name, which are logged.
      best: the figure whose best (highest) checkpoint is kept and found again by `load_parameters(…, "best")`.
      files: copied into each checkpoint, by their path in it.
      seeds: of the members, where several are trained together, each as `config.seed` would have it by itself.
        Parameters, carry and the state that is returned have the members as leading axis, samples are an array, every
        device takes some members whole, whatever the placement, and logged figures are means over them.

    Raises:
      InputError: the devices cannot share a batch, there are no samples, the checkpoint does not fit the parameters, or
        the loss is not finite for `SKIPPED_IN_A_ROW` steps in a row.
      SystemExit: with status 0, after SIGTERM.
    """
    mesh = mesh or make_mesh({DATA: -1})
    if seeds:
        placed = Members(parameters, mesh, seeds)
        stream, keys = placed.streams(len(samples), config.batch_size), placed.keys()
    else:
        check_batch_size(config.batch_size, mesh)
        placed = Placement(parameters, mesh, placement)
        stream = IndexStream(len(samples), batch_size=config.batch_size, seed=config.seed)
        keys = jax.random.key(config.seed)
    optimiser = make_optimiser(config, placed.layout)
    train_steps = make_steps(objective, optimiser, placed, config)
    moments = lambda: optimiser.init(jnp.zeros(placed.layout.size))
    begin = placed.beginning(lambda parameters, carry: initial_state(parameters, carry, moments()))
    speaks = jax.process_index() == 0
    asked_to_stop = False
    nothing_lost = f"{title} was asked to stop (SIGTERM) before its first step; what was saved is whole.\n{CONTINUES}"

    with (
        heeding_preemption(nothing_lost) as preemption,
        Checkpoints(workdir / "checkpoints", keep=config.keep, files=files) as checkpoints,
    ):
        state = checkpoints.restore(jax.eval_shape(begin, parameters, carry), replicated(mesh))
        if state is None:
            state = put_replicated(begin(parameters, carry), mesh)
        start = int(state.step)
        if start >= config.steps:
            return state
        state = placed.pack(state)

        # Only a key's data, not the key itself, can be put on the devices of several processes.
        data, key_data = put_replicated((data, jax.random.key_data(keys)), mesh)
        key = jax.random.wrap_key_data(key_data)
        in_flight = deque()
        position = checkpoints.position()
        together = steps_together(config, start)
        with (
            batches.opened(
                samples, stream, mesh, start=start, steps=config.steps, together=together, position=position
            ) as drawn,
            RunLog(workdir, step=start, written=speaks) as log,
            progress(title, config.steps, start=start, shown=speaks) as bar,
        ):
            for step in range(start + together, config.steps + 1, together):
                several = next(drawn)
                with jax.transfer_guard("disallow"):
                    state, metrics = train_steps(state, data, several, key)
                preemption.hold()

                figures: dict[str, float] = {}
                if evaluate is not None and _due(step, config.evaluate_every):
                    figures |= _evaluated(evaluate, placed.unpack(state).ema)
                score = figures.get(best) if best else None

                asked_to_stop = preemption.asked()
                saves = asked_to_stop or step == config.steps or _due(step, config.checkpoint_every)
                saves |= score is not None and checkpoints.is_best(score)

                in_flight.append((step, metrics, figures))
                while in_flight and (saves or len(in_flight) > IN_FLIGHT):
                    reached, metrics, figures = in_flight.popleft()
                    done = range(reached - together + 1, reached + 1)
                    hopeless = jax.device_get(metrics["skipped_in_a_row"]) >= SKIPPED_IN_A_ROW
                    hopeless = hopeless.reshape(together, -1).any(axis=1)  # for any member
                    if hopeless.any():
                        _keep_last_good(checkpoints, placed.unpack(state))
                        first = int(hopeless.argmax())
                        raise _diverged(title, done[first], _at(metrics, first), placed.layout, workdir)
                    logged = {}
                    for index, one in enumerate(done):
                        evaluated = figures if one == reached else {}
                        if evaluated or one in (1, config.steps) or _due(one, config.log_every):
                            logged = evaluated | _figures(_at(metrics, index))
                            log.write(one, logged)
                    shown = {name: logged[name] for name in ("loss", best or "loss") if name in logged}
                    bar.advance(together, **shown)

                if saves:
                    checkpoints.save(step, placed.unpack(state), score, drawn.position())
                if asked_to_stop:
                    break
        checkpoints.wait()
        asked_to_stop = asked_to_stop or preemption.asked()

    if asked_to_stop:
        if speaks:
            print(f"{title} was asked to stop (SIGTERM) and is saved after step {int(state.step)} of {config.steps}.")
            print(CONTINUES, flush=True)
        raise SystemExit(0)
    return placed.unpack(state)


def steps_together(config, start: int) -> int:
    """How many steps one call takes: at most `config.steps_together`, and such that calls end where something is due.

    Left to us (0), a CPU that trains by itself takes one: its host is the device, and XLA computes the gradients of
    convolutions there many times slower inside a loop (jax issue 12868; the pre-training's step, 20 times).

    Args:
      config: of the optimisation, as for `fit`.
      start: steps done.
    """
    alone = jax.default_backend() == "cpu" and jax.process_count() == 1
    most = config.steps_together or (1 if alone else STEPS_TOGETHER)
    ends = math.gcd(start, config.steps, config.checkpoint_every, config.evaluate_every)
    return max(count for count in range(1, max(1, min(most, ends)) + 1) if ends % count == 0)


def _at(metrics: Mapping, index: int) -> Mapping:
    """The metrics of one of several steps."""
    return jax.tree.map(lambda values: values[index], jax.device_get(metrics))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _evaluated(evaluate: Callable, ema: PyTree) -> dict[str, float]:
    """Each process evaluates on a device of its own; what the first finds counts, so that all save the same steps."""
    local = jax.tree.map(lambda leaf: leaf.addressable_data(0), ema)
    figures = {name: float(value) for name, value in evaluate(local).items()}
    if jax.process_count() == 1:
        return figures
    values = multihost_utils.broadcast_one_to_all(np.array(list(figures.values()), np.float32))
    return dict(zip(figures, map(float, values)))


def _figures(metrics: Mapping) -> dict[str, float]:
    """What is logged of a step, as plain numbers, means over its members."""
    figures = {"loss": metrics["loss"], **metrics["terms"], "learning_rate": metrics["learning_rate"]}
    return {name: float(np.mean(value)) for name, value in figures.items()} | {
        "skipped": int(np.sum(metrics["skipped"]))
    }


def _keep_last_good(checkpoints: Checkpoints, state: TrainState) -> None:
    """Saves the state as it was after its last step that a member did not skip, unless a later one is saved."""
    skipped = state.skipped_in_a_row.min()
    step = int(state.step - skipped)
    if checkpoints.last_step is None or checkpoints.last_step < step:
        none = state.skipped_in_a_row - state.skipped_in_a_row
        good = replace(state, step=state.step - skipped, skipped=state.skipped - skipped, skipped_in_a_row=none)
        checkpoints.save(step, good)


def _diverged(title: str, step: int, metrics: Mapping, layout: Layout, workdir: Path) -> InputError:
    figures = _figures(metrics)
    broken = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    if not broken:
        broken = [f"the gradient of {layout.name_at(int(np.min(metrics['not_finite_at'])))} is not finite"]
    return InputError(
        f"{title} stopped at step {step}: loss or gradients were not finite for {SKIPPED_IN_A_ROW} steps in a row"
        f" ({', '.join(broken)}). The last good state is saved in {workdir / 'checkpoints'}. A lower learning_rate, a"
        " longer warmup or a smaller clip usually helps; if the first steps fail already, look for values in the data"
        " that are not finite."
    )
