"""A Keras model that trains another one against an adversary, under HARP's size penalty."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from harp_tf import compression, losses
from harp_tf.attacks import Attack
from harp_tf.attacks.precision import half_precision_safe
from harp_tf.layers import (
    fixed_cost,
    kernel_costs,
    masked_kernels,
    project_to_budget,
    pruned_kernels,
    pruning_spec,
    set_stage,
    shared_kernels,
)
from harp_tf.layers.budget import PROJECTED
from harp_tf.training import accumulation, distribution, keras_strategies, replicas, sharding
from harp_tf.training.figures import make_figures, record_classification, record_loss, record_size
from harp_tf.training.input_checks import check_first_batch, check_network, checked_generator
from harp_tf.training.precision import computes_in_float16
from harp_tf.training.saving import SavedTraining, random_states
from harp_tf.training.weight_decay import exclude_from_weight_decay
from harp_tf.types import HarpError, is_number


@keras.saving.register_keras_serializable("harp_tf")
class AdversarialModel(keras_strategies.KerasUnderStrategies, SavedTraining):
    """Trains a classifier with `compile`, `fit` and `evaluate` on adversarial examples made inside each step.

    The masks of a pruned network are selected once per step and shared by all passes of the attack and the update.
    Labels are class indices. Metrics given to `compile` are computed on the predictions for clean images. Sample
    and class weights weigh the loss and the metrics of the model itself. "adversarial_accuracy" is reported where
    adversarial images were looked at: always but by the loss "natural" in training, or without an attack.

    `save("x.keras")` saves all that the training needs to go on exactly: beside network and optimiser gamma and
    whether it is frozen, the number of steps, the perturbation of "free" and the random state of the network's
    layers. Load it with keras.saving.load_model where harp_tf is imported, and call `fit` with `initial_epoch`.

    Args:
        network: a Keras classifier, images in [0, 1] -> logits [n, classes]; dense, or made by `harp_tf.prune`. A
            pruned one trains in its stage, see `harp_tf.set_stage`.
        loss: "natural", "pgd", "trades", "mart", "free", or a `harp_tf.losses.RobustLoss`.
        attack: the attack of the threat model; the loss sets its objective and start for training. Not needed
            for "natural". The attribute may be set to another one; compile again then.
        weight_decay: L2 decay added to the gradients (as PyTorch's SGD does it), for all variables but scores and
            rates. The optimiser's own `weight_decay`, which is decoupled, spares scores and rates too.
        seed: keys the random starts of the attacks, together with the step.
        accumulate: computes each batch in so many parts, one after another, and updates once with the mean of their
            gradients: less memory, the same training. Equal to the undivided batch up to rounding but for random
            numbers, and for batch normalisation, which normalises each part by itself. Batches must divide into
            so many parts; the graph grows with their number, and so does the time it takes to trace it.
        **kwargs: passed to keras.Model.

    Raises:
        HarpError: if the attack is missing, the loss unknown, the network no classifier or a number out of range.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023, equation 1.
    """

    chooses_epoch = True
    """Whether `KeepBest` keeps the best epoch, rather than the last: not where an early one is no result yet."""

    def __init__(
        self,
        network: keras.Model,
        loss: str | losses.RobustLoss = "pgd",
        attack: Attack | None = None,
        *,
        weight_decay: float = 0.0,
        seed: int = 0,
        accumulate: int = 1,
        **kwargs,
    ):
        check_network(network)
        self._half = computes_in_float16(network)
        # Keras scales the loss if the policy of the trained model asks for it. Images stay as they are.
        policy = "mixed_float16" if self._half else network.dtype_policy
        super().__init__(**{"dtype": policy, "autocast": False, **kwargs})
        distribution.require_scope(self.distribute_strategy, network.variables, "network")
        self.network = network
        self.robust_loss = losses.get(loss)
        if attack is not None and not isinstance(attack, Attack):
            raise HarpError(
                "attack must be an attack with its settings, for example harp_tf.attacks.PGD(eps=8/255), received "
                f"{attack!r}."
            )
        if not is_number(weight_decay) or not 0.0 <= weight_decay < float("inf"):
            raise HarpError(f"weight_decay must be a finite number >= 0, 5e-4 for one, received {weight_decay!r}.")
        if not isinstance(seed, int):
            raise HarpError(f"seed must be a whole number, 0 for one, received {seed!r}.")
        if not isinstance(accumulate, int) or isinstance(accumulate, bool) or accumulate < 1:
            raise HarpError(f"accumulate must be a whole number >= 1, received {accumulate!r}.")
        if attack is None and self.robust_loss.needs_attack:
            raise HarpError(f"The loss {loss!r} needs an attack, for example attack=harp_tf.attacks.PGD(eps=8/255).")
        self.attack = attack
        self._aim()
        self.weight_decay = weight_decay
        self.seed = seed % 2**31
        self.accumulate = accumulate
        self.gamma = keras.Variable(0.0, trainable=False, dtype="float32", name="gamma")
        self.gamma_frozen = keras.Variable(False, trainable=False, dtype="bool", name="gamma_frozen")
        self.steps = keras.Variable(0, trainable=False, dtype="int32", name="steps", aggregation="only_first_replica")
        self._kernels = pruned_kernels(network)
        self._logits = {id(kernel.scores.logit) for kernel in self._kernels}
        self._undecayed = {id(variable) for variable in self._score_variables()}
        if self._kernels:
            spec = pruning_spec(network)
            set_stage(network, spec.stage)  # of a loaded network: Keras saves no flags of single variables
            fixed = fixed_cost(network)
            self._costs = kernel_costs(network) + ([fixed] if fixed else [])
            self._target_rate = spec.target_rate
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            size = tuple(getattr(network, "input_shape", (None, None))[1:])
            if None in size:
                raise HarpError(
                    f"The loss 'free' keeps a perturbation of fixed size, and the network takes images of the open "
                    f"size {size}. Build it with a fixed input size: keras.Input((height, width, channels))."
                )
            shape = (self.robust_loss.batch_size, *size)
            # Each replica keeps the rows of its own images, see `own_state`.
            kind = {"synchronization": "on_read", "aggregation": "only_first_replica"}
            self.perturbation = keras.Variable(tf.zeros(shape), trainable=False, name="perturbation", **kind)
            self._largest_batch = self.robust_loss.batch_size
        self._figures = make_figures(bool(self._kernels))
        self.built = True

    def _aim(self) -> None:
        """Makes the attack of the training steps from `attack`, which may have become another one."""
        wanted = self.robust_loss.needs_attack and self.attack is not None
        self._training_attack: Any = self.robust_loss.prepare_attack(self.attack) if wanted else None

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
        self._aim()
        strategy = self.distribute_strategy
        with strategy.scope():
            optimizer = keras.optimizers.get(optimizer)
        learned = [v for v in self._score_variables() if v.trainable]
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        if learned and inner.weight_decay and not inner.built:
            exclude_from_weight_decay(inner, learned)
        distribution.require_scope(strategy, [inner.iterations], "optimiser")
        if strategy.num_replicas_in_sync > 1:
            keras_strategies.leave_sums_to_the_step(inner)
        with strategy.scope():
            super().compile(optimizer=optimizer, loss=None, metrics=metrics, **kwargs)
        self._compiled_for = self._trained_now()

    def _trained_now(self) -> tuple:
        return frozenset(id(variable) for variable in self.trainable_variables), id(self.attack)

    def own_state(self) -> dict[str, keras.Variable]:
        """The variables that belong neither to the network nor to the optimiser, by name."""
        state = {"gamma": self.gamma, "gamma_frozen": self.gamma_frozen, "steps": self.steps}
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            sharding.gather_rows(self.distribute_strategy, self.perturbation)
            state["perturbation"] = self.perturbation
        return state

    @property
    def learns_rates(self) -> bool:
        """Whether some rate of the network is trained."""
        return any(kernel.scores.logit.trainable for kernel in self._kernels)

    def overall_rate(self) -> tf.Tensor:
        """The fraction of the network's cost that its rates keep, a float32 scalar; 1 for a dense network."""
        if not self._kernels:
            return tf.constant(1.0)
        return compression.overall_rate(self._rates(), self._costs)

    def hw_loss(self) -> tf.Tensor:
        """L_hw of the network at its present rates, a float32 scalar; 0 for a dense network."""
        if not self._kernels:
            return tf.constant(0.0)
        return compression.hw_loss(self._rates(), self._costs, self._target_rate)

    def _rates(self) -> list[tf.Tensor]:
        """The rates that belong to the costs; what has a cost but no rate is kept whole."""
        rates = [kernel.scores.rate() for kernel in self._kernels]
        return rates + [tf.constant(1.0)] * (len(self._costs) - len(rates))

    def fit(self, x=None, y=None, *args, callbacks=None, validation_data=None, initial_step: int = 0, **kwargs):
        """As keras.Model.fit, after checking the first batches and the callbacks.

        With `initial_step` the first epoch begins after so many of its steps, and `x` with the batch that comes then.
        At the end learned rates that exceed the target are projected onto it, and a line says so.

        Raises:
            HarpError: if rates are learned and no StepwiseRegularization drives gamma, if other variables are to be
                trained than when `compile` was called, if images are outside [0, 1], labels are not class indices, or
                the network returns probabilities.
        """
        if self.compiled and self._compiled_for != self._trained_now():
            # The step that was compiled would go on training what it trained before.
            raise HarpError(
                "What this network trains has changed since compile(), by set_stage() or by setting trainable or "
                "attack. Compile it again before fit()."
            )
        given = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
        given = given if isinstance(given, (list, tuple)) else [given]
        if self.learns_rates and not any(getattr(callback, "drives_gamma", False) for callback in given):
            raise HarpError(
                "The rates of this network are learned, and nothing drives the factor of their size penalty. Pass "
                "callbacks=[harp_tf.StepwiseRegularization(gamma=0.01)] to fit()."
            )
        x, validation_data = (checked_generator(self.network, data) for data in (x, validation_data))
        logits = check_first_batch(self.network, x.whole() if isinstance(x, sharding.RowsOfBatches) else x, y)
        check_first_batch(self.network, *keras.utils.unpack_x_y_sample_weight(validation_data)[:2])
        self.build_optimizer()  # inside the first step it would have that one traced twice
        self.build_metrics(logits)
        self._skip_steps(initial_step)
        history = super().fit(x, y, *args, callbacks=callbacks, validation_data=validation_data, **kwargs)
        # After all callbacks: some of them restore earlier weights at the end, or averaged ones.
        for kernel in self._kernels:
            kernel.follow()
        if self.learns_rates and project_to_budget(self.network):
            print(PROJECTED)
        return history

    def _skip_steps(self, count: int) -> None:
        """Makes the train function do nothing for `count` steps: Keras knows no epoch of fewer steps."""
        if not count:
            return
        calls, rest = divmod(count, self.steps_per_execution)
        if rest:
            raise HarpError(
                f"initial_step={count} is no multiple of steps_per_execution={self.steps_per_execution}. Compile with "
                "steps_per_execution=1, or with what the interrupted training had."
            )
        self.make_train_function()
        train, left = vars(self)["train_function"], calls

        def skip(iterator) -> dict:
            nonlocal left
            left -= 1
            if not left:
                self.train_function = train
            return {}

        self.train_function = skip

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As keras.Model.evaluate, after checking the first batch.

        Raises:
            HarpError: if images are outside [0, 1], labels are not class indices, or the network returns
                probabilities.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # set inside `fit`, which has checked the data
            check_first_batch(self.network, x, y)
            x = checked_generator(self.network, x)
        return super().evaluate(x, y, *args, **kwargs)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One update of the network (one per replay with "free")."""
        images, labels, weights = _unpack(data)
        if isinstance(self.robust_loss, losses.FreeAdversarialTraining):
            return self._free_step(self.robust_loss, images, labels, weights)

        def craft(part: int | tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            if self._training_attack is None:
                return images
            # The optimiser's own count stands still while it accumulates gradients.
            steps = tf.convert_to_tensor(self.steps)
            seed = tf.stack([self.seed, self.accumulate * steps + tf.cast(part, steps.dtype)])
            return self._training_attack(self._infer, images, labels, seed)

        terms, _ = self._update(images, craft, labels, weights)
        self.steps.assign_add(1)
        return self._results(terms, images, labels, weights)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Natural and adversarial figures on one batch; the network does not change."""
        images, labels, weights = _unpack(data)
        share = replicas.Share.of(images)
        with shared_kernels(masked_kernels(self.network)):
            adversarial = images
            if self.attack is not None:
                with share.draws():
                    adversarial = self.attack(self._infer, images, labels, tf.constant([self.seed, 0]))
            terms, loss = self._terms(self._infer, images, adversarial, labels, weights, share)
            if terms.natural_logits is None:
                terms = dataclasses.replace(terms, natural_logits=self._infer(images))
            if terms.adversarial_logits is None and self.attack is not None:
                terms = dataclasses.replace(terms, adversarial_logits=self._infer(adversarial))
        self._record(terms, labels, weights, loss, share)
        return self._results(terms, images, labels, weights)

    def _free_step(self, loss: losses.FreeAdversarialTraining, images, labels, weights) -> dict[str, tf.Tensor]:
        """Updates of the network and of the perturbation from the same gradient, once per replay."""
        share, attack = replicas.Share.of(images), self._training_attack
        message = f"A batch is larger than batch_size={loss.batch_size} of FreeAdversarialTraining. Raise it."
        if (images.shape[0] or 0) > loss.batch_size:
            raise HarpError(message)
        # Where the graph leaves the size open; nothing else may fail before with a message of its own.
        with tf.control_dependencies([tf.debugging.assert_less_equal(share.total, loss.batch_size, message)]):
            images = tf.identity(images)
        start, end = share.start, share.start + share.count
        for replay in range(loss.replays):
            delta = self.perturbation[start:end]
            deltas = accumulation.split(delta, self.accumulate)

            def craft(part: int | tf.Tensor, images: tf.Tensor, labels: tf.Tensor, deltas=deltas) -> tf.Tensor:
                return attack.project(images + deltas[part], images)

            last = replay == loss.replays - 1
            terms, gradient = self._update(images, craft, labels, weights, look_at_clean=last)
            # An overflow of mixed precision must not stay in the perturbation for good.
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            moved = attack.ball.project(delta + attack.eps * attack.ball.step(gradient), attack.eps)
            self.perturbation.assign(tf.concat([self.perturbation[:start], moved, self.perturbation[end:]], axis=0))
        self.steps.assign_add(1)
        return self._results(terms, images, labels, weights)

    def _update(
        self,
        images,
        craft: Callable[[int | tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
        labels,
        weights,
        look_at_clean=True,
    ) -> tuple[losses.LossTerms, tf.Tensor]:
        """Crafts, computes the loss and applies its gradients.

        Args:
            images: float32 [n, ...].
            craft: number, images and labels of a part of the batch -> its adversarial images.
            labels: int32 [n].
            weights: float32 [n] or None.
            look_at_clean: classify the clean images too if the loss does not, for the figures that are reported.

        Returns:
            The terms of the loss and its (scaled) gradient with respect to the adversarial images.
        """
        variables = self.trainable_variables

        def compute(part, images, labels, weights) -> accumulation.Computed:
            terms, gradients, image_gradient = self._gradients(
                images, functools.partial(craft, part), labels, weights, variables, look_at_clean
            )
            return gradients, [terms.robust, terms.natural_logits, terms.adversarial_logits, image_gradient]

        gradients, (*terms, image_gradient) = accumulation.in_parts(
            compute, [images, labels, weights], self.accumulate, like=variables, rows=4
        )
        if self.accumulate > 1:
            gradients = [None if g is None else g / self.accumulate for g in gradients]
        gradients = replicas.sums(gradients)
        self.optimizer.apply([self._adjusted(g, v) for g, v in zip(gradients, variables)], variables)
        replicas.level(replicas.local_statistics(self.network), tf.shape(images)[0])
        for kernel in self._kernels:
            kernel.follow()
        return losses.LossTerms(*terms), image_gradient

    def _gradients(
        self, images, craft: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], labels, weights, variables, look_at_clean
    ) -> tuple[losses.LossTerms, accumulation.Tensors, tf.Tensor]:
        """The terms of the loss, its (scaled) gradients, and that with respect to the adversarial images."""
        share = replicas.Share.of(images)
        with tf.GradientTape() as tape:
            kernels = masked_kernels(self.network)
            with shared_kernels(kernels):
                with tape.stop_recording(), share.draws():
                    adversarial = craft(images, labels)
                tape.watch(adversarial)
                with share.streams(list(random_states(self.network).values())):
                    terms, loss = self._terms(self._train, images, adversarial, labels, weights, share)
                with tape.stop_recording():
                    if terms.natural_logits is None and look_at_clean:
                        terms = dataclasses.replace(terms, natural_logits=self._infer(images))
            scaled = self.optimizer.scale_loss(loss)
        # The images' and masked kernels' gradients cost nothing where they are not used: the graph is pruned.
        found = tape.gradient(scaled, [*variables, adversarial, *kernels.values()])
        gradients, image_gradient = found[: len(variables)], found[len(variables)]
        self._see(dict(zip(kernels, found[len(variables) + 1 :], strict=True)))
        self._record(terms, labels, weights, loss, share)
        return terms, gradients, image_gradient

    def _see(self, kernel_gradients: dict[int, tf.Tensor | None]) -> None:
        """For trainings that move masks: the (scaled) gradients of masked kernels, by id, of removed weights too."""

    def _terms(
        self, predict, images, adversarial, labels, weights, share: replicas.Share
    ) -> tuple[losses.LossTerms, tf.Tensor]:
        """The terms of the robust loss, and the whole loss: with size penalty and the network's own regularisation.

        Of several replicas, each has its part of the loss of the global batch.
        """
        terms = self.robust_loss(predict, images, adversarial, labels)
        # Read at once: every pass of the network replaces its layers' losses, passes of an attack too.
        own = [tf.cast(loss, tf.float32) for loss in self.network.losses]
        regularisation = tf.add_n(own) if own else tf.constant(0.0)
        # As Keras takes the mean: weights change the sum, not the number that divides it.
        mean = share.mean(terms.robust if weights is None else terms.robust * weights)
        return terms, mean + share.part(self.gamma * self.hw_loss()) + share.part(regularisation)

    def _train(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.network(images, training=True), tf.float32)

    def _infer(self, images: tf.Tensor) -> tf.Tensor:
        def logits(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(self.network(images, training=False), tf.float32)

        return half_precision_safe(logits)(images) if self._half else logits(images)

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

    def _record(self, terms: losses.LossTerms, labels, weights, loss: tf.Tensor, share: replicas.Share) -> None:
        record_loss(self._loss_tracker, loss, share)
        record_classification(self._figures, terms, labels, weights)
        if self._kernels:
            record_size(self._figures, self.hw_loss(), self.overall_rate(), self.gamma, share.count)

    def _results(self, terms: losses.LossTerms, images, labels, weights) -> dict[str, tf.Tensor]:
        results = self.compute_metrics(images, labels, terms.natural_logits, sample_weight=weights)
        if terms.adversarial_logits is None:
            del results["adversarial_accuracy"]
        return self._for_keras(results)

    def get_metrics_result(self) -> dict[str, Any]:
        """As keras.Model.get_metrics_result; after steps of several replicas without what they did not look at."""
        results = super().get_metrics_result()
        if self._on_host() and not float(keras.ops.convert_to_numpy(self._figures["adversarial_accuracy"].count)):
            del results["adversarial_accuracy"]
        return results


def _unpack(data) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        weights = tf.reshape(tf.cast(weights, tf.float32), [-1])
    return tf.cast(images, tf.float32), tf.reshape(tf.cast(labels, tf.int32), [-1]), weights
