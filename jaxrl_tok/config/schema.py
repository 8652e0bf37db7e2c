"""What a run file, a model file and a recipe file may say: one frozen model per section, no unknown keys.

The text under each field is its reference: `docs/configuration.md` is generated from it.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag

from jaxrl_tok.config.base import (
    AxisSize,
    Count,
    Float,
    Fraction,
    Limit,
    Mass,
    Name,
    Natural,
    NonNegative,
    OpenSection,
    Positive,
    Schedule,
    Section,
    Text,
    Tracker,
)
from jaxrl_tok.config.model import (
    MODEL_TAGS,
    CriticSection,
    LoraSection,
    ModelConfig,
    OwnModelConfig,
    model_tag,
)
from jaxrl_tok.config.model import (
    RopeConfig as RopeConfig,
)

# Printable ASCII and the newline: every built-in task can be written with it.
ASCII = "".join(map(chr, range(32, 127))) + "\n"

# The axes of the mesh, by how much crosses them.
MESH_AXES = ("data", "fsdp", "expert", "sequence", "tensor")

# The recipe's single slots, in the order in which they act; losses are named tables beside them. Those of the rollouts
# come before.
ROLLOUT_SLOTS = ("rollout", "sampler")
SLOTS = ("advantage", "reshape", "filter", "token_weight", "ratio", "clip")


class RunSection(Section):
    """Where a run lives, how long it lasts, what it writes."""

    name: Text
    """Name of the run. The run file's own name unless given."""
    dir: Text
    """Run folder: configuration, metrics, completions, checkpoints. `runs/NAME` unless given."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of initialisation, data order and sampling."""
    steps: Natural = 100
    """RL steps: one rollout batch and its updates each."""
    max_sampled_tokens: Natural = 0
    """End before that, with the step in which so many tokens have been sampled, for recipes to be compared at equal
    cost; what branches share counts once. 0 = no such end."""
    checkpoint_every: Count = 20
    """RL steps between checkpoints; the last step always has one."""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints kept, so that a damaged one has another behind it."""
    keep_every: Count | None = None
    """Keep for good each checkpoint whose step is a multiple of this."""
    show_completions_every: Natural = 20
    """RL steps between tables of completions; 0 = never."""
    trackers: Annotated[tuple[Tracker, ...], Field(strict=False)] = ("tensorboard",)
    """Where metrics go besides `metrics.jsonl` and the terminal."""


class DataSection(OpenSection):
    """Where questions come from. Other keys are options of the source."""

    source: Literal["arithmetic", "gym", "files", "tfds"] = "arithmetic"
    """The built-in task, reasoning-gym's tasks, JSONL or Parquet files, or a TFDS builder."""
    heldout_fraction: Fraction = 0.1
    """Share of the questions, by the hash of their text, that only evaluation sees."""
    overlong: Literal["error", "drop"] = "error"
    """What a prompt longer than `rollout.max_prompt` does: stop the run, or be left out."""
    shuffle: bool = True
    """Shuffle by `run.seed`; false keeps the source's order."""


class TokenizerSection(Section):
    """How text becomes tokens."""

    kind: Literal["characters", "folder", "smollm2"] = "characters"
    """A token for each character, a folder with a transformers tokenizer, or that of the extra `smollm2`. With
    `model.weights`, its own unless given."""
    alphabet: Text = ASCII
    """Characters of the `characters` tokenizer. Printable ASCII and the newline unless given."""
    path: Text | None = None
    """Folder of the `folder` tokenizer, which holds its chat template as well."""


class RolloutSection(Section):
    """How completions are sampled in training."""

    prompts: Count = 16
    """Prompts a step (P). With a recipe on answers, the sequences a step."""
    group: Count = 8
    """Completions of each prompt (G)."""
    max_prompt: Count = 64
    """Longest prompt, in tokens (S)."""
    max_tokens: Count = 64
    """Longest completion, in tokens (T)."""
    slots: Natural = 0
    """Completions decoded at once on all devices; 0 = all (P * G). Those that others branch from are free of it."""
    wave: Natural = 0
    """Prompts that sampling reads at once on all devices, so that memory holds the activations of these; 0 = all."""
    buckets: Count = 1
    """Lengths of prompts that sampling is compiled for: `max_prompt`, half of it, a quarter ... A batch is sampled at
    the smallest that holds its prompts, which is less to read in each decode step."""
    chunk: Natural = 0
    """Decode steps in one call, after which completions that have ended go to the rewards while others are sampled;
    0 = all in one call. The tokens are the same."""
    scan_layers: bool = False
    """Decode by a loop over layers: compiles in a fraction of the time where there are many of them."""
    temperature: Positive = 1.0
    """Softmax temperature."""
    top_k: Natural = 0
    """Sample among the k likeliest tokens; 0 = all."""
    top_p: Mass = 1.0
    """Sample among the likeliest tokens that together hold this mass; 1 = all."""
    min_p: Fraction = 0.0
    """Sample among tokens with at least this share of the likeliest one's probability; 0 = all."""
    stop: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Strings that end a completion, in evaluation too; the reward sees the text before."""
    min_tokens: Natural = 0
    """Tokens that a completion has at least before its end token, in training alone; 0 = off."""
    bad_tokens: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Texts of one token each that are never sampled, in evaluation neither."""


class RewardSection(OpenSection):
    """One named reward. Other keys are passed to its function."""

    function: Text
    """`verifier` (the task's own), another built-in reward, or `module:function`."""
    weight: float = 1.0
    """Factor of this reward in the sum."""


class RewardsSection(Section):
    """The processes that run reward functions."""

    workers: Count = 2
    """Worker processes."""
    timeout: Positive = 10.0
    """Seconds for one sample, after which its worker is killed."""


class Method(OpenSection):
    """A method. Other keys are its hyperparameters."""

    method: Text
    """Name of the method. A bare string in place of the table means the same."""


class LossTerm(Method):
    """One named term of the objective. Other keys are hyperparameters of its method."""

    weight: float = 1.0
    """Factor of this term in the objective."""
    reduction: Method
    """How the term is averaged over tokens and sequences."""


class RecipeConfig(Section):
    """The algorithm: a method for each slot. A slot left out does nothing."""

    name: str = ""
    """Name of the recipe. Its file's own name unless given."""
    source: Literal["rollout", "answers"] = "rollout"
    """What is trained on: sampled completions, or the data's worked answers."""
    rollout: Method | None = None
    """How completions are sampled other than once and independently: as a tree, with others from states inside, in
    rounds that the rewards decide."""
    sampler: Method | None = None
    """What gives each token a temperature of its own, in training."""
    advantage: Method | None = None
    """What credit each token gets."""
    reshape: Method | None = None
    """What is made of that credit: a method of the advantages that reads them."""
    filter: Method | None = None
    """Which groups or completions train."""
    token_weight: Method | None = None
    """How much each token's credit counts."""
    ratio: Method | None = None
    """New policy over old: by token, segment, sequence."""
    clip: Method | None = None
    """How far each token's ratio may move."""
    loss: Annotated[dict[Name, LossTerm], Field(min_length=1)]
    """The terms of the objective, by name; each is divided by its own count."""


class WarmupSection(Section):
    """Training on worked answers before RL starts."""

    steps: Natural = 0
    """Updates before RL; 0 = none."""
    batch: Count = 32
    """Sequences an update."""
    recipe: RecipeConfig
    """Recipe of this stage, on answers: a name, a path or a table. `sft` unless given."""
    learning_rate: Positive = 1e-3
    """Peak learning rate; what is not said here is as in `optimizer`."""
    schedule: Schedule = "constant"
    """Learning rate after its peak: kept, or down to 0 at the end of the stage."""
    warmup_steps: Natural = 0
    """Updates over which the learning rate rises to its peak."""


class OptimizerSection(Section):
    """AdamW and its learning rate."""

    # TRL and verl fine-tune a pretrained model by RL with this rate.
    learning_rate: Positive = 1e-6
    """Peak learning rate. The default suits a pretrained model of a billion parameters or more."""
    schedule: Schedule = "constant"
    """Learning rate after its peak: kept, or down to 0 at the last step."""
    warmup_steps: Natural = 0
    """Updates over which the learning rate rises to its peak."""
    b1: Fraction = 0.9
    """Decay of the gradient's running mean."""
    b2: Fraction = 0.999
    """Decay of the squared gradient's running mean."""
    eps: Positive = 1e-8
    """Added to the root of the squared gradient's mean."""
    weight_decay: NonNegative = 0.0
    """Decoupled decay of matrices; norms and biases have none."""
    state_dtype: Float = "float32"
    """Type in which the gradient's running mean is kept. That of its square is always float32: in bfloat16 most of its
    steps would be rounded away."""
    clip_norm: Limit = 1.0
    """Largest norm of the whole gradient; inf = no limit."""


class TrainSection(Section):
    """How a rollout batch becomes updates."""

    minibatches: Count = 1
    """Parts of a rollout batch, an update each."""
    epochs: Count = 1
    """Passes over a rollout batch; a step has minibatches * epochs updates."""
    microbatches: Count = 1
    """Parts of a minibatch whose gradients are added up; changes memory, not results."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations and matrix products; `auto` is float32 on a CPU and bfloat16 on what multiplies it faster."""
    param_dtype: Float = "float32"
    """Type of the stored parameters."""
    remat: Literal["none", "full", "dots"] = "none"
    """What the backward pass computes again: nothing, whole layers, all but their matrix products."""
    unroll: Count = 1
    """Layers compiled side by side: faster, and slower to compile."""
    share_prefix: Literal["none", "prompt", "tree"] = "prompt"
    """What a group's completions are scored and trained with once: nothing, their prompt, every token they share."""


class MeshSection(Section):
    """Devices along each axis of the mesh; -1 takes what the others leave, and one that is unset is the preset's."""

    preset: Literal["single", "data", "fsdp", "fsdp_tensor", "fsdp_sequence", "moe"] = "data"
    """What the unset sizes are; see [sharding](sharding.md#presets)."""
    data: AxisSize = None
    """Shards of a batch's prompts, each with all parameters."""
    fsdp: AxisSize = None
    """Shards of a batch's prompts and of each parameter along the model's width."""
    expert: AxisSize = None
    """Shards of a batch's prompts and of the experts."""
    sequence: AxisSize = None
    """Shards of the positions of a row."""
    tensor: AxisSize = None
    """Shards of heads, feed-forward, vocabulary and, with `expert`, experts."""
    slices: Count = 1
    """Slices of devices that a slower network joins."""
    slice_axis: Literal["data", "fsdp", "expert", "sequence", "tensor"] = "data"
    """The axis of which each slice holds one part."""


class EvalSection(Section):
    """Evaluation on held-out questions, at the start, at the end and in between."""

    every: Natural = 0
    """RL steps between evaluations; 0 = only at the start and at the end."""
    prompts: Natural = 64
    """Held-out questions; 0 = no evaluation."""
    samples: Count = 8
    """Completions of each, for avg@k, pass@k and maj@k; a greedy one comes on top."""
    temperature: Positive = 1.0
    """Softmax temperature of these completions."""
    function: Text = "verifier"
    """What says whether a completion is right (1.0), whatever the training reward is."""


class Run(Section):
    """A resolved run: every section, the model and the recipe."""

    model: Annotated[
        Annotated[ModelConfig, Tag(MODEL_TAGS[0])] | Annotated[OwnModelConfig, Tag(MODEL_TAGS[1])],
        Discriminator(model_tag),
    ]
    """Name of a model, path of a model file, or its table."""
    recipe: RecipeConfig
    """Name of a recipe, path of a recipe file, or its table."""
    run: RunSection
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    rollout: RolloutSection = RolloutSection()
    reward: dict[Name, RewardSection] = Field(default={})
    """The rewards, by name; their weighted sum is what trains."""
    rewards: RewardsSection = RewardsSection()
    warmup: WarmupSection
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()
    lora: LoraSection = LoraSection()
    critic: CriticSection = CriticSection()
    mesh: MeshSection = MeshSection()
    eval: EvalSection = EvalSection()


class Slot(NamedTuple):
    """One filled place of a recipe, ready to be bound to a function."""

    slot: str  # "advantage", "loss", "reduction", ...
    path: str  # dotted path as in the recipe file, for errors
    method: str
    hyper: dict[str, Any]


def slots(recipe: RecipeConfig) -> list[Slot]:
    """Returns every filled slot of a recipe, in the order in which they act; a loss before its reduction."""
    single = [(slot, getattr(recipe, slot)) for slot in SLOTS]
    filled = [Slot(slot, slot, m.method, m.options) for slot, m in single if m is not None]
    for name, term in recipe.loss.items():
        path, reduction = f"loss.{name}", term.reduction
        filled.append(Slot("loss", path, term.method, term.options))
        filled.append(Slot("reduction", f"{path}.reduction", reduction.method, reduction.options))
    return filled
