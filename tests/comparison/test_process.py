import signal
import subprocess
import sys
import threading
import time

from harp_tf.comparison import process
from harp_tf.comparison.process import alone, execute


def test_what_a_cell_prints_is_kept(tmp_path):
    log = tmp_path / "log.txt"
    with alone(tmp_path, print) as lock:
        assert execute(["-c", "print('one'); print('two')"], log, lock) == ""
        assert execute(["-c", "print('three')"], log, lock) == ""
    assert log.read_text() == "one\ntwo\nthree\n"


def test_cells_at_a_time_have_their_share_of_the_threads_unless_told_otherwise(tmp_path, monkeypatch):
    log, tell = tmp_path / "log.txt", "import os; print(os.environ.get('TF_NUM_INTRAOP_THREADS'))"
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    with alone(tmp_path, print) as lock:
        execute(["-c", tell], log, lock)
        execute(["-c", tell], log, lock, threads=3)
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
        execute(["-c", tell], log, lock, threads=3)
    assert log.read_text() == "None\n3\n5\n"


def test_cells_that_run_can_be_asked_to_end(tmp_path):
    cell = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
print("begun", flush=True)
time.sleep(60)
"""
    with alone(tmp_path, print) as lock:
        running = threading.Thread(target=execute, args=(["-c", cell], tmp_path / "log.txt", lock))
        running.start()
        while not (tmp_path / "log.txt").exists() or b"begun" not in (tmp_path / "log.txt").read_bytes():
            time.sleep(0.02)
        process.interrupt()
        running.join(30)
    assert (tmp_path / "log.txt").read_text() == "begun\nsaved\n"
    process.interrupt()  # of nothing


def test_why_a_cell_failed(tmp_path):
    log = tmp_path / "log.txt"
    with alone(tmp_path, print) as lock:
        mistake = "import sys; print('epoch 1'); print('error: no such data', file=sys.stderr); sys.exit(2)"
        assert execute(["-c", mistake], log, lock) == "no such data"
        assert execute(["-c", "print('epoch 1'); print(1 / 0)"], log, lock) == "ZeroDivisionError: division by zero"
        killed = "import os, signal; print('epoch 1', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        assert execute(["-c", killed], log, lock) == "ended by SIGKILL; its last line was 'epoch 1'"


KILLED = f"""
import runpy
from pathlib import Path
alone, execute = map(runpy.run_path({process.__file__!r}).get, ("alone", "execute"))  # without TensorFlow
cell = "import time\\nfor i in range(40): print(i, flush=True); time.sleep(0.1)\\nopen('whole', 'w').close()"
with alone(Path('.'), print) as lock:
    print('begun', flush=True)
    execute(['-c', cell], Path('log.txt'), lock)
"""


def test_a_cell_whose_comparison_was_killed_ends_and_gives_the_lock_back(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, stdout=subprocess.PIPE) as started:
        assert started.stdout.readline() == b"begun\n"
        while not (tmp_path / "log.txt").exists() or not (tmp_path / "log.txt").read_bytes():
            time.sleep(0.02)
        started.send_signal(signal.SIGKILL)
    said = []
    with alone(tmp_path, said.append):  # waits for the cell, which ends at its next line
        assert not (tmp_path / "whole").exists()
