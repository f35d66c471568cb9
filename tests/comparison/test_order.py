import threading

import pytest

from harp_tf.comparison import Axes, plan
from harp_tf.comparison.order import made
from harp_tf.config import RunConfig

CELLS = plan(RunConfig(), Axes(("harp", "lwm", "dense_control"), (0.9,), ("pgd", "mart"), (0, 1)))


@pytest.mark.parametrize("jobs", [1, 3, 40])
def test_every_cell_is_made_once_and_after_the_one_that_it_starts_from(jobs):
    done, begun = [], []

    def make(cell):
        assert cell.after <= set(done)
        begun.append(cell.name)
        return cell.name

    for cell, name in made(CELLS, jobs, make):
        assert name == cell.name
        done.append(name)
    assert sorted(done) == sorted(cell.name for cell in CELLS) and sorted(begun) == sorted(done)
    if jobs == 1:
        assert done == [cell.name for cell in CELLS]


def test_so_many_are_made_at_a_time_and_no_more():
    together, lock, most = threading.Barrier(2, timeout=30), threading.Lock(), 0
    now = 0

    def make(cell):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if not cell.after:  # both dense models, each of which would wait for the other for ever
            together.wait()
        with lock:
            now -= 1

    assert len(list(made(CELLS, 2, make))) == len(CELLS)
    assert most == 2


@pytest.mark.parametrize("ends", ["consumer", "cell"])
def test_what_runs_is_stopped_when_all_ends_before_its_time(ends):
    stopped = threading.Event()

    def make(cell):
        if ends == "cell" and cell is CELLS[0]:
            raise ValueError("a mistake of the program")
        if cell is CELLS[1] or ends == "cell":
            assert stopped.wait(30)

    making = made([cell for cell in CELLS if not cell.after], 2, make, stopped.set)
    if ends == "cell":
        with pytest.raises(ValueError, match="a mistake"):
            list(making)
    else:
        next(making)
        making.close()
    assert stopped.is_set()


def test_the_mistake_of_one_is_the_mistake_of_all():
    def make(cell):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        list(made(CELLS, 2, make))
