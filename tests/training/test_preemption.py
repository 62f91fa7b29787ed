import os
import signal
import subprocess
import threading

from bdgf_jax.training.preemption import heeding_preemption


def test_what_is_held_is_asked_and_the_earlier_handler_comes_back():
    earlier = signal.getsignal(signal.SIGTERM)
    with heeding_preemption("farewell") as preemption:
        preemption.hold()
        assert not preemption.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.asked()
        assert preemption.asked()
    assert signal.getsignal(signal.SIGTERM) == earlier
    assert signal.set_wakeup_fd(-1) == -1


def test_a_stretch_within_another_hands_the_signal_back_to_it():
    with heeding_preemption("farewell") as whole:
        whole.hold()
        with heeding_preemption("farewell") as stretch:
            stretch.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        assert whole.asked()
        assert not stretch.asked()


def test_a_thread_trains_without_touching_signals():
    earlier, answers = signal.getsignal(signal.SIGTERM), []

    def train():
        with heeding_preemption("farewell") as preemption:
            answers.append((preemption.asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [(False, earlier)]


def sigterm_when(started, sign):
    """What a program says, and its status, where SIGTERM follows its saying `sign`."""
    process = subprocess.Popen(**started)
    heard = ""
    while sign not in heard:
        line = process.stderr.readline()
        assert line, f"it ended before it said {sign!r}: {heard[-2000:]}"
        heard += line
    process.terminate()
    said, more = process.communicate(timeout=60)
    return said, heard + more, process.returncode


def test_a_compilation_is_not_waited_for(toy, tmp_path):
    started = toy.program(tmp_path, 30, 10, "compile") | {"stderr": subprocess.PIPE}
    started["env"]["JAX_LOG_COMPILES"] = "1"
    said, heard, status = sigterm_when(started, "Compiling jit(steps)")
    assert status == 0
    assert said == (
        "Training was asked to stop (SIGTERM) before its first step; what was saved is whole.\n"
        "The same command continues from there.\n"
    )
    assert "Finished XLA compilation of jit(steps)" not in heard
