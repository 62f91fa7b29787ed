import jax
import jax.numpy as jnp
import pytest

from experiments.throughput import brief, compiled, plot, spread, table, timings, whole_map, with_accuracy


def test_flops_of_a_product_are_those_of_the_textbook():
    a = jnp.ones((64, 32), jnp.float32)
    b = jnp.ones((32, 16), jnp.float32)
    program, counted = compiled(jax.jit(jnp.matmul), a, b)
    assert counted["flops"] == pytest.approx(2 * 64 * 32 * 16, rel=0.05)
    assert counted["peak_bytes"] >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert len(timings(lambda: program(a, b), 3)) == 3


def test_rates_are_those_of_the_median_time():
    row = spread([1.0, 2.0, 9.0], 100, "pixels", {"flops": 1000.0, "peak_bytes": 8, "compile_seconds": 0.5})
    assert row["pixels_per_second"] == 50.0
    assert row["flops_per_pixel"] == 10.0
    assert row["flops_per_second"] == 500.0


def test_a_maps_time_is_that_of_guidance_and_prediction_together():
    part = lambda rate, flops: {"pixels_per_second": rate, "flops_per_pixel": flops, "peak_bytes": 1}
    row = whole_map({"stride": 3, "branches": ["cnn"]} | part(300.0, 10.0), [part(600.0, 20.0), part(200.0, 0.0)])
    assert row["pixels_per_second"] == pytest.approx(100.0)
    assert row["flops_per_pixel"] == 30.0
    assert row["flops_per_second"] == pytest.approx(3000.0)


def test_rows_stand_in_table_and_figure(tmp_path):
    shared = {"stretch": "predict", "flops_per_pixel": 2e6, "fraction_of_matmul_peak": 0.25, "peak_bytes": 2**20}
    shared |= {"fraction_of_narrow_matmul_peak": 0.75}
    rows = [
        shared | {"stride": stride, "branches": branches, "pixels_per_second": 1000.0 * stride**2}
        for stride in (1, 3)
        for branches in (["cnn", "mamba"], ["cnn"], ["mamba"])
    ]
    assert "| predict | 3 | cnn, mamba | 9,000 pixels | 2.00 | 25%, 75% | 1 |  |  |  |" in table(rows)
    assert brief(rows[3]) == "predict, stride 3, cnn, mamba: 9,000 pixels a second"
    plot(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5_000


def test_a_rate_stands_beside_the_accuracy_of_its_stride_and_branches():
    record = {"variants": {"stride 1": {"oa": [0.7, 0.9]}}, "subsets": {"cnn": [0.5], "cnn, mamba": [0.6, 0.7]}}
    oa = lambda stretch, stride, *branches: with_accuracy(
        {"stretch": stretch, "stride": stride, "branches": list(branches)}, record, centre=3
    ).get("oa")
    assert oa("predict", 1, "cnn", "mamba") == pytest.approx(0.8)
    assert oa("predict", 3, "cnn", "mamba") == pytest.approx(0.65)
    assert oa("map", 3, "cnn") == 0.5
    assert oa("predict", 1, "cnn") is None
    assert oa("train", 3, "cnn", "mamba") is None
