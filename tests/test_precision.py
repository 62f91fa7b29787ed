"""Mixed precision, read off the programs: what runs in bfloat16 and what must not."""

import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax import configuration
from bdgf_jax.classifier.directional_scan import CrossScan, GroupedScan
from bdgf_jax.classifier.model import GuidedClassifier
from bdgf_jax.classifier.objective import classification_objective
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.diffusion.masking import masking_rule
from bdgf_jax.diffusion.objective import initial_carry, pretraining_objective
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.patches import gather

SIDE, CLASSES, TIMESTEPS = 16, 3, 2
CHANNELS, LEVELS = {"hsi": 5, "sar": 2}, (6, 4)
CENTRES = jnp.array([[3, 3], [8, 2], [12, 5], [5, 7]], jnp.int32)
OTHER_MECHANISMS = {"cnn": "concatenation", "mamba": "channel_cross_attention", "transformer": "fusion"}
# RBG keys compile sooner than threefry's.
KEY = jax.random.key(0, impl="rbg")


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def images():
    return {name: random(i, SIDE, SIDE, channels) for i, (name, channels) in enumerate(CHANNELS.items())}


def diffusion(dtype):
    """The pre-training objective as a function of parameters and a key, and parameters."""
    config = configuration.load("base:tiny")
    config.diffusion.dtype = dtype
    config.diffusion.multipliers = (1, 2)
    graph, parameters = build_denoiser(config.diffusion, CHANNELS, seed=0)
    rule = masking_rule(config.masking, len(CHANNELS), len(CENTRES))
    schedule = noise_schedule("cosine", 100)
    sizes = {"modalities": tuple(CHANNELS), "crop": 8, "steps": 100, "gather": gather}
    objective = pretraining_objective(graph, schedule, rule, config.diffusion, config.masking, **sizes)
    data = {"images": images(), "valid": {name: jnp.ones((SIDE, SIDE), bool) for name in CHANNELS}}
    carry = initial_carry(rule, len(CHANNELS))
    return lambda parameters: objective(parameters, carry, data, CENTRES, KEY, jnp.int32(9)), parameters


def build_classifier(dtype, **changes):
    """A classifier of that precision, and its config."""
    config = configuration.load("base:tiny")
    config.classifier.update({"dtype": dtype, "width": 16, "stages": 2, **changes})
    make = lambda: GuidedClassifier(
        config.classifier,
        modalities=CHANNELS,
        guidance=[(TIMESTEPS, channels) for channels in LEVELS],
        classes=CLASSES,
        rngs=nnx.Rngs(KEY),
    )
    return nnx.jit(make)(), config


def classifier(dtype, **changes):
    """The classifier's objective as a function of parameters, and parameters."""
    model, config = build_classifier(dtype, **changes)
    graph, parameters = nnx.split(model)
    objective = classification_objective(graph, config.classifier, config.train, gather=gather)
    guidance = tuple(random(9 + i, SIDE, SIDE, TIMESTEPS, c).astype(jnp.bfloat16) for i, c in enumerate(LEVELS))
    labels = jnp.arange(SIDE * SIDE, dtype=jnp.int32).reshape(SIDE, SIDE) % CLASSES
    data = {"images": images(), "guidance": guidance, "labels": labels}
    return lambda parameters: objective(parameters, (), data, CENTRES, KEY, jnp.int32(9)), parameters


STAGES = {
    "diffusion": diffusion,
    "classifier": classifier,
    "other mechanisms": functools.partial(
        classifier, guidance=OTHER_MECHANISMS, merge_timesteps="softmax", directions="four", fusion="head", centre=3
    ),
}


def equations(jaxpr) -> Iterator:
    """Every equation of a program, those of its loops, branches and inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def types(equation) -> set[str]:
    return {str(variable.aval.dtype) for variable in equation.invars}


def stand_in(u, delta, A, B, C, D, delta_bias):
    """Has the signature of the scan in four directions, which has products of its own, in float32."""
    directions_have_channels_of_their_own = delta.shape[-1] < u.shape[-1]
    return u * (delta.reshape(u.shape) if directions_have_channels_of_their_own else delta.mean(-2))


@pytest.fixture(scope="module", params=STAGES)
def program(request):
    """Loss and gradients in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        # The jitted scan as a whole: what it traced would serve later calls, a stand-in inside it too.
        patch.setattr("bdgf_jax.classifier.directional_scan.scan_grid", stand_in)
        loss, parameters = STAGES[request.param]("bfloat16")
        return jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(parameters)


def is_small(equation) -> bool:
    """A product of the timestep's embedding, which has no pixels, or one with logits."""
    shapes = [variable.aval.shape for variable in equation.invars]
    return all(len(shape) == 2 for shape in shapes) or any(CLASSES in shape for shape in shapes)


def test_convolutions_and_matrix_products_are_bfloat16_forwards_and_backwards(program):
    products = [
        one for one in equations(program.jaxpr) if one.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    halves = [one for one in products if types(one) == {"bfloat16"}]
    assert len(halves) > 20
    others = [one for one in products if types(one) != {"bfloat16"}]
    assert not [str(one) for one in others if not is_small(one)]
    assert all(types(one) == {"float32"} for one in others)


def test_norms_softmaxes_and_losses_are_float32(program):
    exact = [one for one in equations(program.jaxpr) if one.primitive.name in ("rsqrt", "exp", "log", "reduce_max")]
    assert len(exact) > 3
    assert all(types(one) <= {"float32", "int32"} for one in exact)


def test_parameters_losses_and_gradients_are_float32(program):
    assert {str(aval.dtype) for aval in (*program.in_avals, *program.out_avals)} == {"float32"}


@pytest.mark.parametrize("kind", [CrossScan, GroupedScan])
def test_what_is_scanned_is_bfloat16_and_the_state_float32(kind):
    scan = kind(16, state=4, rngs=nnx.Rngs(0))
    grid = random(0, 2, 3, 3, 16).astype(jnp.bfloat16)
    traced = jax.make_jaxpr(scan)(grid)
    assert traced.out_avals[0].dtype == jnp.bfloat16
    loops = [equation for equation in equations(traced.jaxpr) if equation.primitive.name == "scan"]
    assert loops
    for loop in loops:
        # What a step puts out and is not stacked is carried on.
        ends = zip(loop.outvars, loop.params["jaxpr"].out_avals, strict=True)
        carries = [out.aval for out, of_step in ends if out.aval.shape == of_step.shape]
        assert carries
        assert all(carry.dtype in (jnp.float32, jnp.int32) for carry in carries)


def rounding_error(roundings):
    """A rounding is off by at most 2^-8 of a number, norms keep errors relative, and errors add up as a random walk."""
    return np.sqrt(roundings) * float(jnp.finfo(jnp.bfloat16).eps) / 2


def moved(parameters):
    """Some start at zero, and would hide what lies before them."""
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + 0.05 * noise.standard_normal(leaf.shape, np.float32), parameters)


# These programs run once: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def test_the_gradient_of_the_ddpm_is_that_of_float32_but_for_roundings():
    exact, parameters = diffusion("float32")
    rounded, _ = diffusion("bfloat16")
    parameters = moved(parameters)

    def gradient(loss):
        gradients, _ = jit(jax.grad(loss, has_aux=True))(parameters)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients)])

    exact, rounded = gradient(exact), gradient(rounded)
    # 14 convolutions stand one behind the other; each rounds two operands and a result, there and back.
    assert 0 < np.linalg.norm(rounded - exact) < rounding_error(2 * 3 * 14) * np.linalg.norm(exact)


def test_the_classifier_predicts_as_in_float32_but_for_roundings():
    patches = [random(i, 4, 5, 5, channels) for i, channels in enumerate(CHANNELS.values())]
    levels = [random(9 + i, 4, 5, 5, TIMESTEPS, channels).astype(jnp.bfloat16) for i, channels in enumerate(LEVELS)]

    def predictions(dtype):
        graph, parameters = nnx.split(build_classifier(dtype)[0])
        function = lambda parameters: nnx.merge(graph, parameters)(dict(zip(CHANNELS, patches)), levels)
        return jit(function)(moved(parameters))

    exact, rounded = predictions("float32"), predictions("bfloat16")
    for name, embedding in exact.embeddings.items():
        error = np.linalg.norm(rounded.embeddings[name] - embedding) / np.linalg.norm(embedding)
        # At most 20 products stand one behind the other in a branch; each rounds two operands and a result.
        assert 0 < error < rounding_error(3 * 20), name
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rounded))


@pytest.mark.parametrize(("field", "make"), [("diffusion.dtype", diffusion), ("classifier.dtype", classifier)])
def test_another_precision_is_refused(field, make):
    with pytest.raises(InputError, match=re.escape(f"{field} is 'float16'; expected one of float32, bfloat16.")):
        make("float16")
