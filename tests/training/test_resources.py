"""Disk and memory that run short."""

import shutil

import keras
import pytest

from harp_tf.training import WatchMemory, require_disk, training_bytes
from harp_tf.training.resources import available_memory, resident_memory
from harp_tf.types import HarpError

MIB = 2**20


@pytest.fixture
def machine(tmp_path):
    """A function that writes what Linux tells of its memory, in MiB, and returns the folder."""

    def write(available, total=16_384, swap=0, group=None, version=2, resident=100):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/meminfo").write_text(
            f"MemTotal:  {1024 * total} kB\nMemFree: 7 kB\nMemAvailable: {1024 * available} kB\n"
            f"SwapTotal: {1024 * swap} kB\nSwapFree: {1024 * swap} kB\nHugePages_Total: 0\n"
        )
        pages = resident * MIB // shutil.os.sysconf("SC_PAGE_SIZE")
        (tmp_path / "proc/self/statm").write_text(f"99999 {pages} 5 1 0 7 0\n")
        if group is not None:
            limit, used, cache = group
            folder = tmp_path / ("sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory")
            folder.mkdir(parents=True, exist_ok=True)
            names = ("memory.max", "memory.current", "inactive_file")
            if version == 1:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            (folder / names[0]).write_text(f"{limit if limit == 'max' else limit * MIB}\n")
            (folder / names[1]).write_text(f"{used * MIB}\n")
            (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache * MIB}\n")
        return tmp_path

    return write


def test_the_memory_of_the_machine(machine):
    assert available_memory(machine(300, swap=50)) == (350 * MIB, (16_384 + 50) * MIB)
    assert resident_memory(machine(300)) == 100 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts_without_its_file_cache(machine, version):
    assert available_memory(machine(9_000, group=(2_000, 1_900, 700), version=version)) == (800 * MIB, 2_000 * MIB)


def test_a_container_without_limit_or_roomier_than_the_machine(machine):
    assert available_memory(machine(300, group=("max", 100, 0)))[0] == 300 * MIB
    assert available_memory(machine(300, group=(2_000, 100, 0)))[0] == 300 * MIB


def test_where_nothing_tells_nothing_is_said(tmp_path):
    assert available_memory(tmp_path) is None and resident_memory(tmp_path) is None
    said: list[str] = []
    watch = WatchMemory(3, said.append, every=1, root=tmp_path)
    watch.on_epoch_begin(0)
    watch.on_train_batch_begin(0)
    watch.on_epoch_end(0)
    assert not said


def test_of_this_machine():
    memory = available_memory()
    assert memory is None or 0 < memory[0] <= memory[1]


def test_it_warns_once_and_then_stops(machine):
    said: list[str] = []
    watch = WatchMemory(9, said.append, every=2, root=machine(2_000))
    watch.on_epoch_begin(0)
    for batch in range(4):
        watch.on_train_batch_begin(batch)
    assert not said
    machine(700)  # below 5 % of 16 GiB
    for batch in range(4):
        watch.on_train_batch_begin(batch)
    assert len(said) == 1 and said[0].startswith("WARNING (memory) Of 16,384 MiB of memory only 700 are left. Lower")
    assert [finding.watchdog for finding in watch.warnings] == ["memory"]
    watch.on_epoch_begin(1)
    assert not watch.warnings
    machine(150)
    watch.on_train_batch_begin(0)
    with pytest.raises(HarpError, match="Of 16,384 MiB of memory only 150 are left, and the system would soon"):
        watch.on_train_batch_begin(1)
    assert len(said) == 1


def test_a_large_machine_has_no_larger_reserve(machine):
    said: list[str] = []
    watch = WatchMemory(9, said.append, every=1, root=machine(1_500, total=512_000))
    watch.on_epoch_begin(0)
    watch.on_train_batch_begin(0)
    assert not said


@pytest.mark.parametrize("growth, warns", [(0, False), (20, False), (900, True)])
def test_growth_that_will_not_end_well(machine, growth, warns):
    said: list[str] = []
    watch = WatchMemory(20, said.append, root=machine(9_000))
    for epoch in range(5):
        machine(9_000, resident=[100, 3_000, 3_000, 3_000, 3_000][epoch] + growth * max(0, epoch - 1))
        watch.on_epoch_begin(epoch)
        watch.on_epoch_end(epoch)
    assert bool(said) == warns
    if warns:
        assert len(said) == 1 and "grew by 900 MiB of memory per epoch, and 9,000 MiB are left for 16 more" in said[0]


def test_a_full_disk_is_refused_with_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 1_000, 1_000))
    require_disk(tmp_path, 1_000, "The stage prune")
    with pytest.raises(
        HarpError, match="The stage prune needs 1,500 bytes in .*, and 1,000 are free .* Free 500 bytes"
    ):
        require_disk(tmp_path, 1_500, "The stage prune")


def test_the_bytes_of_a_training(classifier, trainer_of):
    network = classifier()  # 12 * 16 + 12 + 4 * 12 + 3 * 12 + 3 numbers, all but 2 * 12 of them trained
    trainer = trainer_of(network, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    trainer.build_optimizer()
    numbers, trained = 291, 267
    found = training_bytes(trainer, copies=3)
    # Beside the momenta the optimiser counts its steps and may keep its learning rate.
    assert 0 <= found - 3 * 4 * (2 * numbers + trained) - 2 * 4 * numbers <= 3 * 16
