"""Free adversarial training: one gradient serves the weights and the perturbation."""

import dataclasses

from harp_tf.losses.pgd_at import PGDAdversarialTraining
from harp_tf.types import HarpError


@dataclasses.dataclass(frozen=True)
class FreeAdversarialTraining(PGDAdversarialTraining):
    """Cross-entropy on x + delta; each minibatch is replayed, and delta is kept between replays and batches.

    The trainer makes one update of the weights per replay, and moves delta with the gradient of the same pass. A
    learning-rate schedule counts these updates: `replays` of them for each batch.

    Attributes:
        batch_size: size of the training batches; a smaller one, such as the last, uses the first rows of delta.
        replays: m, how often each minibatch is used, >= 1.

    Reference:
        Shafahi et al., Adversarial Training for Free!, NeurIPS 2019, algorithm 1.
    """

    batch_size: int
    replays: int = 4

    def __post_init__(self):
        if self.batch_size < 1 or self.replays < 1:
            raise HarpError(
                f"Free adversarial training needs batch_size >= 1 and replays >= 1, received {self.batch_size} "
                f"and {self.replays}."
            )
