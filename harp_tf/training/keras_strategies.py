"""What Keras 3.15 needs to train under tf.distribute: the one place of its workarounds."""

from typing import Any

import keras
import tensorflow as tf

from harp_tf.training.distribution import several_workers
from harp_tf.training.sharding import RowsOfBatches, sharded
from harp_tf.types import HarpError


def leave_sums_to_the_step(optimizer: keras.optimizers.Optimizer) -> None:
    """Keeps an optimiser from adding up the gradients of the replicas once more.

    A step has to add them up before: the gradients of rates are bounded, clipped or checked for overflow as sums.
    Keras has no public name for it: https://github.com/keras-team/keras/pull/19969 sums inside of `apply`.

    Raises:
        HarpError: if this Keras sums somewhere else.
    """
    if not hasattr(optimizer, "_all_reduce_sum_gradients"):
        raise HarpError(
            f"Keras {keras.__version__} adds up the gradients of replicas elsewhere than Keras 3.15, so they would be "
            "added up twice. Install keras 3.15, or train on one device."
        )
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: list(gradients_and_variables)


class KerasUnderStrategies(keras.Model):
    """`fit` and `evaluate` of global batches under a strategy, and what Keras 3.15 needs for them.

    Under several workers Keras breaks at two places, both of https://github.com/keras-team/keras/issues/20585: it
    looks for the shapes of a batch in values that are not tensors, and takes the mean of scalar figures along an axis
    they do not have. tests/training/test_distribution_workers.py fails when Keras has mended one of them, and says
    what can go from here.
    """

    _largest_batch: int | None = None
    """Of a model that keeps something for each image of a batch: the images of a full one."""

    def fit(self, x=None, y=None, *args, **kwargs):
        """As keras.Model.fit; under a strategy of several replicas `x` is a tf.data.Dataset of global batches.

        Raises:
            HarpError: if there are several replicas and the data is something else, or something does not work there.
        """
        if self.distribute_strategy.num_replicas_in_sync > 1:
            refuse_mixed_losses(self.distribute_strategy, self)
            if kwargs.get("class_weight") is not None:
                raise HarpError(
                    "Under a strategy of several replicas Keras has no class_weight. Pass batches of (images, labels, "
                    "weights) with a weight for each image."
                )
            steps = _number_of_batches(x)
            if steps is not None and kwargs.get("steps_per_epoch") is None:
                x, kwargs["steps_per_epoch"] = x.repeat(), steps
            if kwargs.get("validation_steps") is None:
                kwargs["validation_steps"] = _number_of_batches(kwargs.get("validation_data"))
            kwargs["validation_data"] = self._sharded(kwargs.get("validation_data"))
            x = self._sharded(x, self._largest_batch)
        elif isinstance(x, RowsOfBatches):
            x = x.whole()
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As keras.Model.evaluate; see `fit`."""
        if self.distribute_strategy.num_replicas_in_sync > 1 and not kwargs.get("_use_cached_eval_dataset"):
            if kwargs.get("steps") is None:
                kwargs["steps"] = _number_of_batches(x)
            x = self._sharded(x)
        return super().evaluate(x, y, *args, **kwargs)

    def _sharded(self, data, rows: int | None = None):
        found = sharded(self.distribute_strategy, data, rows)
        if data is not None:
            self._batch_spec = (data.whole() if isinstance(data, RowsOfBatches) else data).element_spec
        return found

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        if self.distribute_strategy.num_replicas_in_sync == 1 or iterator is None:
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        # Keras would read a batch to see its shape, and take it from the epoch.
        batch = [keras.KerasTensor((4, *part.shape[1:]), part.dtype.name) for part in self._batch_spec]
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=tuple(batch))

    def _for_keras(self, results: dict[str, Any]) -> dict[str, Any]:
        """The results of a step in the shape that Keras can take the mean of."""
        if not several_workers(self.distribute_strategy):
            return results
        return {name: tf.reshape(value, [1]) for name, value in results.items()}

    def _on_host(self) -> bool:
        """Whether several replicas have done their steps, and their figures are read together."""
        strategy = self.distribute_strategy
        inside = tf.distribute.get_strategy() is strategy and not tf.distribute.in_cross_replica_context()
        return strategy.num_replicas_in_sync > 1 and not inside and not tf.inside_function()


def _number_of_batches(data: Any) -> int | None:
    """The length of a data set, None if it is not known, endless, or no tf.data.Dataset."""
    length = int(data.cardinality()) if isinstance(data, tf.data.Dataset) else -1
    return length if length >= 0 else None


def refuse_mixed_losses(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Refuses a model whose regularisation of activations would come from the wrong replica.

    A layer is shared by all replicas of a process, and so is the list of the losses that its call adds. Where they wait
    for each other inside of the network, for the statistics of a synchronised batch normalisation, one replica finds
    there what another has added.

    Raises:
        HarpError: if there are several replicas in this process and the model has both.
    """
    layers = model._flatten_layers()
    synchronised = any(getattr(layer, "synchronized", False) for layer in layers)
    regularised = [layer.name for layer in layers if getattr(layer, "activity_regularizer", None) is not None]
    if len(strategy.extended.worker_devices) > 1 and synchronised and regularised:
        raise HarpError(
            f"The layers {', '.join(regularised)} have an activity_regularizer, which Keras mixes up between the "
            "devices of one process if batch normalisation is synchronised. Leave out one of the two, or run one "
            "process per device with distribute=multi_worker."
        )
