"""A Keras model that trains another one against an adversary, under HARP's size penalty."""

import dataclasses

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
    Labels are class indices. Metrics given to `compile` are computed on the predictions for clean images.

    Args:
        network: a Keras classifier, images in [0, 1] -> logits; dense, or made by `harp_tf.prune`.
        loss: "natural", "pgd", "trades", "mart", "free", or a `harp_tf.losses.RobustLoss`.
        attack: the attack of the threat model; the loss sets its objective and start for training. Not needed
            for "natural".
        weight_decay: L2 decay added to the gradients (as PyTorch's SGD does it), for all variables but scores and
            rates.
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
        super().__init__(**kwargs)
        self.network = network
        self.robust_loss = losses.get(loss)
        if attack is None and self.robust_loss != losses.Natural():
            raise HarpError(
                f"The loss {loss!r} needs an attack, for example attack=harp_tf.attacks.PGD(eps=8/255)."
            )
        self.attack = attack
        self.weight_decay = weight_decay
        self.seed = seed
        self.gamma = keras.Variable(0.0, trainable=False, dtype="float32", name="gamma")
        self._kernels = pruned_kernels(network)
        if self._kernels:
            self._costs = kernel_costs(network)
            self._target_rate = pruning_spec(network).target_rate
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            shape = (self.robust_loss.batch_size, *network.input_shape[1:])
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

    def compile(self, optimizer="sgd", metrics=None, **kwargs) -> None:
        """As keras.Model.compile; the loss is the model's own.

        Raises:
            HarpError: if a loss is passed.
        """
        if kwargs.pop("loss", None) is not None:
            raise HarpError(
                "AdversarialModel has its own loss: pass it to the constructor, not to compile()."
            )
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

    def fit(self, x=None, y=None, *args, callbacks=None, **kwargs):
        """As keras.Model.fit, after checking the first batch and the callbacks.

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
        return super().fit(x, y, *args, callbacks=callbacks, **kwargs)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One update of the network (one per replay with "free")."""
        images, labels, weights = _unpack(data)
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            for _ in range(self.robust_loss.replays):
                terms = self._free_update(images, labels, weights)
        else:
            seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])

            def craft() -> tf.Tensor:
                if not self.robust_loss.needs_attack:
                    return images
                return self.robust_loss.prepare_attack(self.attack)(self._infer, images, labels, seed)

            terms, _ = self._update(images, craft, labels, weights)
        return self.compute_metrics(images, labels, terms.natural_logits, sample_weight=weights)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Natural and adversarial figures on one batch; the network does not change."""
        images, labels, weights = _unpack(data)
        with shared_kernels(masked_kernels(self.network)):
            adversarial = images
            if self.attack is not None:
                adversarial = self.attack(self._infer, images, labels, tf.constant([self.seed, 0]))
            terms = self.robust_loss(self._infer, self._infer, images, adversarial, labels)
            if not self.robust_loss.needs_attack and self.attack is not None:
                terms = dataclasses.replace(terms, adversarial_logits=self._infer(adversarial))
        self._record(terms, labels, weights, self._mean(terms.robust, weights))
        return self.compute_metrics(images, labels, terms.natural_logits, sample_weight=weights)

    def _update(self, images, craft, labels, weights, watch_images: bool = False):
        """Crafts, computes the loss and applies its gradients; returns the terms and the images' gradient."""
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            with shared_kernels(masked_kernels(self.network)):
                with tape.stop_recording():
                    adversarial = craft()
                if watch_images:
                    tape.watch(adversarial)
                terms = self.robust_loss(self._train, self._infer, images, adversarial, labels)
            loss = self._mean(terms.robust, weights) + self.gamma * self.hw_loss() + self._regularisation
            scaled = self.optimizer.scale_loss(loss)
        sources = [*variables, adversarial] if watch_images else variables
        gradients = tape.gradient(scaled, sources)
        updates = [self._decayed(g, v) for g, v in zip(gradients, variables, strict=False)]
        self.optimizer.apply(updates, variables)
        self._record(terms, labels, weights, loss)
        return terms, gradients[-1]

    def _free_update(self, images, labels, weights) -> losses.LossTerms:
        delta = tf.convert_to_tensor(self._perturbation)
        terms, gradient = self._update(
            images, lambda: self.attack.project(images + delta, images), labels, weights, watch_images=True
        )
        ball = self.attack.ball
        self._perturbation.assign(
            ball.project(delta + self.attack.eps * ball.step(gradient), self.attack.eps)
        )
        return terms

    def _train(self, images: tf.Tensor) -> tf.Tensor:
        logits = tf.cast(self.network(images, training=True), tf.float32)
        # Read at once: the next pass in inference mode replaces the layers' losses.
        self._regularisation = tf.add_n(
            [tf.cast(x, tf.float32) for x in self.network.losses] or [tf.constant(0.0)]
        )
        return logits

    def _infer(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.network(images, training=False), tf.float32)

    def _decayed(self, gradient, variable):
        scores = {id(v) for kernel in self._kernels for v in (kernel.scores.scores, kernel.scores.logit)}
        if not self.weight_decay or id(variable) in scores:
            return gradient
        return gradient + self.weight_decay * tf.convert_to_tensor(variable)

    @staticmethod
    def _mean(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
        return tf.reduce_mean(values if weights is None else values * tf.cast(weights, values.dtype))

    def _record(self, terms: losses.LossTerms, labels, weights, loss: tf.Tensor) -> None:
        count = tf.shape(labels)[0]
        self._loss_tracker.update_state(loss, sample_weight=count)
        self._means["natural_loss"].update_state(terms.natural, sample_weight=weights)
        self._means["robust_loss"].update_state(terms.robust, sample_weight=weights)
        if self._kernels:
            self._means["hw_loss"].update_state(self.hw_loss(), sample_weight=count)
            self._means["rate"].update_state(self.overall_rate(), sample_weight=count)
            self._means["gamma"].update_state(self.gamma, sample_weight=count)
        self._accuracies["natural_accuracy"].update_state(labels, terms.natural_logits, sample_weight=weights)
        self._accuracies["adversarial_accuracy"].update_state(
            labels, terms.adversarial_logits, sample_weight=weights
        )


def _unpack(data) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    return tf.cast(images, tf.float32), tf.reshape(tf.cast(labels, tf.int32), [-1]), weights
