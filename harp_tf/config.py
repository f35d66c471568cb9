"""The settings of a run: every one with its default, unit and range, checked before anything starts."""

import dataclasses
import math
import sys
import types
import typing
from typing import Any

from harp_tf.baselines import METHODS, Method
from harp_tf.training.distribution import STRATEGIES
from harp_tf.types import (
    AUGMENTATIONS,
    BUDGETS,
    GRANULARITIES,
    RATE_GRADIENTS,
    HarpError,
    PruningSpec,
    RateBound,
    parse_number,
    require_choice,
)

STAGES = ("pretrain", "prune", "finetune", "export", "evaluate")

CHANNELS_FIRST = "channel,weight"
"""The granularity of a prune stage in two parts."""

_MORE_THAN_0 = math.ulp(0.0)
"""The smallest positive number: as a lower bound it means "more than 0"."""

_KINDS = {
    bool: "true or false",
    int: "a whole number below 2^31",
    float: "a finite number",
    str: "a text without null bytes",
    tuple: "a tuple of texts",
}


def _setting(
    default: Any, text: str, low: float | None = None, high: float | None = None, choices=None, decides: bool = True
) -> Any:
    """A field of `RunConfig` with what the command line says about it; `low` and `high` are inclusive.

    What no result depends on does not decide: it may be another when an interrupted run goes on. Choices in a dict may
    become more while the program runs.
    """
    metadata = {"help": text, "low": low, "high": high, "choices": choices, "decides": decides}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of `python -m harp_tf.train`; each field is a flag of the same name."""

    run_dir: str = _setting("runs/run", "Folder that gets everything the run writes.", decides=False)
    stages: tuple[str, ...] = _setting(STAGES, f"Stages to run, in the order {', '.join(STAGES)}.", choices=STAGES)
    init_from: str | None = _setting(
        None,
        "Run directory or .keras file whose model is the starting point of the first stage; pretrain is left out then, "
        "unless stages names it.",
    )
    restart: bool = _setting(
        False, "Begin anew, and remove what an earlier run left in run_dir, instead of going on with it.", decides=False
    )
    checkpoint_minutes: float = _setting(
        10.0, "Minutes between checkpoints within an epoch; 0 makes one before every step.", 0, decides=False
    )
    checkpoint_keep: int = _setting(2, "How many checkpoints of a stage to keep, and the best one.", 1, decides=False)
    seed: int = _setting(0, "Seed of initial weights, data order, augmentation and attacks.", 0, 2**31 - 1)

    dataset: str = _setting(
        "digits", "digits, idx:DIR, npz:FILE, dir:FOLDER, or a TensorFlow Datasets name such as cifar10."
    )
    data_dir: str | None = _setting(None, "Folder where TensorFlow Datasets keeps its data.", decides=False)
    class_names: tuple[str, ...] = _setting(
        (), "Names of the classes 0, 1, ... for labels.txt and reports; default: those of the dataset.", decides=False
    )
    download: bool = _setting(False, "Let TensorFlow Datasets download the dataset.", decides=False)
    validation_fraction: float = _setting(0.1, "Fraction of the training images held out for validation.", 0.001, 0.9)
    data_seed: int | None = _setting(
        None, "Seed of the cut into training and validation images; default: seed.", 0, 2**31 - 1
    )
    augment: str = _setting(
        "auto",
        "Random changes of training images that are in memory: shift by up to 4 pixels, mirror; auto: both for 32x32 "
        "colour images, but no mirror for a dataset with svhn in its name.",
        choices=AUGMENTATIONS,
    )
    train_limit: int | None = _setting(None, "Use at most so many training images.", 1)
    test_limit: int | None = _setting(None, "Use at most so many test images.", 1)

    model: str = _setting("cnn_digits", "Name of a model, path of a .keras file, or package.module:function.")
    width: float | None = _setting(None, "Multiplies the channels of a named model.", _MORE_THAN_0)
    depth: int | None = _setting(None, "Multiplies the convolutions per stage of a named model.", 1)
    import_modules: tuple[str, ...] = _setting(
        (), "Python modules to import first: those that register layers or pruning methods of your own.", decides=False
    )

    loss: str = _setting("pgd", "Training loss.", choices=("natural", "pgd", "trades", "mart", "free"))
    beta: float = _setting(6.0, "Weight of the KL term of trades and mart.", 0)
    replays: int = _setting(4, "How often the loss free uses each minibatch.", 1)
    norm: str = _setting("linf", "Norm of the threat model.", choices=("linf", "l2"))
    eps: float = _setting(8 / 255, "Radius of the attack, in units of [0, 1] pixels, such as 0.1 or 8/255.", 0)
    attack_steps: int = _setting(10, "Gradient steps of the training attack.", 1)
    attack_step_size: float | None = _setting(None, "Step of the training attack in [0, 1] pixels; default eps / 4.", 0)

    target_sparsity: float = _setting(0.99, "Fraction of the prunable weights to remove, in (0, 1).")
    method: str = _setting("harp", "How weights are chosen, see docs/methods.md.", choices=METHODS)
    strategy: str | None = _setting(
        None, "Initial rates: uniform, erk, igq, lamp, or the path of a rates.json; default: those of the method."
    )
    initial_rate: float | None = _setting(
        None, "Fraction kept at the start; default 0.1, for methods that learn no rates the target.", _MORE_THAN_0, 1
    )
    budget: str = _setting("weights", "What target_sparsity is a fraction of.", choices=BUDGETS)
    granularity: str = _setting(
        "weight",
        "What is removed: single weights, channels with all that reads them, or first channels and then weights.",
        choices=(*GRANULARITIES, CHANNELS_FIRST),
    )
    channel_sparsity: float = _setting(
        0.5,
        f"With granularity {CHANNELS_FIRST}: fraction of the multiply-adds that the channels take with them, at least.",
        _MORE_THAN_0,
        0.999,
    )
    channel_multiple: int = _setting(8, "Numbers of kept channels become multiples of it where they can.", 1)
    floor_factor: float = _setting(0.1, "No layer's rate falls below this times the target rate.", 1e-6, 0.999)
    rate_bounds: tuple[str, ...] = _setting(
        (),
        "Smallest and largest rate of single layers: conv1=0.2:,block3/.*=:0.1,logits=1:1 (names, paths or regular "
        "expressions; a bound may be left out).",
    )
    rate_gradient: str = _setting(
        "sum",
        "How rates learn from the loss: the paper's sum over all mask entries, or the marginal value of one more.",
        choices=RATE_GRADIENTS,
    )
    gamma: float = _setting(0.01, "gamma_0, by which the factor of the size penalty rises per epoch.", _MORE_THAN_0)
    skip: tuple[str, ...] = _setting((), "Names of layers to leave unpruned.")

    batch_size: int = _setting(128, "Images per training step.", 1)
    accumulate: int = _setting(
        1, "Compute each batch in so many parts, one after another, for less memory; divides batch_size.", 1
    )
    precision: str = _setting(
        "float32",
        "What training computes in; weights, scores, rates and all files are float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    jit: str = _setting(
        "auto", "Compile training with XLA; auto: where there is a GPU or TPU.", choices=("auto", "on", "off")
    )
    distribute: str = _setting(
        "none",
        "Train on one device; on all GPUs of this machine; as one of several processes, named by TF_CONFIG; on a TPU.",
        choices=STRATEGIES,
    )
    devices: int | None = _setting(
        None,
        "With distribute=mirrored: use so many GPUs, or divide the CPU into so many devices where there is none; "
        "default: all.",
        1,
    )
    sync_batch_norm: bool = _setting(
        False, "Batch normalisation takes its statistics from the images of all devices, instead of each from its own."
    )
    optimizer: str = _setting("sgd", "Optimiser of all stages.", choices=("sgd", "adam"))
    momentum: float = _setting(0.9, "Momentum of sgd.", 0, 0.9999)
    weight_decay: float = _setting(5e-4, "L2 decay added to the gradients; never on scores and rates.", 0)
    schedule: str = _setting("cosine", "Learning-rate schedule of each stage.", choices=("cosine", "step", "constant"))
    warmup_epochs: float = _setting(0.0, "Epochs of linear warm-up at the start of pretrain.", 0)
    pretrain_epochs: int = _setting(100, "Epochs of the dense model.", 1)
    prune_epochs: int = _setting(20, "Epochs of the prune stage.", 1)
    finetune_epochs: int = _setting(100, "Epochs under the learned masks.", 1)
    pretrain_learning_rate: float = _setting(0.1, "Initial learning rate of pretrain.", _MORE_THAN_0)
    prune_learning_rate: float = _setting(0.1, "Initial learning rate of the prune stage.", _MORE_THAN_0)
    finetune_learning_rate: float = _setting(0.01, "Initial learning rate of finetune.", _MORE_THAN_0)

    attacks: tuple[str, ...] = _setting(
        (), "Attacks of the final evaluation, such as pgd20, cw, autoattack or square; default pgd<eval_steps>."
    )
    eps_list: tuple[str, ...] = _setting(
        (), "Radii of the final evaluation in [0, 1] pixels, for a security curve; default eps alone."
    )
    eval_steps: int = _setting(20, "Gradient steps of PGD in the final evaluation.", 1)
    eval_step_size: float | None = _setting(
        None, "Step of pgd and cw in the final evaluation; default eps / 10. Scaled for other radii of eps_list.", 0
    )
    robust_limit: int | None = _setting(None, "Attack at most so many test images in the final evaluation.", 1)
    measure_dense: bool = _setting(
        True, "Export and measure the dense model too, beside the one that was pruned from it."
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if not self.stages or list(self.stages) != [stage for stage in STAGES if stage in self.stages]:
            raise HarpError(f"stages must be some of {', '.join(STAGES)} in this order, received {self.stages}.")
        if {"pretrain", "finetune"} <= set(self.stages) and "prune" not in self.stages:
            raise HarpError(
                f"stages must have prune between pretrain and finetune, received {self.stages}: finetune trains "
                "under the masks that prune learns."
            )
        for name, eps in [("eps", self.eps), *(("eps_list", parse_radius(text)) for text in self.eps_list)]:
            if self.norm == "linf" and eps > 1:
                raise HarpError(
                    f"{name} must be at most 1 for the norm linf, received {eps!r}: it is in units of [0, 1] pixels. "
                    "Divide a radius in 8-bit pixels by 255."
                )
        if self.batch_size % self.accumulate:
            raise HarpError(
                f"accumulate must divide batch_size = {self.batch_size} into parts of one size, received "
                f"{self.accumulate!r}."
            )
        if self.warmup_epochs > self.pretrain_epochs:
            raise HarpError(
                f"warmup_epochs must be at most pretrain_epochs = {self.pretrain_epochs}, received "
                f"{self.warmup_epochs!r}."
            )
        if self.channels_first and self.budget != "weights":
            raise HarpError(
                f"budget must be weights with the granularity {CHANNELS_FIRST}, received {self.budget!r}: "
                "target_sparsity is about the weights there, and channel_sparsity about the multiply-adds."
            )
        self._check_method()
        self.pruning_spec()
        self.bounds_by_layer()

    def _check_method(self) -> None:
        """Refuses settings that the method does not know, and a second name of what has one."""
        if self.strategy is not None and not self.pruning_method.other_rates:
            raise HarpError(
                f"The method {self.method} has rates of its own, received strategy {self.strategy!r}. Leave it out, or "
                "choose the method hydra or lwm_layer."
            )
        if f"{self.method}_{self.strategy}" in METHODS:
            raise HarpError(
                f"The method {self.method} with the strategy {self.strategy} has a name of its own: choose the method "
                f"{self.method}_{self.strategy}, without a strategy."
            )
        for name, only in self.pruning_method.only.items():
            if getattr(self, name) != only:
                raise HarpError(
                    f"The method {self.method} knows no {name} but {only!r}, received {getattr(self, name)!r}. Leave "
                    f"it out, or choose one of {', '.join(n for n, m in METHODS.items() if name not in m.only)}."
                )

    @property
    def evaluated_attacks(self) -> tuple[str, ...]:
        """Names of the attacks of the final evaluation."""
        return self.attacks or (f"pgd{self.eval_steps}",)

    @property
    def cut_seed(self) -> int:
        """Seed of the cut into training and validation images."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Modules of the user that the model may need, that of `model` itself among them."""
        module, colon, _ = self.model.partition(":")
        return (*self.import_modules, *([module] if colon and not self.model.endswith(".keras") else []))

    @property
    def pruning_method(self) -> Method:
        """What `method` names."""
        return METHODS[self.method]

    @property
    def initial_strategy(self) -> str:
        """Name of the rates that the prune stage starts from, or the path of their file."""
        return self.strategy or self.pruning_method.strategy

    @property
    def stage_epochs(self) -> dict[str, int]:
        """Epochs of each training stage; with two parts, the prune stage makes as many in each.

        All methods make the same number of epochs: what prunes in one shot leaves those of the prune stage to finetune,
        and what moves its masks until the end has all of them in the prune stage.
        """
        method, all_epochs = self.pruning_method, self.prune_epochs + self.finetune_epochs
        prune = 0 if method.one_shot else self.prune_epochs if method.finetunes else all_epochs
        return {"pretrain": self.pretrain_epochs, "prune": prune, "finetune": all_epochs - prune}

    @property
    def channels_first(self) -> bool:
        """Whether the prune stage has two parts: channels, then the weights of what is left."""
        return self.granularity == CHANNELS_FIRST

    def pruning_spec(self) -> PruningSpec:
        """The part of the settings that the pruned layers carry, those of the weights if channels go first.

        Raises:
            HarpError: if one of them is out of its range.
        """
        granularity = "weight" if self.channels_first else self.granularity
        return PruningSpec(
            self.target_sparsity,
            self.pruning_method.mode,
            self.budget,
            self.floor_factor,
            granularity,
            self.channel_multiple,
            self.rate_gradient,
        )

    def bounds_by_layer(self) -> dict[str, tuple[float | None, float | None]]:
        """`rate_bounds` as `harp_tf.prune` takes it.

        Raises:
            HarpError: if one of them cannot be read, or two are about the same layers.
        """
        bounds = [RateBound.parse(text) for text in self.rate_bounds]
        by_layer = {bound.layers: (bound.low, bound.high) for bound in bounds}
        if len(by_layer) < len(bounds):
            raise HarpError(f"rate_bounds must name each layer once, received {','.join(self.rate_bounds)}.")
        return by_layer

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-serialisable values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def setting_type(field: dataclasses.Field) -> type:
    """What a setting holds when it is not None: bool, int, float, str or tuple (of str)."""
    hint: Any = field.type
    if isinstance(hint, types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return typing.get_origin(hint) or hint


def setting_range(field: dataclasses.Field) -> str:
    """The range of a number for people, "at least 1"; empty if there is none."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low is None:
        return ""
    least = "more than 0" if low == _MORE_THAN_0 else f"at least {low:g}"
    return least if high is None else f"{least} and at most {high:.10g}"


def parse_radius(text: str) -> float:
    """The radius that an entry of eps_list names.

    Raises:
        HarpError: if it names none.
    """
    try:
        radius = parse_number(text)
    except ValueError:
        radius = math.nan
    if not 0 <= radius < math.inf:
        raise HarpError(f"eps_list must be radii of at least 0, separated by commas, received {text!r} among them.")
    return radius


def _check(field: dataclasses.Field, value: Any) -> None:
    if value is None and field.default is None:
        return
    kind, low, high, choices = setting_type(field), *(field.metadata[key] for key in ("low", "high", "choices"))
    if choices and kind is str:
        require_choice(field.name, value, choices)
    if _is_a(kind, value) and (low is None or value >= low) and (high is None or value <= high):
        for item in value if choices and kind is tuple else ():
            require_choice(field.name, item, choices)
        return
    expected = ", ".join(filter(None, [_KINDS[kind], setting_range(field)]))
    raise HarpError(f"{field.name} must be {expected}, received {value!r}.")


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is of a setting's type: a whole number is a float too, True is no number, a text is not empty."""
    if kind is tuple:
        return isinstance(value, tuple) and all(_is_a(str, item) for item in value)
    if kind is str:
        return isinstance(value, str) and value != "" and "\0" not in value
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and abs(value) < 2**31
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
