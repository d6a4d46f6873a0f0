"""What `benchmarks/comparisons.py` compares: a grid for each table of docs/results.md, and what tables call its entrants.

An entrant is a name of `igc compare` with settings after it, NAME+KEY=VALUE+...; private names here are parts of such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from igc.experiments.compare.entrant import LOCAL_RATE, RATE


@dataclass(frozen=True)
class Grid:
    """A comparison.

    Attributes:
        recipe: what all have in common.
        rounds: of every run, which is evaluated after the last; with a budget of bytes, at most so many.
        trials: learning rates that each method may try; 1: the one that it names.
        methods: the most telling first, since time may end; each entry is one call of `igc compare`.
        examples: of a split that are evaluated; None: all.
        further: options.
    """

    recipe: str
    rounds: int
    trials: int
    methods: tuple[str, ...]
    examples: int | None = None
    further: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """For `igc compare`, but for the methods."""
        tuning = ["--no-tune"] if self.trials == 1 else ["--trials", str(self.trials)]
        options = ["--rounds", str(self.rounds), *tuning, *self.further]
        options += ["--set", f"evaluation.every={self.rounds}"]
        return options if self.examples is None else [*options, "--set", f"evaluation.max_examples={self.examples}"]

    def has(self, line: dict[str, Any]) -> bool:
        """Whether a line of ``comparison.json`` is of as many rounds, or of a budget of bytes."""
        return bool(line["budget"] == "bytes" or line["rounds"] == self.rounds)


# FedAvg as published has neither.
_AS_THE_RECIPE = "optimizer.schedule=linear+optimizer.warmup_rounds=5+optimizer.final_fraction=0.1"
_RATE, _BETA, _ERROR = RATE, "optimizer.beta2=0.98", "method.error_feedback=true"
_ONE_BIT, _CODED = "static-1bit+codec.down=eden-4", "codec.up=eden-1+codec.down=eden-4"
_FFA_LORA_CODED = f"ffa-lora+{_CODED}"
_SMALL = f"static+method.dim=1024+{_RATE}=1.58e-3"
_SCALED = f"static+method.dim=1024+{_RATE}=1.58e-4+method.scale=calibrated"
_WIDE = "static-1bit+codec.down=eden-3+method.dim=32768"
# A step along the gradient over its size, tensor by tensor, as Adam's; so has the recipe `shakespeare`.
_LIKE_ADAM = "method.scale=calibrated+method.scale_exponent=-0.5"
# The recipe `movie-reviews`: clients go once through all their examples, 33 or 34, by Adam inside the subspace; and the
# same uncompressed.
_LOCAL = (
    f"{_WIDE}+federation.batch_size=40+local.batch_size=8+local.optimizer=adam+local.learning_rate=5e-4"
    f"+{_BETA}+{_RATE}=1e-3"
)
_LOCAL_SMALL, _LOCAL_TINY = _LOCAL.replace("32768", "8192"), _LOCAL.replace("32768", "1024")
_LOCAL_DENSE = (
    "fedavg+federation.batch_size=40+local.batch_size=8+local.optimizer=adam+local.learning_rate=5e-5"
    f"+optimizer.name=adam+{_BETA}+{_RATE}=1.58e-4+{_AS_THE_RECIPE}"
)
# The recipe `fashion-mnist`, and what uncompressed training is with the same local work.
_STAGES = 'method.budgets={"layer1.*"=5120,"residual1.*"=20480,"layer2.*"=20480,"layer3.*"=40960}'
_FOUR_STEPS = "federation.batch_size=64+local.batch_size=16"
_IN_FOUR_STEPS = f"{_FOUR_STEPS}+local.optimizer=adam+local.learning_rate=5e-4"
_IMAGES = (
    f"recipe+method.dim=81920+{_STAGES}+{_BETA}+{_FOUR_STEPS}"
    f"+local.optimizer=adam+local.learning_rate=5e-4+{_RATE}=3e-3"
)
_FEDADAM = (
    f"fedavg+{_FOUR_STEPS}+local.optimizer=adam+local.learning_rate=5e-4+optimizer.name=adam+{_BETA}+{_RATE}=1e-3"
)
# Four passages in four local steps inside the subspace, and what uncompressed training is with the same local work.
_FOUR_PASSAGES_EACH = "federation.batch_size=4+local.batch_size=1"
_FOUR_PASSAGES = f"{_FOUR_PASSAGES_EACH}+local.optimizer=adam"
_ROLES = f"{_ONE_BIT}+method.dim=131072+{_FOUR_PASSAGES}+local.learning_rate=5e-4+{_BETA}+{_RATE}=1e-3"
_ROLES_SMALL = _ROLES.replace("131072", "8192")
_ROLES_DENSE = (
    f"fedavg+{_FOUR_PASSAGES}+local.learning_rate=1.58e-5+optimizer.name=adam+{_BETA}+{_RATE}=5e-5"
    "+optimizer.schedule=linear+optimizer.warmup_rounds=10+optimizer.final_fraction=0.1"
)
# One gradient of as many examples as local steps take.
_ALL_SNIPPETS, _MORE_IMAGES, _MORE_PASSAGES = (f"federation.batch_size={size}" for size in (40, 64, 4))
_SNIPPETS_LIKE_ADAM = f"{_WIDE}+{_BETA}+{_RATE}=2e-3+{_ALL_SNIPPETS}+{_LIKE_ADAM}"
_IMAGES_UNGROUPED = (
    f"static-1bit+codec.down=eden-4+method.dim=174000+{_BETA}+{_FOUR_STEPS}"
    f"+local.optimizer=adam+local.learning_rate=5e-4+{_RATE}=3e-3"
)
_IMAGES_SMALL = f"{_ONE_BIT}+{_BETA}+{_IN_FOUR_STEPS}+{_RATE}=3e-3"
_LOCAL_30 = _LOCAL.replace(f"{_RATE}=1e-3", f"{_RATE}=3.16e-3")  # the rate that 30 rounds chose
_IN_ONE_STEP = f"recipe+method.dim=81920+{_STAGES}+{_BETA}+{_RATE}=3e-3+{_MORE_IMAGES}"
# Parts that are tried one by one, on one-step clients of one passage.
_PASSAGE = f"{_ONE_BIT}+{_BETA}+{_RATE}=1e-3"
# More passages a gradient; and with more dimensions, too.
_ROLES_LIKE_ADAM = f"{_ONE_BIT}+{_BETA}+{_RATE}=1.5e-3+{_MORE_PASSAGES}+{_LIKE_ADAM}"
_MANY_LIKE_ADAM = f"{_ONE_BIT}+{_BETA}+{_RATE}=7e-4+{_MORE_PASSAGES}+method.dim=524288+{_LIKE_ADAM}"
# Parts that are tried one by one, on one-step clients in one subspace of d = 16,384.
_PART, _LOWER, _FRESH = f"static+{_RATE}=3e-3", f"static+{_RATE}=3e-4", f"time-varying+{_RATE}=3e-3"
_STAGES_OF_16896 = 'method.dim=8192+method.budgets={"layer1.*"=512,"residual1.*"=2048,"layer2.*"=2048,"layer3.*"=4096}'
_SMALL_IN_FULL = 'method.full=["prepare.*","*.norm.*","linear.*"]'
_IN_EIGHT_STEPS = _IN_FOUR_STEPS.replace("federation.batch_size=64", "federation.batch_size=128")
_SGD_STEPS = f"{_FOUR_STEPS}+local.optimizer=sgd+local.learning_rate=1e-3+optimizer.name=sgd+{_RATE}=0.5"
_CONTROLLED = "local.control_variates=true+federation.weights=uniform"

GRIDS = {
    "movie-reviews": Grid(
        "movie-reviews-static",
        rounds=30,
        trials=3,
        examples=500,
        methods=(
            f"static,fedsgd,local-top-k+{_RATE}=0.03,fedavg-lora+{LOCAL_RATE}=0.03",
            "static+method.dim=1024,static-1bit+method.dim=1024,powersgd",
            f"{_LOCAL},{_LOCAL_SMALL},{_LOCAL_TINY},{_FFA_LORA_CODED}",
            f"time-varying,k-subspace,static-1bit,fetchsgd,static-1bit+codec.down=int8,{_ONE_BIT}",
            "ffa-lora,uni-lora,random-k,gpart,int4,true-top-k",
            f"local-top-k+optimizer.name=adam+{_RATE}=1.58e-4,qsgd,eden",
            f"fedsgd+{_ALL_SNIPPETS}+{_RATE}=1.58e-4,{_WIDE}+{_BETA}+{_RATE}=1.5e-3+{_ALL_SNIPPETS}",
            f"fedavg,{_LOCAL_DENSE},fedprox,decomfl",
        ),
    ),
    # The target: ours and uncompressed training, each tuned, over three seeds.
    "movie-reviews-100": Grid(
        "movie-reviews-static",
        rounds=100,
        trials=2,
        examples=1000,
        further=("--seeds", "3"),
        methods=(
            f"fedsgd+{_BETA}+{_RATE}=1.58e-4,{_WIDE}+{_BETA}+{_RATE}=1.5e-3,{_LOCAL}",
            f"fedsgd+{_ALL_SNIPPETS}+{_RATE}=1.58e-4,{_SNIPPETS_LIKE_ADAM}",
            f'{_SNIPPETS_LIKE_ADAM}+method.full=["classifier.*"]',
        ),
    ),
    "movie-reviews-parts": Grid(
        "movie-reviews-static",
        rounds=30,
        trials=2,
        examples=1000,
        further=("--seeds", "3"),
        methods=(
            f"static+{_RATE}=5e-4,{_ONE_BIT}+{_RATE}=5e-4,fedsgd+{_RATE}=5e-5",
            f"{_SMALL},{_SMALL}+codec.up=eden-1+codec.down=eden-4",
            f"{_SCALED},{_SCALED}+method.scale_exponent=0.5",  # scaled subspaces want lower rates
            f'{_SMALL}+method.full=["classifier.*"],{_SMALL}+space.exclude=["*embeddings*"]',
            f"{_SMALL}+model.lora_rank=8,{_SMALL}+optimizer.name=yogi,{_SMALL}+codec.up=eden-1",
        ),
    ),
    "movie-reviews-bytes": Grid(
        "movie-reviews-static",
        rounds=100,
        trials=2,
        examples=1000,
        further=("--budget", "5000000"),
        methods=(
            f"static+{_RATE}=1.58e-3,static-1bit+{_RATE}=1.58e-3,{_LOCAL},{_ONE_BIT}+{_RATE}=1.58e-3",
            f"uni-lora+{_RATE}=0.0158,{_FFA_LORA_CODED},fedavg-lora,ffa-lora,powersgd,local-top-k,fetchsgd",
            # Rivals with our codecs, or fewer numbers.
            f"gpart+{_CODED}+{_RATE}=1.5e-3,uni-lora+method.dim=16384+{_CODED}+{_RATE}=5e-3",
            f"fedavg-lora+{_CODED}+{LOCAL_RATE}=0.0949,random-k+{_CODED}+{_RATE}=0.01,local-top-k+method.k=2000+{_RATE}=0.3",
        ),
    ),
    "fashion-mnist": Grid(
        "fashion-mnist-static",
        rounds=60,
        trials=3,
        examples=2000,
        methods=(
            f"static+{_RATE}=3e-3,fedsgd+{_RATE}=1e-3,powersgd+{_ERROR}+{_RATE}=3e-4,local-top-k+{_ERROR}+{_RATE}=0.1",
            f"powersgd+{_RATE}=3e-4,local-top-k+{_RATE}=0.1,{_ONE_BIT}+{_RATE}=3e-3,{_ONE_BIT}+method.dim=512+{_RATE}=3e-3",
            f"fetchsgd,random-k,int4+{_RATE}=1e-3,recipe+{_RATE}=3e-3,gpart,true-top-k,qsgd,eden",
            # Published, clients go through all their images, which takes too long here.
            f"fedavg+{_FOUR_STEPS},fedprox+{_FOUR_STEPS},time-varying,k-subspace,decomfl",
        ),
    ),
    # The target.
    "fashion-mnist-100": Grid(
        "fashion-mnist-static",
        rounds=60,
        trials=2,
        examples=2000,
        further=("--seeds", "3"),
        methods=(
            f"fedsgd+{_RATE}=1e-3,{_IMAGES}",
            f"fedsgd+{_BETA}+{_RATE}=1e-3,{_FEDADAM},fedavg+{_FOUR_STEPS}",
            f"fedsgd+{_MORE_IMAGES}+{_RATE}=1e-3,{_IN_ONE_STEP},{_IMAGES_UNGROUPED}",
        ),
    ),
    "fashion-mnist-parts": Grid(
        "fashion-mnist-static",
        rounds=60,
        trials=2,
        examples=2000,
        further=("--seeds", "2"),
        methods=(
            f"{_PART},{_PART}+{_BETA},{_PART}+{_STAGES_OF_16896},{_PART}+{_STAGES_OF_16896}+{_SMALL_IN_FULL}",
            f"{_PART}+method.full_below=3000,{_PART}+codec.up=eden-1+codec.down=eden-4",
            f"{_PART}+codec.up=eden-1+codec.error_feedback=true,{_PART}+method.dim=131072,{_PART}+method.dim=4096",
            f"{_PART}+{_IN_FOUR_STEPS},{_PART}+{_IN_FOUR_STEPS}+local.proximal=0.1",
            # Where the plain method's rates are too high, or too low.
            f"{_LOWER}+method.scale=weights,{_LOWER}+method.scale=calibrated+method.scale_exponent=0.5",
            f"{_LOWER}+method.scale=calibrated,{_LOWER}+optimizer.name=yogi,{_PART}+{_LIKE_ADAM}",
            f"static+{_RATE}=9.49e-3+optimizer.name=adagrad",
            f"static+optimizer.name=sgd+{_RATE}=1,static+optimizer.name=sgd+optimizer.momentum=0.9+{_RATE}=0.3",
            f"{_FRESH}+method.rounds_per_epoch=10+method.moments=carry-scale,{_FRESH}+method.change=plateau",
            f"{_PART}+optimizer.restarts=rounds+optimizer.cycle=20,{_PART}+method.burn_in=20",
            # SCAFFOLD's clients take plain SGD, and the server its mean.
            f"static+{_SGD_STEPS}+{_CONTROLLED},static+{_SGD_STEPS}",
            f"{_FRESH}+method.rounds_per_epoch=10,{_FRESH}+method.rounds_per_epoch=10+method.moments=carry-over",
            f"{_FRESH}+method.rounds_per_epoch=20+optimizer.restarts=change,{_FRESH}+method.rounds_per_epoch=20",
            f"{_FRESH}+method.change=plateau+method.patience=5+method.threshold=0.05",
            f"k-subspace+{_RATE}=3e-3,k-subspace+{_RATE}=3e-3+method.subspaces=8",
            f"{_PART}+codec.up=lloyd-1,{_PART}+codec.up=int8,{_PART}+codec.up=eden-2,{_PART}+codec.up=int4,{_PART}+codec.up=eden-1",
            f"{_PART}+method.projection=partition,{_PART}+method.projection=fastfood",
            f'{_PART}+method.burn_in=20+method.learned=16,{_PART}+method.scale=table+method.scale_table={{"linear.*"=3}}',
            f"{_PART}+{_MORE_IMAGES},{_PART}+{_IN_EIGHT_STEPS}",
            f"{_PART}+codec.up=float16+codec.down=float16,{_PART}+codec.up=bfloat16+codec.down=bfloat16",
        ),
    ),
    # The recipe without each of its parts, or with another: one rate for all, the recipe's.
    "fashion-mnist-recipe": Grid(
        "fashion-mnist-static",
        rounds=60,
        trials=1,
        examples=2000,
        further=("--seeds", "2"),
        methods=(
            f"{_IMAGES},{_IMAGES}+codec.up=float32+codec.down=float32,{_IMAGES}+optimizer.beta2=0.999",
            f"{_IMAGES_UNGROUPED},{_IN_ONE_STEP},{_IMAGES}+method.name=time-varying+method.rounds_per_epoch=20",
            f"{_IMAGES}+method.projection=partition,{_IMAGES}+{_LIKE_ADAM}",
        ),
    ),
    "movie-reviews-recipe": Grid(
        "movie-reviews-static",
        rounds=30,
        trials=1,
        examples=1000,
        further=("--seeds", "2"),
        methods=(
            f"{_LOCAL_30},{_LOCAL_30}+codec.up=float32+codec.down=float32,{_LOCAL_30}+optimizer.beta2=0.999",
            f"{_LOCAL_30}+method.projection=partition,{_WIDE}+{_BETA}+{_RATE}=1.5e-3+{_ALL_SNIPPETS}",
            f"{_LOCAL_30}+method.name=time-varying+method.rounds_per_epoch=10,{_LOCAL_30}+method.dim=16384",
            f"{_LOCAL_30}+method.scale=calibrated+method.scale_exponent=0.5+{_RATE}=1e-3",
        ),
    ),
    "fashion-mnist-bytes": Grid(
        "fashion-mnist-static",
        rounds=400,
        trials=2,
        examples=2000,
        further=("--budget", "20000000"),
        methods=(
            f"recipe+{_RATE}=3e-3,{_IMAGES},static+{_RATE}=3e-3,random-k,powersgd+{_RATE}=1e-3,local-top-k,fedsgd,gpart",
            # Rivals with our codecs, or fewer numbers.
            f"{_ONE_BIT}+{_RATE}=3e-3,gpart+{_CODED}+{_RATE}=3e-3,random-k+{_CODED}+{_RATE}=0.01,local-top-k+method.k=1000+{_RATE}=0.3",
            _IMAGES_SMALL,
        ),
    ),
    "shakespeare": Grid(
        "shakespeare-static",
        rounds=30,
        trials=2,
        further=("--validation", "held-out-lines"),
        methods=(
            f"fedsgd,{_ROLES},fedsgd+{_MORE_PASSAGES}+{_RATE}=1.58e-4,{_PASSAGE}+{_MORE_PASSAGES}",
            f"{_PASSAGE},{_ROLES_DENSE},{_ROLES_SMALL},static+method.dim=16384+{_BETA}+{_RATE}=1e-3,uni-lora",
            f"gpart+{_RATE}=1e-3",
            # A subspace that is longer where gradients are large wants lower rates.
            f"{_ONE_BIT}+{_BETA}+method.scale=calibrated+method.scale_exponent=0.5+{_RATE}=1e-4",
            f"{_MANY_LIKE_ADAM},{_ROLES_LIKE_ADAM}",
            # Published, clients go through all their lines, which takes too long here.
            f"powersgd,fedavg-lora+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.1,ffa-lora+{_FOUR_PASSAGES_EACH}",
            f"local-top-k+{_RATE}=0.01,fedavg+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.003",
            f"fedprox+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.003",
        ),
    ),
    # One rate for all, 1e-3.
    "shakespeare-parts": Grid(
        "shakespeare-static",
        rounds=30,
        trials=1,
        further=("--validation", "held-out-lines", "--seeds", "2"),
        methods=(
            f"{_PASSAGE},static+{_BETA}+{_RATE}=1e-3,{_ROLES},{_PASSAGE}+method.dim=16384",
            f"{_PASSAGE}+{_MORE_PASSAGES},{_ONE_BIT}+{_RATE}=1e-3,{_PASSAGE}+method.scale=weights",
            f"{_PASSAGE}+method.scale=calibrated+method.scale_exponent=0.5,{_PASSAGE}+model.lora_rank=8",
            f'{_PASSAGE}+space.exclude=["*embed*"],{_ONE_BIT}+{_RATE}=1e-3+optimizer.name=adagrad',
            f"{_PASSAGE}+optimizer.name=yogi,{_ROLES_LIKE_ADAM},{_MANY_LIKE_ADAM},fedsgd+{_MORE_PASSAGES}+{_RATE}=1.58e-4",
        ),
    ),
    "shakespeare-bytes": Grid(
        "shakespeare-static",
        rounds=30,
        trials=2,
        further=("--validation", "held-out-lines", "--budget", "10000000"),
        methods=(
            f"{_ROLES_LIKE_ADAM},{_PASSAGE}+{_MORE_PASSAGES},{_ROLES},static+method.dim=16384+{_BETA}+{_RATE}=1e-3,uni-lora",
            _PASSAGE,
            "fedavg-lora,powersgd,fedsgd",
            f"fedavg-lora+{_CODED}+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.1",
        ),
    ),
}

# What tables call entrants with many settings.
CALLED = {
    _LOCAL: "**recipe `movie-reviews`**",
    _LOCAL_SMALL: "recipe `movie-reviews` at d = 8,192",
    _LOCAL_TINY: "recipe `movie-reviews` at d = 1,024",
    _LOCAL_DENSE: "`fedavg`, local steps as in the recipe, Adam on the server, too",
    _IMAGES: "**recipe `fashion-mnist`**",
    _IMAGES_SMALL: "recipe `fashion-mnist` in one subspace of d = 16,384",
    f"fedavg-lora+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.1": "`fedavg-lora`, four passages, four local steps of SGD",
    f"fedavg-lora+{_CODED}+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.1": (
        "`fedavg-lora` with our codecs, four passages, four local steps of SGD"
    ),
    f"fedavg+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.003": "`fedavg`, four passages, four local steps of SGD",
    f"fedprox+{_FOUR_PASSAGES_EACH}+{LOCAL_RATE}=0.003": "`fedprox`, four passages, four local steps of SGD",
    f"ffa-lora+{_FOUR_PASSAGES_EACH}": "`ffa-lora`, four passages, four local steps of SGD",
    f"{_PART}+{_LIKE_ADAM}": "scaled by gradients to the power of -0.5",
    _ROLES: "the same four passages in four local steps of Adam",
    _ROLES_SMALL: "four local steps of Adam, d = 8,192",
    _ROLES_DENSE: "`fedavg`, four local steps of Adam, Adam on the server, too",
    _FEDADAM: "`fedavg`, local steps as in the recipe, Adam on the server at a constant rate",
    f"{_WIDE}+{_BETA}+{_RATE}=1.5e-3+{_ALL_SNIPPETS}": "the same snippets in one gradient",
    _SNIPPETS_LIKE_ADAM: "the recipe's snippets in one gradient, scaled by gradients to the power of -0.5",
    f'{_SNIPPETS_LIKE_ADAM}+method.full=["classifier.*"]': "the same, the head in full",
    f"{_LOCAL_30}+method.name=time-varying+method.rounds_per_epoch=10": (
        "recipe `movie-reviews`, fresh subspaces every 10 rounds"
    ),
    f"{_LOCAL_30}+method.dim=16384": "recipe `movie-reviews` at d = 16,384",
    f"{_LOCAL_30}+method.scale=calibrated+method.scale_exponent=0.5+{_RATE}=1e-3": (
        "recipe `movie-reviews`, scaled by gradients to the power of 0.5"
    ),
    f"{_IMAGES}+optimizer.beta2=0.999": "recipe `fashion-mnist`, beta2 = 0.999",
    f"{_IMAGES}+method.projection=partition": "recipe `fashion-mnist`, GPart's partition",
    f"{_IMAGES}+method.name=time-varying+method.rounds_per_epoch=20": (
        "recipe `fashion-mnist`, fresh subspaces every 20 rounds"
    ),
    f"{_IMAGES}+{_LIKE_ADAM}": "recipe `fashion-mnist`, scaled by gradients to the power of -0.5",
    f"fedsgd+{_ALL_SNIPPETS}+{_RATE}=1.58e-4": "`fedsgd`, one gradient of all snippets",
    _IMAGES_UNGROUPED: "one subspace of d = 174,000 for all tensors, no groups",
    f"{_IMAGES}+codec.up=float32+codec.down=float32": "recipe `fashion-mnist` in float32",
    f"{_LOCAL_30}": "recipe `movie-reviews`, the rate of 30 rounds",
    f"{_LOCAL_30}+codec.up=float32+codec.down=float32": "recipe `movie-reviews` in float32",
    f"{_LOCAL_30}+optimizer.beta2=0.999": "recipe `movie-reviews`, beta2 = 0.999",
    f"{_LOCAL_30}+method.projection=partition": "recipe `movie-reviews`, GPart's partition",
    _IN_ONE_STEP: "the same 64 images in one gradient",
    f"{_PART}+{_MORE_IMAGES}": "one gradient of 64 images",
    f"fedsgd+{_MORE_IMAGES}+{_RATE}=1e-3": "`fedsgd`, one gradient of 64 images",
    f"fedsgd+{_MORE_PASSAGES}+{_RATE}=1.58e-4": "`fedsgd`, one gradient of four passages",
    _ROLES_LIKE_ADAM: "**recipe `shakespeare`**",
    _MANY_LIKE_ADAM: "recipe `shakespeare` at d = 524,288",
    f"{_PASSAGE}+{_MORE_PASSAGES}": "recipe `shakespeare`, not scaled",
    f"fedavg+{_FOUR_STEPS}": "`fedavg`, as many local steps of SGD",
    f"fedprox+{_FOUR_STEPS}": "`fedprox`, as many local steps of SGD",
    f"fedsgd+{_BETA}+{_RATE}=1e-3": "`fedsgd`, beta2 = 0.98",
    f"{_PART}+{_STAGES_OF_16896}": "d of their own for the stages, 16,896 in all",
    f"{_PART}+{_STAGES_OF_16896}+{_SMALL_IN_FULL}": "d of their own for the stages, small tensors in full",
    f"{_PART}+{_IN_FOUR_STEPS}": "four local steps of Adam",
    f"{_PART}+{_IN_EIGHT_STEPS}": "eight local steps of Adam",
    f"{_PART}+{_IN_FOUR_STEPS}+local.proximal=0.1": "four local steps of Adam, FedProx's pull of 0.1",
    f"static+{_SGD_STEPS}": "four local steps of SGD",
    f"static+{_SGD_STEPS}+{_CONTROLLED}": "four local steps of SGD, SCAFFOLD",
}
