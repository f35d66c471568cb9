"""A Keras model that trains another one against an adversary, under HARP's size penalty."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from harp_tf import compression, losses
from harp_tf.attacks import Attack
from harp_tf.layers import kernel_costs, masked_kernels, pruned_kernels, pruning_spec, shared_kernels
from harp_tf.training.input_checks import check_first_batch
from harp_tf.types import HarpError


class AdversarialModel(keras.Model):
    """Trains a classifier with `compile`, `fit` and `evaluate` on adversarial examples made inside each step.

    The masks of a pruned network are selected once per step and shared by all passes of the attack and the update.
    Labels are class indices. Metrics given to `compile` are computed on the predictions for clean images. Sample
    and class weights weigh the loss and the metrics of the model itself. "adversarial_accuracy" is reported where
    adversarial images were looked at: always but by the loss "natural" in training, or without an attack.

    Args:
        network: a Keras classifier, images in [0, 1] -> logits; dense, or made by `harp_tf.prune`.
        loss: "natural", "pgd", "trades", "mart", "free", or a `harp_tf.losses.RobustLoss`.
        attack: the attack of the threat model; the loss sets its objective and start for training. Not needed
            for "natural".
        weight_decay: L2 decay added to the gradients (as PyTorch's SGD does it), for all variables but scores and
            rates. The optimiser's own `weight_decay`, which is decoupled, spares scores and rates too.
        seed: keys the random starts of the attacks, together with the step.
        **kwargs: passed to keras.Model.

    Raises:
        HarpError: if the attack is missing or the loss unknown.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023, equation 1.
    """

    def __init__(
        self,
        network: keras.Model,
        loss: str | losses.RobustLoss = "pgd",
        attack: Attack | None = None,
        *,
        weight_decay: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        # Keras scales the loss if the policy of the trained model asks for it, and that is the network's.
        super().__init__(**{"dtype": network.dtype_policy, **kwargs})
        self.network = network
        self.robust_loss = losses.get(loss)
        if attack is None and self.robust_loss.needs_attack:
            raise HarpError(f"The loss {loss!r} needs an attack, for example attack=harp_tf.attacks.PGD(eps=8/255).")
        self.attack = attack
        self._training_attack: Any = self.robust_loss.prepare_attack(attack) if self.robust_loss.needs_attack else None
        self.weight_decay = weight_decay
        self.seed = seed % 2**31
        self.gamma = keras.Variable(0.0, trainable=False, dtype="float32", name="gamma")
        self._kernels = pruned_kernels(network)
        self._logits = {id(kernel.scores.logit) for kernel in self._kernels}
        self._undecayed = {id(variable) for variable in self._score_variables()}
        if self._kernels:
            self._costs = kernel_costs(network)
            self._target_rate = pruning_spec(network).target_rate
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            size = tuple(getattr(network, "input_shape", (None, None))[1:])
            if None in size:
                raise HarpError(
                    f"The loss 'free' keeps a perturbation of fixed size, and the network takes images of the open "
                    f"size {size}. Build it with a fixed input size: keras.Input((height, width, channels))."
                )
            shape = (self.robust_loss.batch_size, *size)
            self._perturbation = keras.Variable(tf.zeros(shape), trainable=False, name="perturbation")
        names = ["natural_loss", "robust_loss"] + (["hw_loss", "gamma", "rate"] if self._kernels else [])
        self._means = {name: keras.metrics.Mean(name=name) for name in names}
        self._accuracies = {
            name: keras.metrics.SparseCategoricalAccuracy(name=name)
            for name in ("natural_accuracy", "adversarial_accuracy")
        }
        self.built = True

    def call(self, inputs, training=None):
        """The logits of the network."""
        return self.network(inputs, training=training)

    def compile(self, optimizer="sgd", loss=None, *, metrics=None, **kwargs) -> None:
        """As keras.Model.compile; the loss is the model's own.

        Raises:
            HarpError: if a loss is passed.
        """
        if loss is not None:
            raise HarpError("AdversarialModel has its own loss: pass it to the constructor, not to compile().")
        optimizer = keras.optimizers.get(optimizer)
        learned = [v for v in self._score_variables() if v.trainable]
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        if learned and inner.weight_decay and not inner.built:
            inner.exclude_from_weight_decay(var_list=learned)
        super().compile(optimizer=optimizer, loss=None, metrics=metrics, **kwargs)

    @property
    def learns_rates(self) -> bool:
        """Whether some rate of the network is trained."""
        return any(kernel.scores.logit.trainable for kernel in self._kernels)

    def overall_rate(self) -> tf.Tensor:
        """The fraction of the network's cost that its rates keep, a float32 scalar; 1 for a dense network."""
        if not self._kernels:
            return tf.constant(1.0)
        return compression.overall_rate([k.scores.rate() for k in self._kernels], self._costs)

    def hw_loss(self) -> tf.Tensor:
        """L_hw of the network at its present rates, a float32 scalar; 0 for a dense network."""
        if not self._kernels:
            return tf.constant(0.0)
        return compression.hw_loss([k.scores.rate() for k in self._kernels], self._costs, self._target_rate)

    def fit(self, x=None, y=None, *args, callbacks=None, validation_data=None, **kwargs):
        """As keras.Model.fit, after checking the first batches and the callbacks.

        Raises:
            HarpError: if rates are learned and no StepwiseRegularization drives gamma, if images are outside
                [0, 1], labels are not class indices, or the network returns probabilities.
        """
        given = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
        given = given if isinstance(given, (list, tuple)) else [given]
        if self.learns_rates and not any(getattr(callback, "drives_gamma", False) for callback in given):
            raise HarpError(
                "The rates of this network are learned, and nothing drives the factor of their size penalty. Pass "
                "callbacks=[harp_tf.StepwiseRegularization(gamma=0.01)] to fit()."
            )
        check_first_batch(self.network, x, y)
        check_first_batch(self.network, *keras.utils.unpack_x_y_sample_weight(validation_data)[:2])
        if self.compiled and not self.optimizer.built:
            # Built inside the first step, the optimiser's variables would have it traced twice.
            self.optimizer.build(self.trainable_variables)
        return super().fit(x, y, *args, callbacks=callbacks, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As keras.Model.evaluate, after checking the first batch.

        Raises:
            HarpError: if images are outside [0, 1], labels are not class indices, or the network returns
                probabilities.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # set inside `fit`, which has checked the data
            check_first_batch(self.network, x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One update of the network (one per replay with "free")."""
        images, labels, weights = _unpack(data)
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            return self._free_step(self.robust_loss, images, labels, weights)
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])

        def craft() -> tf.Tensor:
            if self._training_attack is None:
                return images
            return self._training_attack(self._infer, images, labels, seed)

        terms, _ = self._update(images, craft, labels, weights)
        return self._results(terms, images, labels, weights)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Natural and adversarial figures on one batch; the network does not change."""
        images, labels, weights = _unpack(data)
        with shared_kernels(masked_kernels(self.network)):
            adversarial = images
            if self.attack is not None:
                adversarial = self.attack(self._infer, images, labels, tf.constant([self.seed, 0]))
            terms, regularisation = self._terms(self._infer, images, adversarial, labels)
            if terms.natural_logits is None:
                terms = dataclasses.replace(terms, natural_logits=self._infer(images))
            if terms.adversarial_logits is None and self.attack is not None:
                terms = dataclasses.replace(terms, adversarial_logits=self._infer(adversarial))
        loss = _mean(terms.robust, weights) + self.gamma * self.hw_loss() + regularisation
        self._record(terms, labels, weights, loss)
        return self._results(terms, images, labels, weights)

    def _free_step(self, loss: losses.FreeAdversarialTraining, images, labels, weights) -> dict[str, tf.Tensor]:
        """Updates of the network and of the perturbation from the same gradient, once per replay."""
        count, attack = tf.shape(images)[0], self._training_attack
        message = f"A batch is larger than batch_size={loss.batch_size} of FreeAdversarialTraining. Raise it."
        if (images.shape[0] or 0) > loss.batch_size:
            raise HarpError(message)
        tf.debugging.assert_less_equal(count, loss.batch_size, message)  # where the graph leaves the size open
        for replay in range(loss.replays):
            delta = self._perturbation[:count]

            def craft(delta=delta) -> tf.Tensor:
                return attack.project(images + delta, images)

            last = replay == loss.replays - 1
            terms, gradient = self._update(images, craft, labels, weights, look_at_clean=last)
            # An overflow of mixed precision must not stay in the perturbation for good.
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            moved = attack.ball.project(delta + attack.eps * attack.ball.step(gradient), attack.eps)
            self._perturbation.assign(tf.concat([moved, self._perturbation[count:]], axis=0))
        return self._results(terms, images, labels, weights)

    def _update(
        self, images, craft: Callable[[], tf.Tensor], labels, weights, look_at_clean: bool = True
    ) -> tuple[losses.LossTerms, tf.Tensor]:
        """Crafts, computes the loss and applies its gradients.

        Args:
            images: float32 [n, ...].
            craft: returns the adversarial images.
            labels: int32 [n].
            weights: float32 [n] or None.
            look_at_clean: classify the clean images too if the loss does not, for the figures that are reported.

        Returns:
            The terms of the loss and its (scaled) gradient with respect to the adversarial images.
        """
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            with shared_kernels(masked_kernels(self.network)):
                with tape.stop_recording():
                    adversarial = craft()
                tape.watch(adversarial)
                terms, regularisation = self._terms(self._train, images, adversarial, labels)
                with tape.stop_recording():
                    if terms.natural_logits is None and look_at_clean:
                        terms = dataclasses.replace(terms, natural_logits=self._infer(images))
            loss = _mean(terms.robust, weights) + self.gamma * self.hw_loss() + regularisation
            scaled = self.optimizer.scale_loss(loss)
        # The images' gradient costs nothing where it is not used: the graph is pruned.
        *gradients, image_gradient = tape.gradient(scaled, [*variables, adversarial])
        self._record(terms, labels, weights, loss)
        self.optimizer.apply([self._adjusted(g, v) for g, v in zip(gradients, variables)], variables)
        return terms, image_gradient

    def _terms(self, predict, images, adversarial, labels) -> tuple[losses.LossTerms, tf.Tensor]:
        """The terms of the robust loss and the network's own regularisation, a float32 scalar."""
        terms = self.robust_loss(predict, images, adversarial, labels)
        # Read at once: every pass of the network replaces its layers' losses, passes of an attack too.
        own = [tf.cast(loss, tf.float32) for loss in self.network.losses]
        return terms, tf.add_n(own) if own else tf.constant(0.0)

    def _train(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.network(images, training=True), tf.float32)

    def _infer(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.network(images, training=False), tf.float32)

    def _score_variables(self) -> list[keras.Variable]:
        return [v for kernel in self._kernels for v in (kernel.scores.scores, kernel.scores.logit)]

    def _adjusted(self, gradient, variable):
        """The gradient for the optimiser: bounded for rates, with L2 decay for weights, both scaled like the loss.

        A variable without gradient stays as it is.
        """
        if gradient is None:
            return None
        gradient = tf.convert_to_tensor(gradient)
        if id(variable) in self._logits:
            bound = self.optimizer.scale_loss(tf.constant(compression.MAX_LOGIT_GRADIENT))
            return tf.clip_by_value(gradient, -bound, bound)
        if id(variable) in self._undecayed or not self.weight_decay:
            return gradient
        return gradient + self.optimizer.scale_loss(self.weight_decay * tf.convert_to_tensor(variable))

    def _record(self, terms: losses.LossTerms, labels, weights, loss: tf.Tensor) -> None:
        count = tf.shape(labels)[0]
        self._loss_tracker.update_state(loss, sample_weight=count)
        self._means["robust_loss"].update_state(terms.robust, sample_weight=weights)
        if self._kernels:
            self._means["hw_loss"].update_state(self.hw_loss(), sample_weight=count)
            self._means["rate"].update_state(self.overall_rate(), sample_weight=count)
            self._means["gamma"].update_state(self.gamma, sample_weight=count)
        if terms.natural_logits is not None:
            natural = losses.cross_entropy(terms.natural_logits, labels)
            self._means["natural_loss"].update_state(natural, sample_weight=weights)
            self._accuracies["natural_accuracy"].update_state(labels, terms.natural_logits, sample_weight=weights)
        if terms.adversarial_logits is not None:
            self._accuracies["adversarial_accuracy"].update_state(
                labels, terms.adversarial_logits, sample_weight=weights
            )

    def _results(self, terms: losses.LossTerms, images, labels, weights) -> dict[str, tf.Tensor]:
        results = self.compute_metrics(images, labels, terms.natural_logits, sample_weight=weights)
        if terms.adversarial_logits is None:
            del results["adversarial_accuracy"]
        return results


def _mean(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """The mean over the batch, as Keras takes it: weights change the sum, not the number that divides it."""
    return tf.reduce_mean(values if weights is None else values * weights)


def _unpack(data) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        weights = tf.reshape(tf.cast(weights, tf.float32), [-1])
    return tf.cast(images, tf.float32), tf.reshape(tf.cast(labels, tf.int32), [-1]), weights
