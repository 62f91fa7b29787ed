import os
import signal
import threading

from bdgf_jax.training.preemption import noticing_preemption


def test_a_signal_is_noticed_and_the_earlier_handler_comes_back():
    earlier = signal.getsignal(signal.SIGTERM)
    with noticing_preemption() as preempted:
        assert not preempted(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preempted(2)
        assert preempted(3)
    assert signal.getsignal(signal.SIGTERM) == earlier


def test_a_thread_trains_without_touching_signals():
    earlier, answers = signal.getsignal(signal.SIGTERM), []

    def train():
        with noticing_preemption() as preempted:
            answers.append((preempted(1), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [(False, earlier)]
