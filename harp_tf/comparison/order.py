"""In which order the cells of a comparison are made, one or several at a time."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from harp_tf.comparison.cells import Cell

T = TypeVar("T")


def made(
    cells: Sequence[Cell], jobs: int, make: Callable[[Cell], T], stop: Callable[[], None] = lambda: None
) -> Generator[tuple[Cell, T], None, None]:
    """Makes cells, each after those that it starts from.

    Args:
        cells: the cells, each after those that it starts from.
        jobs: how many are made at a time.
        make: makes one; called in threads, whose work are other processes.
        stop: ends what is being made; called if it all ends before its time.

    Yields:
        Each cell and what `make` has returned for it, as soon as it is there. What starts from the cell begins after
        the caller has come back for the next one.
    """
    waiting = list(cells)
    running: dict[Future[T], Cell] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                missing = {cell.name for cell in (*waiting, *running.values())}
                ready = [cell for cell in waiting if not cell.after & missing]
                for cell in ready[: jobs - len(running)]:
                    waiting.remove(cell)
                    running[pool.submit(make, cell)] = cell
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            stop()  # the pool waits for its threads
            raise
