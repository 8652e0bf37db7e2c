"""What no field can say alone: the rules between the keys of a model, a recipe, a run."""

from jaxrl_tok.config.schema import MESH_AXES, ROLLOUT_SLOTS, SLOTS, ModelConfig, OwnModelConfig, RecipeConfig, Run

Problem = tuple[tuple[str, ...], str]  # path of the key to blame, what was expected


def model_problems(model: ModelConfig) -> list[Problem]:
    """Returns the sizes of a model that do not fit each other."""
    found: list[Problem] = []
    if model.heads % model.kv_heads:
        found.append((("kv_heads",), f"expected a divisor of heads = {model.heads}"))
    if model.head_dim % 2:
        found.append((("head_dim",), "expected an even number: rotary embedding turns pairs"))
    if model.experts and not 0 < model.experts_per_token <= model.experts:
        found.append((("experts_per_token",), f"expected 1 to experts = {model.experts}"))
    if model.experts and model.mlp_bias:
        found.append((("mlp_bias",), "expected false: experts have no biases"))
    for key, rope in (("rope", model.rope), ("local_rope", model.local_rope)):
        if rope is not None and rope.scaling in ("llama3", "yarn") and not rope.original_length:
            found.append(((key, "original_length"), f'expected a length: scaling is "{rope.scaling}"'))
    return found


def recipe_problems(recipe: RecipeConfig) -> list[Problem]:
    """Returns the slots of a recipe that its source leaves without a meaning."""
    if recipe.source == "rollout":
        return []
    text = 'a recipe with source = "answers" has no rollouts and no rewards; leave it out'
    return [((slot,), text) for slot in (*ROLLOUT_SLOTS, *SLOTS) if getattr(recipe, slot) is not None]


def run_problems(run: Run) -> list[Problem]:
    """Returns all that does not fit in a run, its model and its recipes included."""
    sizes = [] if isinstance(run.model, OwnModelConfig) else model_problems(run.model)
    found = [(("model", *path), text) for path, text in sizes]
    found += [(("recipe", *path), text) for path, text in recipe_problems(run.recipe)]
    found += [(("warmup", "recipe", *path), text) for path, text in recipe_problems(run.warmup.recipe)]
    rules = _batch_rules(run) + _schedule_rules(run) + _other_rules(run)
    return found + [(tuple(key.split(".")), text) for key, broken, text in rules if broken]


def _batch_rules(run: Run) -> list[tuple[str, bool, str]]:
    rollout, train = run.rollout, run.train
    minibatch, rest = divmod(rollout.prompts, train.minibatches)
    completions = rollout.prompts * rollout.group
    return [
        ("train.minibatches", rest > 0, f"expected a divisor of rollout.prompts = {rollout.prompts}"),
        (
            "train.microbatches",
            rest == 0 and minibatch % train.microbatches > 0,
            f"expected a divisor of a minibatch's {minibatch} prompts",
        ),
        (
            "rollout.slots",
            rollout.slots > completions,
            f"expected at most a step's {completions} completions",
        ),
        (
            "rollout.min_tokens",
            rollout.min_tokens >= rollout.max_tokens,
            f"expected less than rollout.max_tokens = {rollout.max_tokens}",
        ),
    ]


def _schedule_rules(run: Run) -> list[tuple[str, bool, str]]:
    optimizer, warmup = run.optimizer, run.warmup
    updates = run.run.steps * run.train.minibatches * run.train.epochs
    return [
        (
            "optimizer.warmup_steps",
            optimizer.schedule != "constant" and optimizer.warmup_steps > updates,
            f"expected at most the run's {updates} updates",
        ),
        (
            "warmup.warmup_steps",
            warmup.schedule != "constant" and warmup.warmup_steps > warmup.steps,
            f"expected at most warmup.steps = {warmup.steps}",
        ),
    ]


def _other_rules(run: Run) -> list[tuple[str, bool, str]]:
    tokenizer = run.tokenizer
    sizes = {axis: getattr(run.mesh, axis) for axis in MESH_AXES}
    fills = [axis for axis, size in sizes.items() if size == -1]
    return [
        *((f"mesh.{axis}", size == 0, "expected -1 or at least 1") for axis, size in sizes.items()),
        *((f"mesh.{axis}", True, f"expected one axis of -1; mesh.{fills[0]} is another") for axis in fills[1:]),
        (
            "reward",
            run.recipe.source == "rollout" and not run.reward,
            "expected at least one [reward.NAME]: the recipe learns from rollouts",
        ),
        (
            "warmup.recipe.source",
            run.warmup.recipe.source != "answers",
            'expected "answers" in the recipe of [warmup], which comes before any rollout',
        ),
        (
            "tokenizer.path",
            tokenizer.kind == "folder" and tokenizer.path is None,
            'expected a folder: tokenizer.kind is "folder"',
        ),
        (
            "tokenizer.path",
            tokenizer.kind != "folder" and tokenizer.path is not None,
            f'expected none: tokenizer.kind is "{tokenizer.kind}"',
        ),
        (
            "tokenizer.alphabet",
            len(set(tokenizer.alphabet)) < len(tokenizer.alphabet),
            "expected each character once",
        ),
    ]
