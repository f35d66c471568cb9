"""The L-infinity form of Carlini and Wagner's attack."""

import dataclasses

from harp_tf.attacks.pgd import PGD


@dataclasses.dataclass(frozen=True, kw_only=True)
class CW(PGD):
    """C&W-inf as robust pruning evaluates it: PGD on the margin, the largest other logit minus that of the label.

    It is not the minimum-norm attack of Carlini and Wagner's paper; for that question use FMN or FAB.

    Attributes:
        step_size: as in PGD.
        steps: as in PGD.
        start: as in PGD.
        restarts: as in PGD.

    Reference:
        Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017 (the loss f6);
        Zhao and Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023 (its use).
    """

    objective: str = dataclasses.field(default="margin", init=False)
