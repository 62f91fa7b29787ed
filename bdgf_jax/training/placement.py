"""How the train state lies on the devices: copied to each of them, or shared out among them all."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from bdgf_jax.errors import InputError
from bdgf_jax.training.mesh import replicated
from bdgf_jax.training.state import TrainState
from bdgf_jax.training.vector import Layout

PLACEMENTS = ("replicated", "sharded")


class Placement:
    """The train state on a mesh, with parameters, average and moments as one vector each.

    Replicated, every device holds all of them. Sharded, each holds its stretch of every vector, as fully sharded data
    parallelism does (ZeRO, arXiv 1910.02054): a step gathers the parameters once, and each device updates its stretch.

    Args:
      parameters: arrays or `jax.ShapeDtypeStruct`s.
      mesh: the devices; a sharded vector is cut along all of its axes.
      kind: "replicated" or "sharded".

    Raises:
      InputError: for another kind.
    """

    def __init__(self, parameters: PyTree, mesh: Mesh, kind: str = "replicated"):
        if kind not in PLACEMENTS:
            raise InputError(f"placement must be one of {', '.join(PLACEMENTS)}, got {kind!r}.")
        shared = kind == "sharded"
        self.layout = Layout(parameters, multiple=mesh.size if shared else 1)
        self._mesh = mesh
        self._everywhere = replicated(mesh)
        self._vectors = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if shared else self._everywhere
        self._pack, self._unpack = jax.jit(self._packed), jax.jit(self._unpacked)

    def beginning(self, begin: Callable) -> Callable:
        """(parameters, carry) -> the state before the first step."""
        return begin

    def stepping(self, step: Callable) -> Callable:
        """In a compiled program: the step as it runs on the devices, which all work on the one training."""
        return step

    def known(self) -> AbstractContextManager:
        """In a compiled program: lets what is called inside ask for the mesh, `jax.sharding.get_abstract_mesh()`."""
        return jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh)

    def spread(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """In a compiled program: the vector as it is kept."""
        return jax.lax.with_sharding_constraint(vector, self._vectors)

    def share(self, tree: PyTree) -> Float[Array, " n"]:
        """In a compiled program: a tree that is whole on every device, such as the gradients, as the vector is kept."""
        # Made whole first: XLA would else cut each leaf, and gather it again to lay it beside the others.
        return self.spread(jax.lax.with_sharding_constraint(self.layout.to_vector(tree), self._everywhere))

    def gather(self, vector: Float[Array, " n"]) -> PyTree:
        """In a compiled program: the tree of parameters, whole on every device."""
        return self.layout.to_tree(jax.lax.with_sharding_constraint(vector, self._everywhere))

    def pack(self, state: TrainState) -> TrainState:
        """The state as steps work on it, from the one that a checkpoint holds: in trees, whole on every device."""
        return self._pack(state)

    def unpack(self, state: TrainState) -> TrainState:
        """The inverse of `pack`."""
        return self._unpack(state)

    def described(self, state: TrainState) -> TrainState:
        """Shapes of the packed state and where they lie, for a step that is compiled before there is any state."""
        packed = jax.eval_shape(self._packed, state)
        lie = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        return replace(
            jax.tree.map(lambda leaf: lie(leaf, self._everywhere), packed),
            parameters=lie(packed.parameters, self._vectors),
            ema=lie(packed.ema, self._vectors),
            optimiser=jax.tree.map(
                lambda leaf: lie(leaf, self._vectors if leaf.ndim == 1 else self._everywhere), packed.optimiser
            ),
        )

    def _packed(self, state: TrainState) -> TrainState:
        return replace(
            state,
            parameters=self.share(state.parameters),
            ema=self.share(state.ema),
            optimiser=_map_vectors(lambda vector: self.spread(self.layout.pad(vector)), state.optimiser),
        )

    def _unpacked(self, state: TrainState) -> TrainState:
        whole = lambda vector: jax.lax.with_sharding_constraint(vector, self._everywhere)
        return replace(
            state,
            parameters=self.gather(state.parameters),
            ema=self.gather(state.ema),
            optimiser=_map_vectors(lambda vector: self.layout.cut(whole(vector)), state.optimiser),
        )


def _map_vectors(function: Callable, optimiser: PyTree) -> PyTree:
    """Moments are vectors, as the parameters are; what else the optimiser keeps are numbers."""
    return jax.tree.map(lambda leaf: function(leaf) if leaf.ndim == 1 else leaf, optimiser)
