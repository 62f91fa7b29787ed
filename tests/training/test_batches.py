"""Samples that are read ahead of the steps: in the stream's order, from where a run stopped, each process its own."""

import json
import subprocess
import time

import jax
import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.training.batches import opened
from bdgf_jax.training.indices import IndexStream
from bdgf_jax.training.mesh import make_mesh


class Numbers:
    """Samples that are their own numbers."""

    name = "numbers"

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, numbers):
        return {"number": numbers}


def assert_same(one, another):
    jax.tree.map(np.testing.assert_array_equal, one, another)


def drawn(stream, start, steps, position=None, samples=None, together=1):
    mesh = make_mesh({"data": -1})
    samples = samples or Numbers(stream.samples)
    with opened(samples, stream, mesh, start=start, steps=steps, together=together, position=position) as batches:
        several = [np.asarray(next(batches)["number"]) for _ in range(start, steps, together)]
        return list(np.concatenate(several)), batches.position()


def test_samples_that_are_read_train_as_samples_at_hand(finished, toy, tmp_path):
    assert_same(toy.train(tmp_path, samples=toy.Read()), finished[1])


def test_a_run_that_was_killed_sees_the_batches_that_it_would_have_seen(finished, toy, tmp_path):
    process = subprocess.Popen(**toy.program(tmp_path, 30, 1, "read"))
    saved = lambda: [int(path.name) for path in (tmp_path / "checkpoints").glob("*") if path.name.isdecimal()]
    while max(saved(), default=0) < 10:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.communicate()
    last = max(saved())
    assert last < 30
    written = json.loads((tmp_path / "checkpoints" / str(last) / "batches" / "metadata").read_text())
    assert written["iterator"] == {"next_index": last}  # though more were read ahead
    assert_same(toy.train(tmp_path, samples=toy.Read()), finished[1])


def test_the_iterator_goes_on_where_it_was():
    stream = IndexStream(40, batch_size=16, seed=1)
    whole, _ = drawn(stream, 0, 7)
    first, position = drawn(stream, 0, 3)
    rest, _ = drawn(stream, 3, 7, json.loads(json.dumps(position)))
    assert_same(first + rest, whole)


def test_it_finds_its_place_when_batches_of_other_numbers_of_steps_are_drawn():
    stream = IndexStream(40, batch_size=16, seed=1)
    whole, _ = drawn(stream, 0, 8)
    first, position = drawn(stream, 0, 4, together=2)
    rest, _ = drawn(stream, 4, 8, position, together=4)
    assert_same(first + rest, whole)


def test_the_shares_of_two_processes_are_disjoint_and_together_the_epoch():
    shares = [drawn(IndexStream(64, batch_size=32, seed=2, process=(index, 2)), 0, 2)[0] for index in (0, 1)]
    alone, _ = drawn(IndexStream(64, batch_size=32, seed=2), 0, 2)
    assert sorted(np.concatenate([*shares[0], *shares[1]]).tolist()) == list(range(64))
    for first, second, both in zip(*shares, alone):
        np.testing.assert_array_equal(np.concatenate([first, second]), both)


def test_other_samples_than_those_of_the_checkpoint_are_refused():
    stream = IndexStream(40, batch_size=16, seed=1)
    _, position = drawn(stream, 0, 2)
    message = r"goes on in 'numbers' of 40 samples, and 'numbers' of 41 is given: the files were changed"
    with pytest.raises(InputError, match=message):
        drawn(stream, 2, 3, position, Numbers(41))


def test_an_error_of_a_reader_is_the_run_s():
    class Broken(Numbers):
        def __getitem__(self, numbers):
            raise InputError("tile 7 cannot be read")

    with pytest.raises(InputError, match="tile 7 cannot be read"):
        drawn(IndexStream(40, batch_size=16, seed=1), 0, 1, samples=Broken(40))
