"""Attacks as compiled graphs; they see a function from images to logits and nothing else."""

from harp_tf.attacks import checks
from harp_tf.attacks.apgd import APGD, APGDTargeted
from harp_tf.attacks.autoattack import AutoAttack, Cascade
from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.cw import CW
from harp_tf.attacks.engine import Engine, Outcome
from harp_tf.attacks.evaluation import Evaluation, Progress, evaluate
from harp_tf.attacks.fab import FABTargeted
from harp_tf.attacks.figures import black_box_parts
from harp_tf.attacks.fmn import FMN
from harp_tf.attacks.minimum_norm import MinimumNorm, distances
from harp_tf.attacks.named import NAMES, get, get_all
from harp_tf.attacks.pgd import FGSM, PGD
from harp_tf.attacks.predictions import Predict
from harp_tf.attacks.records import merge
from harp_tf.attacks.square import Square
from harp_tf.attacks.state import State

__all__ = [
    "APGD",
    "CW",
    "FGSM",
    "FMN",
    "NAMES",
    "PGD",
    "APGDTargeted",
    "Attack",
    "AutoAttack",
    "Cascade",
    "Engine",
    "Evaluation",
    "FABTargeted",
    "Logits",
    "MinimumNorm",
    "Outcome",
    "Predict",
    "Progress",
    "Square",
    "State",
    "black_box_parts",
    "checks",
    "distances",
    "evaluate",
    "get",
    "get_all",
    "merge",
]
