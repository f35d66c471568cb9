"""Silence for C++ code that writes to the process's own stdout and stderr."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Catches everything written to stdout and stderr, by Python and by native code alike.

    The TFLite converter and interpreter log from C++, past `sys.stdout`, so the file descriptors
    themselves are redirected. They belong to the whole process: other threads are silenced too.

    Yields:
        A function that returns the text caught so far.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink, contextlib.ExitStack() as restore:
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            restore.callback(os.close, saved)
            restore.callback(os.dup2, saved, descriptor)
            os.dup2(sink.fileno(), descriptor)
        python_sink = open(os.dup(sink.fileno()), "w", buffering=1, errors="replace")
        restore.enter_context(python_sink)
        # A notebook's or a test's sys.stdout does not write to the descriptors.
        restore.enter_context(contextlib.redirect_stdout(python_sink))
        restore.enter_context(contextlib.redirect_stderr(python_sink))

        # Without a handler of the root logger, logging.info() would install one on the sink, and never remove it.
        handler = logging.StreamHandler(python_sink)
        logging.root.addHandler(handler)
        restore.callback(logging.root.removeHandler, handler)

        def text() -> str:
            python_sink.flush()
            size = os.fstat(sink.fileno()).st_size
            return os.pread(sink.fileno(), size, 0).decode(errors="replace")

        yield text
