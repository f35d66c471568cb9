"""Pruning methods behind one interface: HARP and what it is compared with; one file, one method or a pair."""

from harp_tf.baselines.base import Method
from harp_tf.baselines.flying_bird import FLYING_BIRD, FLYING_BIRD_PLUS
from harp_tf.baselines.learned import HARP, HARP_JOINT, HYDRA, HYDRA_ERK, HYDRA_LAMP, RATE
from harp_tf.baselines.magnitude import LWM, LWM_LAYER
from harp_tf.baselines.radmm import RADMM
from harp_tf.baselines.random_masks import RANDOM
from harp_tf.baselines.tfmot import TFMOT

METHODS: dict[str, Method] = {
    "harp": HARP,
    "harp_joint": HARP_JOINT,
    "hydra": HYDRA,
    "hydra_erk": HYDRA_ERK,
    "hydra_lamp": HYDRA_LAMP,
    "rate": RATE,
    "lwm": LWM,
    "lwm_layer": LWM_LAYER,
    "radmm": RADMM,
    "flying_bird": FLYING_BIRD,
    "flying_bird_plus": FLYING_BIRD_PLUS,
    "random": RANDOM,
    "tfmot": TFMOT,
}
"""The methods by the name that `--method` takes."""

__all__ = ["METHODS", "Method"]
