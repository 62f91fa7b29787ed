"""The selective scan and its gradients in float64 NumPy, derived by hand and checked against differences in a test."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
from bdgf_kernels import selective_scan, selective_scan_2d
from bdgf_kernels.selective_scan import mosaic_gpu, mosaic_tpu, triton
from bdgf_kernels.selective_scan.shapes import TEST_SHAPES

HALF = {"bfloat16": jnp.bfloat16, "float16": jnp.float16, "float32": jnp.float32}


@dataclasses.dataclass(frozen=True)
class Case:
    """A call to test: sizes, types, and which optional arguments are there."""

    b: int = 2
    l: int = 7  # noqa: E741
    d: int = 4
    n: int = 4
    g: int = 1
    dtype: str = "float32"
    optional: tuple[str, ...] = ()
    softplus: bool = False
    reverse: bool = False

    @classmethod
    def named(cls, name, **options):
        """A call at one of the named shapes."""
        b, length, d, n, _ = TEST_SHAPES[name]
        return cls(b, length, d, n, **options)

    def within(self, most, widest_group):
        """The call with its axes cut off, each group of channels no narrower than it was or the kernels need."""
        b, length, d, n = (min(x, y) for x, y in zip((self.b, self.l, self.d, self.n), most))
        if self.g > 1:
            d = self.g * max(widest_group, d // self.g)
        return dataclasses.replace(self, b=b, l=length, d=d, n=n)

    def __str__(self):
        flags = [*self.optional, *(["softplus"] if self.softplus else []), *(["reverse"] if self.reverse else [])]
        return "-".join([f"{self.b}x{self.l}x{self.d}x{self.n}", f"g{self.g}", self.dtype, *flags])


EVERYWHERE = ("reference", "associative", "chunked")
"""Implementations that run on every platform; those with kernels have suites of their own."""

INTERPRETED = {"triton": triton, "mosaic_tpu": mosaic_tpu, "mosaic_gpu": mosaic_gpu}
"""Implementations with kernels, which have tests of their own besides."""

SHORT = {
    "triton": {"chunk": 4},
    "mosaic_tpu": {"chunk": 8, "forward_steps": 2, "backward_steps": 2, "states_at_once": 2},
    "mosaic_gpu": {},
}
"""Loops that are written out less far: interpreted programs are compiled sooner."""

LARGEST = {"mosaic_tpu": ((2, 19, 12, 4), 1), "mosaic_gpu": ((1, 18, 128, 4), 128)}
"""The most of b, l, d and n, and the least that a group may hold of d, for interpreters that find races: they are slow.

What is cut off repeats what is there: the lengths still make two chunks and a rest, or one and a rest; the channels
more than one register of 8, or a block of 128; the states as many as are walked at once.
"""

EVERYTHING = ("D", "z", "delta_bias", "initial_state", "reset")


def arguments(case, seed=0):
    """Random arguments by name; step sizes and rates as in a trained model, so that states neither die nor blow up."""
    random = np.random.default_rng(seed)
    b, length, d, n, g = case.b, case.l, case.d, case.n, case.g
    normal = lambda *shape: random.standard_normal(shape)
    raw = normal(b, length, d) * 0.7 - (1.0 if case.softplus else 0.0)
    groups = (g,) if g > 1 else ()
    arrays = {
        "u": normal(b, length, d),
        "delta": raw if case.softplus else np.log1p(np.exp(raw - 1.0)),
        "A": -np.exp(normal(d, n) * 0.5),
        "B": normal(b, length, *groups, n),
        "C": normal(b, length, *groups, n),
        "D": normal(d),
        "z": normal(b, length, d),
        "delta_bias": random.uniform(0.0, 0.5, d),
        "initial_state": normal(b, d, n),
    }
    arrays = {k: v for k, v in arrays.items() if k in ("u", "delta", "A", "B", "C") or k in case.optional}
    rounded = ("u", "delta", "B", "C", "z")
    arrays = {k: jnp.asarray(v, HALF[case.dtype] if k in rounded else jnp.float32) for k, v in arrays.items()}
    if "reset" in case.optional:
        arrays["reset"] = jnp.asarray(random.random((b, length)) < 0.15)
    return arrays


class Truth(typing.NamedTuple):
    y: np.ndarray
    state: np.ndarray
    gradients: dict[str, np.ndarray]


def truth(arrays, *, softplus=False, reverse=False, dy=None, dstate=None):
    """Returns y, the final state and, with cotangents given, the gradient of every floating argument."""
    x = {k: np.asarray(v.astype(jnp.float32) if v.dtype != bool else v) for k, v in arrays.items()}
    x = {k: v if v.dtype == bool else v.astype(np.float64) for k, v in x.items()}
    u, A = x["u"], x["A"]
    b, length, d = u.shape
    n = A.shape[1]
    grouped = x["B"].ndim == 4
    B, C = (v if grouped else v[:, :, None] for v in (x["B"], x["C"]))
    g = B.shape[2]
    B, C = (np.repeat(v, d // g, axis=2) for v in (B, C))
    raw = x["delta"] + x.get("delta_bias", 0.0)
    delta = np.logaddexp(0.0, raw) if softplus else raw
    order = range(length)[::-1] if reverse else range(length)
    keep = 1.0 - x["reset"] if "reset" in x else np.ones((b, length))

    h = x.get("initial_state", np.zeros((b, d, n)))
    y, before = np.zeros_like(u), np.zeros((length, b, d, n))
    decay = np.exp(delta[..., None] * A) * keep[..., None, None]
    after = np.zeros_like(before)
    for t in order:
        before[t] = h
        h = decay[:, t] * h + (delta[:, t] * u[:, t])[..., None] * B[:, t]
        after[t] = h
        y[:, t] = (C[:, t] * h).sum(-1)
    state = h
    plain = y + x.get("D", 0.0) * u
    sigmoid = 1.0 / (1.0 + np.exp(-x["z"])) if "z" in x else None
    out = plain if sigmoid is None else plain * x["z"] * sigmoid
    if dy is None:
        return Truth(out, state, {})

    grad = {}
    dy = np.asarray(dy, np.float64)
    if sigmoid is not None:
        grad["z"] = dy * plain * sigmoid * (1.0 + x["z"] * (1.0 - sigmoid))
        dy = dy * x["z"] * sigmoid
    du = x.get("D", 0.0) * dy
    if "D" in x:
        grad["D"] = (dy * u).sum((0, 1))
    dh = np.zeros_like(state) if dstate is None else np.asarray(dstate, np.float64)
    ddelta, dA, dB, dC = np.zeros_like(u), np.zeros_like(A), np.zeros_like(B), np.zeros_like(C)
    for t in list(order)[::-1]:
        dC[:, t] = dy[:, t][..., None] * after[t]
        dh = dh + dy[:, t][..., None] * C[:, t]
        dB[:, t] = dh * (delta[:, t] * u[:, t])[..., None]
        through_input = (dh * B[:, t]).sum(-1)
        through_decay = dh * before[t] * decay[:, t]
        ddelta[:, t] = through_input * u[:, t] + (through_decay * A).sum(-1)
        du[:, t] += through_input * delta[:, t]
        dA += (through_decay * delta[:, t][..., None]).sum(0)
        dh = dh * decay[:, t]
    if softplus:
        ddelta = ddelta / (1.0 + np.exp(-raw))
    ungroup = lambda v: v.reshape(b, length, g, d // g, n).sum(3)
    dB, dC = (ungroup(v) if grouped else ungroup(v)[:, :, 0] for v in (dB, dC))
    grad |= {"u": du, "delta": ddelta, "A": dA, "B": dB, "C": dC}
    if "delta_bias" in x:
        grad["delta_bias"] = ddelta.sum((0, 1))
    if "initial_state" in x:
        grad["initial_state"] = dh
    return Truth(out, state, grad)


def measured(call, arrays, *, dy, dstate):
    """Runs call(arrays) -> (y, state) under jit and returns y, the state and every gradient, as NumPy arrays."""
    floating = {k: v for k, v in arrays.items() if v.dtype != bool}
    rest = {k: v for k, v in arrays.items() if v.dtype == bool}

    @jax.jit
    def run(floating):
        (y, state), pull = jax.vjp(lambda floating: call(floating | rest), floating)
        return y, state, pull((dy.astype(y.dtype), dstate))[0]

    y, state, gradients = jax.tree.map(lambda v: np.asarray(v.astype(jnp.float32)), run(floating))
    return Truth(y, state, gradients)


def assert_close(got, want, *, dtype="float32"):
    """Compares with the truth, in units of each array's own scale.

    float32: every array within 2e-5 of its largest value: sums of at most a few thousand rounded terms (2^-24 each)
    over recurrences that contract. Half precision: one rounding of outputs, 2^-8 for bfloat16 and 2^-11 for float16,
    and cancellation in gradients, twice as much.
    """
    bound = {"float32": 2e-5, "bfloat16": 2**-7, "float16": 2**-10}[dtype]
    pairs = {"y": (got.y, want.y), "state": (got.state, want.state)}
    pairs |= {f"gradient of {k}": (got.gradients[k], want.gradients[k]) for k in want.gradients}
    for name, (ours, true) in pairs.items():
        assert ours.shape == true.shape, name
        scale = max(np.abs(true).max(), 1e-3)
        worst = np.abs(ours - true).max() / scale
        assert worst <= bound, f"{name}: {worst:.2e} of its scale, allowed {bound:.1e}"


def check(case, implementation):
    """Compares outputs, last state and every gradient of a call with the truth."""
    arrays = arguments(case)
    random = np.random.default_rng(1)
    dy = jnp.asarray(random.standard_normal((case.b, case.l, case.d)), jnp.float32).astype(case.dtype)
    dstate = jnp.asarray(random.standard_normal((case.b, case.d, case.n)), jnp.float32)
    how = {"delta_softplus": case.softplus, "reverse": case.reverse}
    call = lambda x: selective_scan(**x, **how, return_final_state=True, implementation=implementation)
    got = measured(call, arrays, dy=dy, dstate=dstate)
    as_numpy = {"dy": np.asarray(dy.astype(jnp.float32)), "dstate": np.asarray(dstate)}
    want = truth(arrays, softplus=case.softplus, reverse=case.reverse, **as_numpy)
    assert_close(got, want, dtype=case.dtype)


COPYING = ("rev", "transpose", "gather", "concatenate", "pad")


def copies(program, length, least):
    """Names the operations outside kernels that rearrange arrays of `length` rows and `least` numbers or more."""
    found = []
    for equation in program.eqns:
        large = [x for x in equation.outvars if length in x.aval.shape and x.aval.size >= least]
        if equation.primitive.name in COPYING and large:
            found.append(equation.primitive.name)
        if equation.primitive.name not in ("pallas_call", "mpmd_map"):
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                found += copies(inner, length, least) if hasattr(inner, "eqns") else []
    return found


def check_directions(implementation, grid, *, own_delta, own_channels=False):
    """Compares four directions, and their gradients, with `chunked`; returns the program with the gradients.

    Args:
      grid: sequences, rows, columns, channels of a direction and states.
      own_delta: whether each direction has step sizes of its own.
      own_channels: whether each direction scans channels of its own.
    """
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
    b, height, width, d, n = grid
    k = 4
    given = (
        normal(b, height, width, k * d if own_channels else d),
        normal(b, height, width, *((k,) if own_delta else ()), d),
        -jnp.exp(normal(k, d, n)),
        normal(b, height, width, k, n),
        normal(b, height, width, k, n),
        normal(k, d),
        None,
        normal(k, d),
    )
    loss = lambda name: lambda *x: jnp.sin(selective_scan_2d(*x, delta_softplus=True, implementation=name)).sum()
    both = [jax.value_and_grad(loss(name), argnums=(0, 1, 2, 3, 4, 5, 7)) for name in (implementation, "chunked")]
    got, want = (jax.jit(f)(*given) for f in both)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), got, want)
    return jax.make_jaxpr(both[0])(*given).jaxpr


def check_vmap(case, implementation):
    """Compares a call whose batch is partly vmapped with the reference."""
    arrays = arguments(case)
    scan = lambda x: selective_scan(**x, implementation=implementation)
    want = selective_scan(**arrays, implementation="reference")
    axes = {name: None if name == "A" else 0 for name in arrays}
    by_two = {name: x if name == "A" else x.reshape(2, -1, *x.shape[1:]) for name, x in arrays.items()}
    np.testing.assert_allclose(jax.vmap(scan, in_axes=(axes,))(by_two).reshape(want.shape), want, atol=1e-5)


def check_shard_map(case, implementation=None, *, interpreted=False):
    """Compares gradients inside shard_map, of what devices share too, with those of one device.

    A plainly interpreted kernel does not say over which devices its values differ: then nobody checks that, and the sum
    over devices, which jax would put in, is put in here.
    """
    arrays = arguments(case)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    batch, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    specs = {name: whole if name == "A" else batch for name in arrays}
    gradients = jax.grad(lambda arrays: (selective_scan(**arrays, implementation=implementation) ** 2).sum())

    def on_each(arrays):
        result = gradients(arrays)
        return result | {"A": jax.lax.psum(result["A"], "data")} if interpreted else result

    how = {"in_specs": (specs,), "out_specs": specs, "check_vma": not interpreted}
    got, want = jax.jit(jax.shard_map(on_each, mesh=mesh, **how))(arrays), jax.jit(gradients)(arrays)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), got, want)
