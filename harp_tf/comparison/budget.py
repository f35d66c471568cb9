"""What training costs, in epochs and in gradient passes, computed from the settings."""

from harp_tf.config import RunConfig


def passes_per_step(config: RunConfig) -> int:
    """Forward and backward passes of one training step on one batch.

    The attack makes one pass per step of its own, and the update one more; trades and mart update on the clean and on
    the adversarial images, two. The loss free makes one per replay, which serves attack and update at once.
    """
    if config.loss == "free":
        return config.replays
    updates = 2 if config.loss in ("trades", "mart") else 1
    return updates + (0 if config.loss == "natural" else config.attack_steps)


def gradient_passes(config: RunConfig, epochs: int, steps_per_epoch: int) -> int:
    """Gradient passes over a batch in a number of epochs.

    Args:
        config: the settings; loss, attack_steps and replays count.
        epochs: number of epochs.
        steps_per_epoch: batches in an epoch.
    """
    return epochs * steps_per_epoch * passes_per_step(config)
