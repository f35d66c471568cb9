"""Kills training runs at random moments, damages what they saved, and checks that they end as if nothing had been.

`python tools/fault_campaign.py --output=faults.json` starts tiny runs on the digits, with two ways to prune, and ends
them in all stages by SIGKILL. It truncates, empties, flips bits of and removes their checkpoints, fills their disk,
makes it read-only and turns the clock back. Each run is started again until it ends, and must then hold the same bytes
as a run that nobody disturbed. Prints a table and leaves with status 1 if one does not. Ten minutes on two cores.

TensorFlow is imported once; each run is a forked child, which is why this process itself may not compute anything.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import harp_tf.train

for slow in ("matplotlib.pyplot", "sklearn.datasets"):  # else each child imports them
    importlib.import_module(slow)

STAGES = ("pretrain", "prune", "finetune", "export", "evaluate")
FILES = ("dense.keras", "scored.keras", "pruned.keras", "rates.json", "rates_channel.json", "results.json")
FILES += ("model.tflite", "model_sparse.tflite")
MODEL = """
import keras
from keras import layers


def build(input_shape, num_classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(num_classes),
        ]
    )
"""
COMMON = (
    "--train_limit=192 --test_limit=300 --batch_size=16 --model=model_of_the_campaign:build --eps=0.1 --attack_steps=2 "
    "--eval_steps=10 --pretrain_epochs=3 --prune_epochs=2 --finetune_epochs=2 --gamma=0.3 --checkpoint_minutes=0"
)
WAYS = {
    "weights, pgd": f"{COMMON} --target_sparsity=0.8",
    "channels then weights, free": f"{COMMON} --target_sparsity=0.8 --granularity=channel,weight "
    "--channel_sparsity=0.3 --channel_multiple=1 --loss=free --replays=1 --optimizer=adam --prune_learning_rate=0.01",
}
LIMIT = 240
"""Seconds that a child may take."""


class Child:
    """`python -m harp_tf.train FLAGS` in a forked process, whose words go to a file.

    Args:
        flags: of the command line.
        run_dir: its --run_dir.
        prepare: called in the child first.
    """

    def __init__(self, flags: str, run_dir: Path, prepare: Callable[[], None] = lambda: None):
        self.log = _log(run_dir)
        self.log.touch()
        self._from = self.log.stat().st_size
        self._began = time.monotonic()
        self.status: int | None = None
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid:
            return
        try:
            sink = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(sink, stream)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            # Pictures are seconds a run, and no results.
            harp_tf.report.theme.save = lambda figures, folder: dict.fromkeys(figures, "<svg/>")
            prepare()
            sys.argv = ["harp_tf/train.py", *flags.split(), f"--run_dir={run_dir}"]
            del sys.modules["harp_tf.train"]
            runpy.run_module("harp_tf.train", run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)

    def words(self) -> str:
        """What it has said so far."""
        with open(self.log, "rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - self._began > LIMIT:
                self.kill()
                raise TimeoutError(f"a child did not end in {LIMIT} s, see {self.log}")
        return self.status is not None

    def until(self, text: str) -> bool:
        """Waits until it has said something; False if it has ended before."""
        while text not in self.words():
            if self.ended():
                return False
            time.sleep(0.02)
        return True

    def wait(self) -> int:
        while not self.ended():
            time.sleep(0.02)
        return self.status or 0

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Sends a signal and waits for the end; False if it had ended."""
        if self.status is not None:
            return False
        os.kill(self._pid, number)
        if number == signal.SIGKILL:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        else:
            self.wait()
        return True


class Reference:
    """A run that nobody disturbs: what it leaves, and how long its stages take.

    Args:
        way: name of its settings.
        folder: where it is made.
    """

    def __init__(self, way: str, folder: Path):
        self.flags, self.run_dir = WAYS[way], folder / "whole"
        folder.mkdir(parents=True)
        self.seconds: dict[str, float] = {}
        child, last = Child(self.flags, self.run_dir), time.monotonic()
        for stage, following in zip(STAGES, [*(f"== {stage} ==" for stage in STAGES[1:]), "Report:"]):
            child.until(f"== {stage} ==")
            last = time.monotonic()
            child.until(following)
            self.seconds[stage] = time.monotonic() - last
        if child.wait():
            raise RuntimeError(f"the undisturbed run failed:\n{child.words()}")
        self.left = outcome(self.run_dir)


def outcome(run_dir: Path) -> dict[str, object]:
    """All that must be the same: files byte by byte, and the metrics but for the times."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    untimed = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    files = {name: (run_dir / name).read_bytes() for name in FILES if (run_dir / name).exists()}
    junk = [str(path.relative_to(run_dir)) for path in run_dir.rglob(".*.tmp")] + sorted(run_dir.glob("checkpoints"))
    return {**files, "metrics.jsonl": untimed, "left over": junk}


class Campaign:
    """The faults, and a tally of how the runs ended.

    Args:
        seed: of the moments and the bits.
        folder: for the runs.
    """

    def __init__(self, seed: int, folder: Path):
        self.random, self.folder = random.Random(seed), folder
        (folder / "model_of_the_campaign.py").write_text(MODEL)
        sys.path.insert(0, str(folder))
        self.tally: list[dict] = []
        self.ways = {way: Reference(way, folder / f"reference{i}") for i, way in enumerate(WAYS)}

    def kill_at_random(self, reference: Reference, run_dir: Path, stage: str, **child) -> bool:
        """Starts a run and kills it at a random moment of a stage; False if it had ended by then."""
        begun = Child(reference.flags, run_dir, **child)
        if begun.until(f"== {stage} =="):
            time.sleep(self.random.uniform(0, 1.2 * reference.seconds[stage]))
        return not begun.ended() and begun.kill()

    def finish(self, reference: Reference, run_dir: Path, faults: dict[str, int], said: str = "", **child) -> None:
        """Lets a run end, and notes whether it is as it would have been, and that it has said something."""
        last = Child(reference.flags, run_dir, **child)
        status = last.wait()
        different = []
        if status == 0:
            found = outcome(run_dir)
            different = [name for name in {*found, *reference.left} if found.get(name) != reference.left.get(name)]
        words = _log(run_dir).read_text(errors="replace")
        if said not in words:
            different.append(f"did not say {said!r}")
        self.note(
            faults,
            status == 0 and not different,
            f"status {status}, different: {different}" if status or different else "",
        )

    def note(self, faults: dict[str, int], passed: bool, why: str = "") -> None:
        self.tally.append({"faults": faults, "passed": passed, **({} if passed else {"why": why})})
        print(f"{'ok  ' if passed else 'FAIL'} {', '.join(f'{n} x {f}' for f, n in faults.items())} {why}", flush=True)

    # Faults ------------------------------------------------------------------------------------------------------

    def kills(self, wanted: int) -> None:
        """Runs that are killed five times or so, in all stages."""
        done, number = 0, 0
        while done < wanted:
            reference = list(self.ways.values())[number % len(self.ways)]
            run_dir = self.folder / f"killed{number}"
            faults: dict[str, int] = {}
            for stage in STAGES if number % 3 else ("pretrain", "prune", "prune", "finetune", "evaluate", "evaluate"):
                if self.kill_at_random(reference, run_dir, stage):
                    faults[f"SIGKILL in {stage}"] = faults.get(f"SIGKILL in {stage}", 0) + 1
            self.finish(reference, run_dir, faults)
            done, number = done + sum(faults.values()), number + 1

    def damages(self) -> None:
        """Checkpoints that are not what was written: the one before is used, or the training begins anew."""
        damages: dict[str, Callable[[Path], None]] = {
            "truncated arrays": lambda path: _cut(path / "arrays.npz", self.random.random()),
            "emptied arrays": lambda path: _cut(path / "arrays.npz", 0.0),
            "bit flipped in arrays": lambda path: self._flip(path / "arrays.npz"),
            "missing arrays": lambda path: (path / "arrays.npz").unlink(),
            "truncated manifest": lambda path: _cut(path / "manifest.json", self.random.random()),
            "emptied manifest": lambda path: _cut(path / "manifest.json", 0.0),
            "bit flipped in manifest": lambda path: self._flip(path / "manifest.json"),
            "missing manifest": lambda path: (path / "manifest.json").unlink(),
            "emptied checkpoint": lambda path: [file.unlink() for file in path.iterdir()],
        }
        names = list(damages)
        for number, reference in enumerate([*self.ways.values()] * 2):
            run_dir, faults = self.folder / f"damaged{number}", {}
            for stage in ("pretrain", "prune", "finetune"):
                child = Child(reference.flags, run_dir)
                child.until(f"{stage} 1/")  # an epoch is done: there are two checkpoints
                time.sleep(self.random.uniform(0, 0.3))
                child.kill()
                found = sorted(run_dir.glob("checkpoints/*/epoch_*"))
                name = names.pop(0) if names else "all checkpoints bit-flipped"
                for path in found[-1:] if name in damages else found:
                    damages.get(name, damages["bit flipped in arrays"])(path)
                if found:
                    faults[f"SIGKILL, {name}"] = faults.get(f"SIGKILL, {name}", 0) + 1
            self.finish(reference, run_dir, faults, said="is damaged and left out")

    def damaged_artefacts(self) -> None:
        """A file of a finished stage that is not what the stage has left: the stage is done again."""
        reference = next(iter(self.ways.values()))
        run_dir = self.folder / "artefact"
        shutil.copytree(reference.run_dir, run_dir)
        self._flip(run_dir / "scored.keras")
        self.finish(reference, run_dir, {"finished run, bit flipped in scored.keras": 1}, said="begin anew")

    def signals(self) -> None:
        """SIGTERM and SIGINT: the status that schedulers expect, and nothing is lost."""
        reference = next(iter(self.ways.values()))
        for number in (signal.SIGTERM, signal.SIGINT):
            run_dir = self.folder / f"signal{number}"
            for stage in ("prune", "evaluate"):
                child = Child(reference.flags, run_dir)
                child.until(f"== {stage} ==")
                time.sleep(self.random.uniform(0.2, 0.7) * reference.seconds[stage])
                if not child.ended() and child.kill(number) and child.status != 128 + number:
                    self.note({f"{number.name} in {stage}": 1}, False, f"status {child.status}")
            self.finish(reference, run_dir, {f"{number.name} in prune and evaluate": 1}, said=f"{number.name}: stopped")

    def second_process(self) -> None:
        """A second process on the same run directory is refused, and the first one goes on."""
        reference = next(iter(self.ways.values()))
        run_dir = self.folder / "twice"
        first = Child(reference.flags, run_dir)
        first.until("== pretrain ==")
        second = Child(reference.flags, run_dir)
        refused = second.wait() == 2 and "Another process is writing" in second.words()
        first.wait()
        self.finish(reference, run_dir, {"two processes": 1}, said="Another process is writing")
        if not refused:
            self.note({"two processes": 1}, False, f"the second one was not refused: {second.words()[-500:]}")

    def clock(self) -> None:
        """A clock that stands in the past after every start, and file times that say nothing."""
        reference = next(iter(self.ways.values()))
        run_dir, faults = self.folder / "clock", 0
        for start, stage in enumerate(("pretrain", "prune", "finetune")):
            faults += self.kill_at_random(reference, run_dir, stage, prepare=lambda start=start: _turn_back(start + 1))
            for path in run_dir.rglob("*"):
                moment = self.random.uniform(0, 2e9)
                os.utime(path, (moment, moment))
        fault = {"SIGKILL, clock turned back": faults}
        self.finish(reference, run_dir, fault, prepare=lambda: _turn_back(9))

    def full_disk(self) -> None:
        """No room for a checkpoint: one line that says how much is needed, and the run goes on when there is room."""
        reference = next(iter(self.ways.values()))
        with _small_disk(self.folder / "small", "24m") as disk:
            run_dir = disk / "run"
            child = Child(reference.flags, run_dir)
            child.until("prune 1/")
            with open(disk / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            status, error = child.wait(), child.words().splitlines()[-1]
            clear = status == 2 and error.startswith("error: ") and str(run_dir) in error
            again = Child(reference.flags, run_dir)
            clear = clear and again.wait() == 2 and again.words().splitlines()[-1].startswith("error: ")
            (disk / "ballast").unlink()
            if not clear:
                self.note({"full disk": 1}, False, f"status {status}: {error}; {again.words()[-300:]}")
            self.finish(reference, run_dir, {"full disk": 1}, said="No space left")

    def read_only(self) -> None:
        """A run directory that cannot be written: one line says so, nothing changes."""
        reference = next(iter(self.ways.values()))
        with _small_disk(self.folder / "frozen", "64m") as disk:
            run_dir = disk / "run"
            self.kill_at_random(reference, run_dir, "prune")
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            refused = Child(reference.flags, self.folder / "frozen" / "run")
            clear = refused.wait() == 2 and "cannot be written: Read-only file system" in refused.words()
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            if not clear:
                self.note({"read-only directory": 1}, False, refused.words()[-300:])
            self.finish(reference, run_dir, {"SIGKILL, read-only directory": 1})

    def _flip(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        path.write_bytes(data)


def _log(run_dir: Path) -> Path:
    """Where the words of a run go: never on a disk that is to be full."""
    folder = run_dir.parent.parent if os.path.ismount(run_dir.parent) else run_dir.parent
    return folder / f"{run_dir.parent.name}_{run_dir.name}.log"


def _cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def _turn_back(years: int) -> None:
    """In a child: every start finds the clock a year earlier, and it runs backwards."""
    begin, now = time.monotonic(), time.time()
    time.time = lambda: now - years * 3.15e7 - (time.monotonic() - begin)


@contextlib.contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="kill runs at so many random moments, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--output", type=Path, help="JSON file for the tally")
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="harp_faults_") as folder:
        campaign = Campaign(arguments.seed, Path(folder))
        try:
            campaign.full_disk()
            campaign.read_only()
        except subprocess.CalledProcessError:
            print("full disk and read-only directory: left out, this user may not mount a small disk")
        campaign.damaged_artefacts()
        campaign.signals()
        campaign.second_process()
        campaign.clock()
        campaign.damages()
        campaign.kills(arguments.kills)
    counts: dict[str, int] = {}
    for row in campaign.tally:
        for fault, number in row["faults"].items():
            counts[fault] = counts.get(fault, 0) + number
    failed = [row for row in campaign.tally if not row["passed"]]
    print(f"\n{'fault':58}  times")
    for fault, number in counts.items():
        print(f"{fault:58}  {number:5}")
    summary = {
        "runs": len(campaign.tally),
        "failed": failed,
        "faults": counts,
        "sigkills": sum(number for fault, number in counts.items() if fault.startswith("SIGKILL")),
        "seconds": round(time.monotonic() - begin),
        "seed": arguments.seed,
    }
    print(f"\n{summary['sigkills']} SIGKILLs, {len(campaign.tally)} runs, {len(failed)} failed, {summary['seconds']} s")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
