import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.classifier import directional_scan
from bdgf_jax.classifier.branch import Branch
from bdgf_jax.classifier.cnn import ConvolutionStage, convolve
from bdgf_jax.classifier.directional_scan import CrossScan, GroupedScan, step_bias
from bdgf_jax.classifier.mamba import DepthwiseConvolution, MambaStage
from bdgf_jax.classifier.transformer import TransformerStage
from bdgf_jax.errors import InputError

unguided = lambda grid: grid


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def changed_tokens(function, grid, row, column):
    """Where in the grid anything changes when one token does, by channel: (p p d)."""
    change = jnp.linspace(1.0, 2.0, grid.shape[-1])  # a constant one would be taken out by a normalisation
    difference = function(grid.at[:, row, column].add(jnp.broadcast_to(change, grid[:, row, column].shape))) - function(
        grid
    )
    return np.asarray(jnp.abs(difference).max(0) > 0.0)


def test_our_convolution_and_its_gradients_are_the_library_s():
    grid, kernel, weights = random(0, 2, 5, 5, 4), random(1, 3, 12, 6), random(2, 2, 5, 5, 6)
    theirs = lambda grid, kernel: jax.lax.conv_general_dilated(
        grid, kernel.reshape(3, 3, 4, 6), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve(grid, kernel), theirs(grid, kernel), atol=1e-5)
    gradients = [
        jax.grad(lambda *inputs, function=function: (weights * function(*inputs)).sum(), argnums=(0, 1))(grid, kernel)
        for function in (convolve, theirs)
    ]
    for ours, expected in zip(*gradients):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_convolution_stage_reaches_two_pixels_far():
    stage = ConvolutionStage(8, rngs=nnx.Rngs(0))
    changed = changed_tokens(lambda grid: stage(grid, unguided), random(0, 2, 7, 7, 8), 3, 3).any(-1)
    expected = np.zeros((7, 7), bool)
    expected[1:6, 1:6] = True
    np.testing.assert_array_equal(changed, expected)


def test_a_transformer_stage_does_not_know_the_order_of_its_tokens():
    stage = jax.jit(lambda grid: TransformerStage(8, heads=2, rngs=nnx.Rngs(0))(grid, unguided))
    grid = random(0, 2, 5, 5, 8)
    np.testing.assert_allclose(stage(grid[:, ::-1]), stage(grid)[:, ::-1], atol=1e-5)


def test_positions_tell_the_transformer_where_a_token_stands():
    branch = lambda patch: Branch(
        8,
        modalities={"hsi": 3},
        stages=[TransformerStage(8, heads=2, rngs=nnx.Rngs(0))],
        guides=[],
        patch=patch,
        dropout=0.0,
        rngs=nnx.Rngs(1),
    )
    image = random(0, 2, 5, 5, 3)
    for patch, knows in ((None, False), (5, True)):
        run = jax.jit(lambda image, patch=patch: branch(patch)({"hsi": image}, []))
        difference = jnp.abs(run(image[:, ::-1]) - run(image)[:, ::-1]).max()
        assert (difference > 1e-3) == knows


def test_a_causal_convolution_looks_at_two_tokens_before_in_the_row():
    convolve = DepthwiseConvolution(4, kind="causal", rngs=nnx.Rngs(0))
    changed = changed_tokens(convolve, random(0, 1, 5, 5, 4), 2, 1).any(-1)
    np.testing.assert_array_equal(np.argwhere(changed), [[2, 1], [2, 2], [2, 3]])


def test_a_square_convolution_looks_at_all_neighbours():
    convolve = DepthwiseConvolution(4, kind="square", rngs=nnx.Rngs(0))
    changed = changed_tokens(convolve, random(0, 1, 5, 5, 4), 2, 1).any(-1)
    expected = np.zeros((5, 5), bool)
    expected[1:4, 0:3] = True
    np.testing.assert_array_equal(changed, expected)


def scan_with(kind, order, grid):
    """The scan of `grid` with the directions' parameters in another order."""
    graph, state = nnx.split(kind(8, state=3, rngs=nnx.Rngs(0)))
    return jax.jit(nnx.merge(graph, jax.tree.map(lambda parameter: parameter[jnp.asarray(order)], state)))(grid)


def test_columns_are_scanned_as_rows_of_the_transposed_patch():
    grid = random(0, 2, 5, 5, 8)
    expected = jnp.swapaxes(scan_with(CrossScan, [2, 3, 0, 1], jnp.swapaxes(grid, 1, 2)), 1, 2)
    np.testing.assert_allclose(scan_with(CrossScan, [0, 1, 2, 3], grid), expected, atol=1e-5)


def test_backward_scans_are_forward_scans_of_the_patch_turned_by_half():
    grid = random(0, 2, 5, 5, 8)
    expected = scan_with(CrossScan, [1, 0, 3, 2], grid[:, ::-1, ::-1])[:, ::-1, ::-1]
    np.testing.assert_allclose(scan_with(CrossScan, [0, 1, 2, 3], grid), expected, atol=1e-5)


def test_each_quarter_of_a_grouped_scan_sees_what_lies_before_in_its_direction():
    scan = jax.jit(GroupedScan(8, state=3, rngs=nnx.Rngs(0)))
    changed = changed_tokens(scan, random(0, 2, 5, 5, 8), 2, 1)
    by_row = np.arange(25).reshape(5, 5)
    by_column = by_row.T
    seen = [by_row >= 11, by_row <= 11, by_column >= 7, by_column <= 7]
    for quarter, expected in enumerate(seen):
        np.testing.assert_array_equal(changed[..., 2 * quarter : 2 * quarter + 2].any(-1), expected)


def test_steps_start_between_a_thousandth_and_a_tenth():
    steps = jax.nn.softplus(step_bias(jax.random.key(0), (1000,)))
    assert steps.min() > 0.99e-3
    assert steps.max() < 1.01e-1
    np.testing.assert_allclose(jnp.log10(steps).mean(), -2.0, atol=0.1)


def test_decays_start_at_minus_1_to_minus_n():
    np.testing.assert_allclose(CrossScan(4, state=3, rngs=nnx.Rngs(0)).A[2, 1], [-1.0, -2.0, -3.0], rtol=1e-6)


def test_unknown_scans_and_convolutions_and_widths_that_do_not_fit_are_refused():
    stage = lambda **changes: MambaStage(
        10,
        **({"expansion": 1.0, "state": 2, "directions": "four", "convolution": "causal"} | changes),
        rngs=nnx.Rngs(0),
    )
    with pytest.raises(InputError, match="directions is 'two'; expected one of four, grouped"):
        stage(directions="two")
    with pytest.raises(InputError, match="convolution is 'round'; expected one of causal, square"):
        stage(convolution="round")
    with pytest.raises(InputError, match=r"multiple of 4 .* got 10; the nearest is 8"):
        stage(directions="grouped")


def test_the_scans_of_all_stages_share_one_trace(monkeypatch):
    traced, scan = [], directional_scan.selective_scan_2d
    monkeypatch.setattr(directional_scan, "selective_scan_2d", lambda *x, **how: traced.append(x) or scan(*x, **how))
    first, second = (GroupedScan(12, state=3, rngs=nnx.Rngs(seed)) for seed in range(2))
    jax.jit(lambda grid: second(first(grid)))(random(0, 2, 3, 3, 12))
    assert len(traced) == 1


@pytest.mark.parametrize("kind", [CrossScan, GroupedScan])
def test_on_a_mesh_every_device_scans_its_own_samples_and_gradients_are_the_same(kind):
    graph, parameters = nnx.split(kind(8, state=2, rngs=nnx.Rngs(0)))
    grid = random(0, 8, 3, 3, 8)
    gradients = jax.grad(lambda parameters, grid: (nnx.merge(graph, parameters)(grid) ** 2).sum())
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    @jax.jit
    def on_mesh(parameters, grid):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return gradients(parameters, grid)

    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shared_out = jax.device_put(grid, where)
    assert "shard_map" in str(on_mesh.trace(parameters, shared_out).jaxpr)
    for ours, expected in zip(
        jax.tree.leaves(on_mesh(parameters, shared_out)), jax.tree.leaves(jax.jit(gradients)(parameters, grid))
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
