"""How far a long measurement has come: one line that renews itself in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping

from harp_tf.report import labels

_SECONDS = 30.0
_BAR = 24


class Progress:
    """Shows the progress of one evaluation.

    Args:
        name: of what is evaluated.
        total: number of images.
        say: receives whole lines.
        interactive: whether standard output is a terminal; None asks it.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        name: str,
        total: int,
        say: Callable[[str], None] = print,
        interactive: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._total, self._say, self._clock = name, total, say, clock
        self._interactive = sys.stdout.isatty() if interactive is None else interactive
        self._last = clock()
        self._width = 0

    def show(self, done: int, work: str, robust: Mapping[str, float]) -> None:
        """Shows how far things are.

        Args:
            done: finished images.
            work: what is being done; empty when a batch is finished.
            robust: robust accuracy so far, by attack.
        """
        figures = ", ".join(f"{labels.attack(name)} {labels.percent(share)} %" for name, share in robust.items())
        count = f"{done:,} of {self._total:,} test images"
        finished = done >= self._total
        if self._interactive:
            full = round(_BAR * done / self._total) if self._total else _BAR
            bar = "█" * full + "·" * (_BAR - full)
            line = "  ".join(filter(None, [f"{self._name} {bar} {count}", work, figures]))
            sys.stdout.write("\r" + line.ljust(self._width) + ("\n" if finished else ""))
            sys.stdout.flush()
            self._width = len(line)
        elif finished or self._clock() - self._last >= _SECONDS:
            self._last = self._clock()
            self._say(f"{self._name}: " + "; ".join(filter(None, [count, work, figures])))
