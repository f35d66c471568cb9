"""tf.distribute: the strategies, and the processes that share a training."""

import json
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from harp_tf.training.replicas import sums
from harp_tf.types import HarpError, require_choice

STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")


def make_strategy(name: str, devices: int | None = None) -> tf.distribute.Strategy:
    """Makes a strategy. Call it before anything else of TensorFlow: several workers cannot be joined later.

    Args:
        name: "none", one device; "mirrored", the GPUs of this machine; "multi_worker", several processes, each of
            which has its place among them in TF_CONFIG; "tpu", the one that TensorFlow finds.
        devices: with "mirrored", use so many devices: GPUs, or logical devices of the CPU where there is no GPU.
            Default: all.

    Raises:
        HarpError: if the name is unknown, the machine has no such devices, or TF_CONFIG does not say which worker
            this is.
    """
    require_choice("distribute", name, STRATEGIES)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_devices(devices))
    if name == "multi_worker":
        _check_cluster()
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            reason = " ".join(error.message.split())[:200]
            raise HarpError(
                f"The workers could not be joined ({reason}). Look whether an earlier process still runs, and whether "
                f"these are the addresses: TF_CONFIG={os.environ['TF_CONFIG']}"
            ) from error
    if name == "tpu":
        return tf.distribute.TPUStrategy(_tpu())
    return tf.distribute.get_strategy()


def _devices(number: int | None) -> list[str]:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if number is not None and number > len(gpus):
            raise HarpError(f"devices must be at most the number of GPUs, {len(gpus)}, received {number}.")
        return [f"GPU:{i}" for i in range(number or len(gpus))]
    if number is not None:
        (cpu,) = tf.config.list_physical_devices("CPU")
        if len(tf.config.get_logical_device_configuration(cpu) or [cpu]) != number:
            try:
                parts = [tf.config.LogicalDeviceConfiguration() for _ in range(number)]
                tf.config.set_logical_device_configuration(cpu, parts)
            except RuntimeError as error:
                raise HarpError(
                    f"devices={number} divides the CPU of a machine without GPUs, which is no longer possible: "
                    "TensorFlow has started. Make the strategy first."
                ) from error
    return [f"CPU:{i}" for i in range(len(tf.config.list_logical_devices("CPU")))]


def _check_cluster() -> None:
    wanted = (
        "multi_worker needs the environment variable TF_CONFIG in every process, for example "
        '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
    )
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise HarpError(f"{wanted}; it is not set.")
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], int(config["task"]["index"])
        known = index >= 0 and config["cluster"][kind][index]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise HarpError(f"{wanted}; received {text!r}.") from error
    if not known or kind not in ("chief", "worker"):
        raise HarpError(f"{wanted}; received {text!r}.")


def _tpu() -> tf.distribute.cluster_resolver.TPUClusterResolver:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HarpError(
            f"TensorFlow finds no TPU here ({reason}). Run on a TPU host, or choose distribute=mirrored."
        ) from error
    return resolver


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files: the only one, or the first of several workers."""
    resolver = strategy.cluster_resolver
    if not several_workers(strategy) or resolver is None or resolver.task_type is None:
        return True
    if resolver.task_type == "chief":
        return True
    return "chief" not in resolver.cluster_spec().jobs and resolver.task_type == "worker" and resolver.task_id == 0


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas of a strategy live in several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


class Votes:
    """Lets the processes of a strategy tell each other a number; all of them have to call it together.

    Args:
        strategy: the strategy.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        def of_replica(number: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            places = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=tf.float64)
            return sums([places * number])[0]

        def of_all(number: tf.Tensor) -> tf.Tensor:
            return strategy.experimental_local_results(strategy.run(of_replica, args=(number,)))[0]

        self._of_all = tf.function(of_all)

    def __call__(self, number: float) -> list[float]:
        """The numbers of all replicas, those of one process the same."""
        return self._of_all(tf.constant(number, tf.float64)).numpy().tolist()


def require_scope(strategy: tf.distribute.Strategy, variables: Sequence[keras.Variable], what: str) -> None:
    """Refuses variables that were made outside of the scope of the strategy that is to change them.

    Raises:
        HarpError: if there are such.
    """
    for variable in variables:
        if strategy.num_replicas_in_sync > 1 and not strategy.extended.variable_created_in_scope(variable.value):
            raise HarpError(
                f"The {what} was made outside of the scope of the strategy. Make network, AdversarialModel and "
                "optimiser inside of it: with strategy.scope(): ..."
            )
