"""Strategies without devices: how batches are cut, what is refused, what replicas draw. One device only, and fast."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import harp_tf
from harp_tf.attacks import PGD, draws
from harp_tf.training import distribution, keras_strategies, replicas, sharding
from harp_tf.types import HarpError

DEFAULT = tf.distribute.get_strategy()


def numbered(count: int, batch: int) -> tf.data.Dataset:
    return tf.data.Dataset.range(count).batch(batch).map(lambda number: (number, -number))


def cut(data: tf.data.Dataset, replicas: int, numbers: range, **settings) -> list[list[int]]:
    return [part.numpy().tolist() for part, _ in sharding.parts(data, replicas, numbers, **settings)]


@pytest.mark.parametrize("count, batch, workers, local", [(24, 6, 1, 2), (23, 6, 2, 1), (22, 7, 1, 3), (21, 8, 2, 2)])
def test_the_replicas_together_see_each_image_of_each_batch_once_and_in_order(count, batch, workers, local):
    everywhere = workers * local
    of_worker = [cut(numbered(count, batch), everywhere, range(w * local, (w + 1) * local)) for w in range(workers)]
    for step, (whole, _) in enumerate(numbered(count, batch)):
        parts = [part for found in of_worker for part in found[step * local : (step + 1) * local]]
        assert sum(parts, []) == whole.numpy().tolist()
        assert len(parts) == everywhere
    assert {len(found) for found in of_worker} == {-(-count // batch) * local}


def test_labels_are_cut_like_images():
    for image, label in sharding.parts(numbered(10, 4), 2, range(1, 2)):
        assert image.numpy().tolist() == (-label.numpy()).tolist()


def test_with_a_fixed_number_of_rows_a_replica_always_has_the_same_places_of_a_batch():
    assert cut(numbered(11, 8), 2, range(2), rows=8) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10], []]


def test_a_batch_of_more_than_the_fixed_number_of_rows_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="larger than the 4 images"):
        cut(numbered(11, 8), 2, range(2), rows=4)


def test_parts_of_batches_of_one_size_have_a_size_the_graph_knows():
    whole = numbered(12, 6).map(lambda image, label: (tf.ensure_shape(image, [6]), tf.ensure_shape(label, [6])))
    assert [spec.shape[0] for spec in sharding.parts(whole, 2, range(2)).element_spec] == [3, 3]
    assert [spec.shape[0] for spec in sharding.parts(whole, 4, range(4)).element_spec] == [None, None]


def test_endless_data_stay_endless():
    assert sharding.parts(numbered(12, 6).repeat(), 2, range(2)).cardinality() == tf.data.INFINITE_CARDINALITY


@pytest.mark.parametrize("batch, workers, local", [(12, 2, 1), (12, 2, 2), (7, 3, 1), (5, 4, 1), (9, 2, 2)])
@pytest.mark.parametrize("rows", [None, 16])
def test_a_worker_that_makes_its_own_rows_hands_out_the_parts_of_whole_batches(batch, workers, local, rows):
    made = []

    def of(own: range) -> tf.data.Dataset:
        made.append(own)
        return numbered(3 * batch, batch).map(
            lambda image, label: (image[own.start : own.stop], label[own.start : own.stop])
        )

    batches, everywhere = sharding.RowsOfBatches(of, batch), workers * local
    for worker in range(workers):
        numbers = range(worker * local, (worker + 1) * local)
        found = [part.numpy().tolist() for part, _ in batches.of_replicas(everywhere, numbers, rows)]
        assert found == cut(numbered(3 * batch, batch), everywhere, numbers, rows=rows)
    if batch == 12 and rows is None:
        assert made == [range(12 * worker // workers, 12 * (worker + 1) // workers) for worker in range(workers)]


def test_one_device_trains_on_rows_of_batches():
    """A cluster of a single worker, for one."""
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    trainer = harp_tf.AdversarialModel(network, "natural")
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    images, labels = tf.fill([6, 2, 2, 1], 0.5), tf.range(6) % 3

    def of(rows: range) -> tf.data.Dataset:
        whole = tf.data.Dataset.from_tensors((images, labels)).repeat()
        return whole.map(lambda x, y: (x[rows.start : rows.stop], y[rows.start : rows.stop]))

    trainer.fit(sharding.RowsOfBatches(of, 6), steps_per_epoch=2, verbose=0)
    assert int(trainer.steps.value) == 2


def test_one_device_gets_the_data_as_they_are():
    data = numbered(4, 2)
    assert sharding.sharded(DEFAULT, data) is data
    assert sharding.sharded(DEFAULT, (1, 2)) == (1, 2)


@pytest.mark.parametrize("norm, start", [("linf", "uniform"), ("linf", "normal"), ("l2", "uniform")])
def test_an_image_gets_the_noise_that_it_has_in_the_whole_batch(norm, start):
    attack = PGD(eps=0.1, norm=norm, steps=1, step_size=0.0, start=start)
    images, labels, seed = tf.fill([7, 4, 4, 1], 0.5), tf.zeros([7], tf.int32), tf.constant([3, 5])

    def logits(x):
        return tf.reshape(x, [-1, 16])[:, :3]

    whole = attack(logits, images, labels, seed)
    with draws.part_of_batch(3, 7):
        part = attack(logits, images[3:5], labels[3:5], seed)
    np.testing.assert_array_equal(part, whole[3:5])
    np.testing.assert_array_equal(attack(logits, images, labels, seed), whole)


def test_one_replica_has_all_of_the_batch_and_its_own_sums():
    images, values = tf.ones([5, 2, 2, 1]), tf.constant([1.0, 2.0, 6.0])
    share = replicas.Share.of(images)
    assert (share.replicas, int(share.count), share.start, int(share.total)) == (1, 5, 0, 5)
    assert float(share.mean(values)) == 3.0 and share.part(values) is values
    assert replicas.sums([values, None]) == [values, None]


def test_parts_of_a_mean_add_up_to_the_mean_of_the_batch():
    first = replicas.Share(2, 0, tf.constant(3), 0, tf.constant(4)).mean(tf.constant([1.0, 2.0, 6.0]))
    last = replicas.Share(2, 1, tf.constant(1), 3, tf.constant(4)).mean(tf.constant([11.0]))
    empty = replicas.Share(2, 1, tf.constant(0), 4, tf.constant(4)).mean(tf.constant([]))
    assert float(first + last) == 5.0 and float(empty) == 0.0


def test_batch_normalisation_is_synchronised_while_it_is_asked_for():
    own = keras.layers.BatchNormalization(synchronized=True)
    other = keras.layers.BatchNormalization()
    network = keras.Sequential([keras.Input((3,)), own, keras.Sequential([other])])
    assert replicas.local_statistics(network) == [other.moving_mean, other.moving_variance]
    with replicas.synchronized(network):
        assert own.synchronized and other.synchronized and replicas.local_statistics(network) == []
    assert own.synchronized and not other.synchronized


def test_frozen_batch_normalisation_learns_no_statistics():
    layer = keras.layers.BatchNormalization(trainable=False)
    assert replicas.local_statistics(keras.Sequential([keras.Input((3,)), layer])) == []


@pytest.mark.parametrize(
    "config",
    [
        None,
        "",
        "{",
        "[]",
        json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}),
        json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}),
        json.dumps({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}),
        json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}),
    ],
)
def test_multi_worker_says_what_tf_config_must_be(config, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(HarpError, match="TF_CONFIG in every process, for example"):
        distribution.make_strategy("multi_worker")


def test_workers_that_cannot_be_joined_say_so(monkeypatch):
    def taken():
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server")

    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["h:1"]}, "task": {"type": "worker", "index": 0}}')
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", taken)
    with pytest.raises(HarpError, match=r"could not be joined \(Could not start gRPC server\).*earlier process.*h:1"):
        distribution.make_strategy("multi_worker")


def test_more_devices_cannot_be_made_when_tensorflow_has_started(monkeypatch):
    tf.constant(1)
    cpus = tf.config.list_physical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: cpus if kind == "CPU" else [])
    with pytest.raises(HarpError, match="devices=3.*Make the strategy first"):
        distribution.make_strategy("mirrored", 3)


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"] if kind == "GPU" else [])
    with pytest.raises(HarpError, match="devices must be at most the number of GPUs, 1, received 2"):
        distribution.make_strategy("mirrored", 2)


def test_without_a_tpu_a_line_says_so(monkeypatch):
    def none(*args, **kwargs):
        raise ValueError("Please provide a TPU Name\nto connect to.")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", none)
    with pytest.raises(HarpError, match=r"no TPU here \(Please provide a TPU Name to connect to.\)"):
        distribution.make_strategy("tpu")


def test_one_device_is_its_own_chief():
    strategy = distribution.make_strategy("none")
    assert strategy.num_replicas_in_sync == 1 and distribution.is_chief(strategy)
    assert distribution.Votes(strategy)(2.5) == [2.5]


def test_an_optimiser_whose_sums_are_elsewhere_is_refused():
    with pytest.raises(HarpError, match="would be added up twice"):
        keras_strategies.leave_sums_to_the_step(object())
