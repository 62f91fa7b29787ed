import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from bdgf_jax.training.log import RunLog


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def events(folder):
    """(step, tag, value) of all TensorBoard events: records of length, its checksum, content, its checksum."""
    found = []
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


@pytest.fixture
def folder(tmp_path):
    with RunLog(tmp_path, step=0) as log:
        for step in (1, 10, 20):
            log.write(step, {"loss": 1.0 / step, "skipped": 0})
    return tmp_path


def test_a_line_and_an_event_are_written_for_each_figure(folder):
    assert [(line["step"], line["loss"]) for line in lines(folder)] == [(1, 1.0), (10, 0.1), (20, 0.05)]
    assert (10, "loss", pytest.approx(0.1)) in events(folder)


def test_what_was_logged_after_the_restored_step_is_cut(folder):
    with RunLog(folder, step=10) as log:
        log.write(20, {"loss": 0.5})
    assert [(line["step"], line["loss"]) for line in lines(folder)] == [(1, 1.0), (10, 0.1), (20, 0.5)]


def test_a_line_that_a_kill_cut_short_is_dropped(folder):
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 25, "lo')
    with RunLog(folder, step=40) as log:
        log.write(41, {"loss": 0.5})
    assert [line["step"] for line in lines(folder)] == [1, 10, 20, 41]


def test_seconds_go_on_where_the_earlier_run_stopped(folder):
    path = folder / "log.jsonl"
    path.write_text('{"step": 1, "seconds": 1000.0, "loss": 1.0}\n')
    with RunLog(folder, step=1) as log:
        log.write(2, {"loss": 0.5})
    assert 1000.0 <= lines(folder)[-1]["seconds"] < 1010.0


def test_a_figure_that_is_not_finite_is_null_so_that_any_json_reader_copes(tmp_path):
    with RunLog(tmp_path, step=0) as log:
        log.write(1, {"loss": float("nan"), "best": float("inf")})
    (line,) = lines(tmp_path)
    assert [line["loss"], line["best"]] == [None, None]


def test_a_process_that_does_not_write_leaves_nothing(tmp_path):
    with RunLog(tmp_path, step=0, written=False) as log:
        log.write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
