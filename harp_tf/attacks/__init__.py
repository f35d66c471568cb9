"""Attacks as compiled graphs; they see a function from images to logits and nothing else."""

from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.evaluation import evaluate
from harp_tf.attacks.pgd import FGSM, PGD

__all__ = ["FGSM", "PGD", "Attack", "Logits", "evaluate"]
