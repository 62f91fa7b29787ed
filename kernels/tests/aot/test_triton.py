"""The Triton kernels compiled for an A100 that is not there."""

import pytest
from benchmarks import deviceless, triton_cost


@pytest.mark.skipif(deviceless.tools() is None, reason="needs jax's CUDA plugin and the wheels of ptxas and nvdisasm")
@pytest.mark.slow
def test_the_kernels_compile_without_spills_or_atomics():
    table = triton_cost.measure()
    assert set(table) == {"forward", "backward"}
    for row in table.values():
        assert row["spill_bytes"] == 0
        assert row["atomics"] == 0
    assert table["forward"]["registers"] <= 128
    assert table["backward"]["registers"] <= 200
