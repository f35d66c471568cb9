import gc
import os
import signal

import pytest

from harp_tf.training import Interrupted, Interruption


def test_a_signal_ends_at_once_with_the_status_of_schedulers():
    interruption = Interruption()
    with pytest.raises(Interrupted) as ended, interruption.watched():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


def test_inside_a_training_it_is_noted():
    interruption = Interruption()
    with pytest.raises(Interrupted, match="130"), interruption.watched(), interruption.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.received == signal.SIGINT


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_python_swallows_in_a_finaliser_is_raised_at_the_next_check():
    class Object:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))  # the handler runs here, and nobody sees what it raises

    interruption = Interruption()
    with interruption.watched():
        interruption.check()
        thing = Object()
        del thing
        gc.collect()
        assert interruption.received == signal.SIGTERM
        with pytest.raises(Interrupted):
            interruption.check()
