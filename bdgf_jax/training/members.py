"""Many trainings as one compiled program: a member for each seed, along a mapped axis that the devices share out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree

from bdgf_jax.training.indices import IndexStream, IndexStreams
from bdgf_jax.training.mesh import DATA, replicated, split_over_data
from bdgf_jax.training.state import TrainState
from bdgf_jax.training.vector import Layout

# Members have a leading axis everywhere but in the count of steps, which they share.
AXES: Any = TrainState(None, 0, 0, 0, 0, 0, 0)


class Members:
    """The train state of several trainings that differ by their seeds alone: what `Placement` is for one of them.

    Every device along `data` takes some of the members whole and never meets the others, so that each comes out as it
    would by itself. Where the devices do not share the members evenly, the first ones are trained once more in the
    places that are left, and cut off when the state is unpacked; that takes no longer, since every device is as busy
    as the busiest.

    Args:
      parameters: arrays or `jax.ShapeDtypeStruct`s, with the members as their leading axis.
      mesh: the devices.
      seeds: one a member.
    """

    def __init__(self, parameters: PyTree, mesh: Mesh, seeds: Sequence[int]):
        one = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        self.layout = Layout(jax.tree.map(one, parameters))
        self._mesh, self._count = mesh, len(seeds)
        shares = mesh.shape[DATA]
        self._places = np.arange(-(-self._count // shares) * shares) % self._count
        self._seeds = [seeds[member] for member in self._places]
        split, whole = split_over_data(mesh), replicated(mesh)
        state = lambda leaf: replace(jax.tree.map(lambda axis: leaf, AXES), step=whole)
        self._pack = jax.jit(self._packed, out_shardings=state(split))
        self._unpack = jax.jit(self._unpacked, out_shardings=whole)

    def streams(self, samples: int, batch_size: int) -> IndexStreams:
        """What each member sees at each step: what it would see by itself."""
        return IndexStreams(
            [IndexStream(samples, batch_size=batch_size, seed=seed, process=(0, 1)) for seed in self._seeds]
        )

    def keys(self) -> Array:
        """Each member's key."""
        return jnp.stack([jax.random.key(seed) for seed in self._seeds])

    def beginning(self, begin: Callable) -> Callable:
        """(parameters, carry) -> the state of all members before the first step, by that of one."""
        return jax.vmap(begin, out_axes=AXES)

    def stepping(self, step: Callable) -> Callable:
        """In a compiled program: (state, data, batch, key) -> (state, metrics) of all members, by that of one."""
        axes = (AXES, None, 0, 0)
        of_axes = lambda axes: jax.tree.map(
            lambda axis: PartitionSpec() if axis is None else PartitionSpec(DATA), axes, is_leaf=lambda x: x is None
        )
        several = jax.vmap(step, in_axes=axes, out_axes=(AXES, 0))
        on_devices = jax.shard_map(
            several, mesh=self._mesh, in_specs=of_axes(axes), out_specs=of_axes((AXES, 0)), check_vma=False
        )

        def stepped(state: TrainState, data: PyTree, batch: PyTree, key: Array) -> tuple[TrainState, dict]:
            state, metrics = on_devices(state, data, batch, key)
            metrics = jax.lax.with_sharding_constraint(metrics, replicated(self._mesh))
            return state, jax.tree.map(lambda leaf: leaf[: self._count], metrics)

        return stepped

    def known(self) -> AbstractContextManager:
        """In the step of a member: no mesh, since it runs on one device."""
        return nullcontext()

    def spread(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """In the step of a member: the vector as it is kept."""
        return vector

    def share(self, tree: PyTree) -> Float[Array, " n"]:
        """In the step of a member: a tree such as the gradients as a vector."""
        return self.layout.to_vector(tree)

    def gather(self, vector: Float[Array, " n"]) -> PyTree:
        """In the step of a member: the tree of its parameters."""
        return self.layout.to_tree(vector)

    def pack(self, state: TrainState) -> TrainState:
        """The state as steps work on it, from the one that a checkpoint holds: in trees, members stacked."""
        return self._pack(state)

    def unpack(self, state: TrainState) -> TrainState:
        """The inverse of `pack`."""
        return self._unpack(state)

    def _packed(self, state: TrainState) -> TrainState:
        placed = replace(jax.tree.map(lambda leaf: leaf[self._places], replace(state, step=())), step=state.step)
        to_vectors = jax.vmap(self.layout.to_vector)
        return replace(placed, parameters=to_vectors(placed.parameters), ema=to_vectors(placed.ema))

    def _unpacked(self, state: TrainState) -> TrainState:
        cut = replace(jax.tree.map(lambda leaf: leaf[: self._count], replace(state, step=())), step=state.step)
        to_trees = jax.vmap(self.layout.to_tree)
        return replace(cut, parameters=to_trees(cut.parameters), ema=to_trees(cut.ema))
