"""Pruning methods behind one interface: HARP and what it is compared with; one file, one method or a pair."""

import re

from harp_tf.baselines.base import WEIGHTS_ONLY, Method, keep_all, keep_largest
from harp_tf.baselines.flying_bird import FLYING_BIRD, FLYING_BIRD_PLUS
from harp_tf.baselines.learned import HARP, HARP_JOINT, HYDRA, HYDRA_ERK, HYDRA_LAMP, RATE
from harp_tf.baselines.magnitude import LWM, LWM_LAYER
from harp_tf.baselines.radmm import RADMM
from harp_tf.baselines.random_masks import RANDOM
from harp_tf.baselines.tfmot import TFMOT
from harp_tf.types import HarpError

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
"""The methods by the name that `--method` takes: those of this library, then those that were registered."""


def register_method(name: str, method: Method) -> None:
    """Adds a pruning method to those that `--method` and the `--methods` of a comparison know.

    Call it in a module that `--import_modules` names on the command line, in `evaluate` and `export` as well.

    Args:
        name: of lower-case letters, digits and underscores, beginning with a letter, for it names folders too. What
            begins with "dense" or "harp" is the library's own.
        method: the method.

    Raises:
        HarpError: if the name is of another kind, or taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or re.match("dense|harp", name):
        raise HarpError(
            "A method's name must be of lower-case letters, digits and underscores, and begin with a letter, but not "
            f"with dense or harp; received {name!r}."
        )
    if METHODS.setdefault(name, method) != method:
        raise HarpError(f"There is another method {name!r} already. Choose another name.")


__all__ = ["METHODS", "WEIGHTS_ONLY", "Method", "keep_all", "keep_largest", "register_method"]
