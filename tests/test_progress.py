import io

import pytest
from rich.console import Console

import bdgf_jax.progress as module
from bdgf_jax.progress import progress


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_without_a_terminal_the_first_the_last_and_a_line_every_five_seconds_are_written(clock, capsys):
    with progress("Pre-training", 320) as bar:
        for step in range(320):
            clock.now += 1 / 16
            bar.advance(loss=1.0 / (step + 1))
    assert capsys.readouterr().err.splitlines() == [
        "Pre-training  0/320 step  0 %",
        "Pre-training  80/320 step  25 %  16.0 step/s  loss 0.0125  left 0:15",
        "Pre-training  160/320 step  50 %  16.0 step/s  loss 0.00625  left 0:10",
        "Pre-training  240/320 step  75 %  16.0 step/s  loss 0.00417  left 0:05",
        "Pre-training  320/320 step  100 %  16.0 step/s  loss 0.00313  took 0:20",
    ]


def test_the_first_slow_unit_and_what_was_done_before_do_not_count_for_the_rate(clock, capsys):
    with progress("Training", 1000, start=800) as bar:
        clock.now += 60.0  # compilation
        bar.advance()
        for _ in range(10):
            clock.now += 0.1
            bar.advance()
        assert bar.rate == pytest.approx(10.0)
    assert "Training  800/1000 step  80 %\n" in capsys.readouterr().err


def test_the_rate_follows_the_work_of_late(clock):
    with progress("Training", 10_000) as bar:
        for _ in range(100):
            clock.now += 1.0
            bar.advance()
        for _ in range(400):
            clock.now += 0.1
            bar.advance()
        assert bar.rate == pytest.approx(10.0, rel=0.05)


def test_work_that_breaks_off_says_how_far_it_came(clock, capsys):
    def work():
        with progress("Reading", 10, "file") as bar:
            bar.advance(3)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert capsys.readouterr().err.splitlines()[-1].startswith("Reading  3/10 file  30 %")


def test_a_figure_stands_until_the_next_of_its_name(clock, capsys):
    with progress("Training", 3) as bar:
        for figures in ({"loss": 0.5}, {"oa": 0.75}, {}):
            clock.now += 6.0
            bar.advance(**figures)
    assert "loss 0.500  oa 0.750" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4123, "0.412"), (12.44, "12.4"), (123456.7, "123457"), (0.000012, "1.20e-05"), (-250.2, "-250")],
)
def test_figures_are_short(value, text):
    assert module._figure(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (226.0, "3:46"), (59.7, "1:00"), (3826.0, "1:03:46")])
def test_times_read_like_a_clock(seconds, text):
    assert module._clock(seconds) == text


@pytest.mark.parametrize("width", [140, 50])
def test_on_a_terminal_a_bar_is_drawn_on_one_line(monkeypatch, width):
    screen = io.StringIO()
    monkeypatch.setattr(module, "_CONSOLE", Console(file=screen, force_terminal=True, width=width, color_system=None))
    with progress("Training", 20) as bar:
        for _ in range(20):
            bar.advance(loss=0.25)
    drawn = screen.getvalue()
    assert "Training" in drawn
    assert "20/20 step  100 %" in drawn
    assert "loss 0.250" in drawn or width < 100
    assert "━" in drawn or width < 100
    assert drawn.count("\n") <= 2


def test_nothing_is_shown_by_the_other_processes(capsys):
    with progress("Training", 2, shown=False) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_no_work_at_all_is_done_at_once(capsys):
    with progress("Reading", 0, "file"):
        pass
    assert "0/0 file" in capsys.readouterr().err
