"""What a run puts around its model: adapters, a value head, rollouts of a kind. Which of its parameters are whose."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxrl_tok import models
from jaxrl_tok.config.schema import OwnModelConfig, Run
from jaxrl_tok.errors import CheckpointError, ConfigError, DataError
from jaxrl_tok.io.tokenizer import Tokenizer, Vocabulary, token_bytes
from jaxrl_tok.models import params as model_params
from jaxrl_tok.rollouts import REFUSED, TEXTS, check
from jaxrl_tok.rollouts.extend import Temper
from jaxrl_tok.rollouts.stop_strings import StopTable, stop_table
from jaxrl_tok.train import programs
from jaxrl_tok.train.compilation import compiled
from jaxrl_tok.train.recipe import CRITIC_ARRAYS, Recipe
from jaxrl_tok.types import LeftOut, Sampled, Sampling, TrainState


def with_parts(base: models.Model, run: Run) -> models.Model:
    """Returns the model that a run trains: the base, with adapters and a critic where it has them.

    Raises:
      ConfigError: the base cannot have them.
    """
    model = base
    if run.lora.rank:
        if not isinstance(base, models.Transformer):
            raise ConfigError(f"lora.rank = {run.lora.rank}: expected 0 with a model of your own, which adapts itself")
        model = models.Lora(base, run.lora.rank, run.lora.alpha, run.lora.targets)
    return model if run.critic.trunk == "off" else models.Critic(model, run.critic.trunk)


def parts_of(run: Run) -> frozenset[str]:
    """Returns which parts that supply arrays the run's model has, as `build_recipe` takes them."""
    experts = not isinstance(run.model, OwnModelConfig) and run.model.experts > 0
    return frozenset(name for name, on in {"critic": run.critic.trunk != "off", "experts": experts}.items() if on)


def check_critic(run: Run, recipe: Recipe) -> None:
    """Refuses a critic that the recipe has no use for.

    Raises:
      ConfigError: nothing reads its values.
    """
    if run.critic.trunk != "off" and not (recipe.assemble_reads | recipe.step_reads) & CRITIC_ARRAYS:
        raise ConfigError(
            f'critic.trunk = "{run.critic.trunk}": recipe {run.recipe.name} reads no values; expected "off"'
        )


def decoding_of(run: Run, recipe: Recipe, tokenizer: Vocabulary, model: models.Model, dtype: str) -> programs.Decoding:
    """Returns how a run samples.

    Raises:
      ConfigError: as `stops_of` and `left_out_of`.
    """
    return programs.Decoding(
        seed=run.run.seed,
        max_tokens=run.rollout.max_tokens,
        end_ids=tokenizer.eos_ids,
        slots=run.rollout.slots or run.rollout.prompts * run.rollout.group,
        wave=run.rollout.wave,
        dtype=dtype,
        stops=stops_of(run, tokenizer),
        left_out=left_out_of(run, tokenizer, model.vocab),
        temper=temper_of(recipe),
        contains=functools.partial(containing, tokenizer, model.vocab),
    )


def method_of(
    run: Run, recipe: Recipe, model: models.Model, mesh: Mesh, tokenizer: Vocabulary, decoding: programs.Decoding
) -> Callable[..., Sampled] | None:
    """Returns the program of the recipe's rollouts, None for independent completions.

    Raises:
      ConfigError: they do not fit into the run.
    """
    how = recipe.rollout
    if how is None:
        return None
    for key in REFUSED.get(how.name, ()):
        if value := getattr(run.rollout, key):
            value, nothing = (value, 0) if isinstance(value, int) else (list(value), [])
            raise ConfigError(f"rollout.{key} = {value}: expected {nothing} with rollout = {how.name!r}")
    try:
        encoded = _encoded(tokenizer, {key: how.own[key] for key in TEXTS[how.name] if key in how.own})
        check(how.name, run.rollout.group, run.rollout.max_tokens, decoding.contains, **{**how.hyper, **encoded})
    except ConfigError as error:
        raise ConfigError(f"recipe {run.recipe.name}: rollout = {how.name!r}: {error}") from None
    return programs.rollout_program(model, mesh, decoding, functools.partial(how.fn, **{**how.own, **encoded}))


def _encoded(tokenizer: Vocabulary, texts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns hyperparameters that are text, or token ids already, as token ids.

    With a vocabulary of which only the size is known, as in a plan, a text has a token for each byte: the most.
    """
    found = {}
    for name, text in texts.items():
        try:
            if isinstance(text, str):
                text = tokenizer.encode(text) if isinstance(tokenizer, Tokenizer) else [0] * len(text.encode())
            found[name] = tuple(text)
        except DataError as error:
            raise ConfigError(f"{name} = {text!r}: {error}") from None
    return found


def chunks_of(
    run: Run, recipe: Recipe, model: models.Model, mesh: Mesh, decoding: programs.Decoding
) -> programs.Chunks | None:
    """Returns the programs that sample a few decode steps at a time, None where one samples all.

    Raises:
      ConfigError: the recipe's rollouts are one program.
    """
    steps = run.rollout.chunk
    if not steps:
        return None
    if recipe.rollout is not None:
        raise ConfigError(f"rollout.chunk = {steps}: expected 0 with rollout = {recipe.rollout.name!r}")
    return programs.chunk_programs(model, mesh, decoding, steps)


def sampling(run: Run, prompts: int) -> Sampling:
    """Returns the training sampler's settings for every request of a batch."""
    rollout = run.rollout
    shape = (prompts, rollout.group)
    return Sampling(
        limit=np.full(shape, rollout.max_tokens, np.int32),
        temperature=np.full(shape, rollout.temperature, np.float32),
        top_k=np.full(shape, rollout.top_k, np.int32),
        top_p=np.full(shape, rollout.top_p, np.float32),
        min_p=np.full(shape, rollout.min_p, np.float32),
    )


def stops_of(run: Run, tokenizer: Vocabulary) -> StopTable | None:
    """Returns what finds the run's stop strings among tokens, None where it has none.

    Of a vocabulary of which only the size is known, as in a plan, a table of that size that finds nothing.

    Raises:
      ConfigError: a stop string is empty, or the tokenizer does not say what its tokens' bytes are.
    """
    try:
        if not run.rollout.stop:
            return None
        known = token_bytes(tokenizer) if isinstance(tokenizer, Tokenizer) else [b""] * tokenizer.size
        return stop_table(run.rollout.stop, known)
    except (ConfigError, DataError) as error:
        raise ConfigError(f"rollout.stop: {error}") from None


def left_out_of(run: Run, tokenizer: Vocabulary, vocab: int) -> LeftOut | None:
    """Returns the tokens that the run never draws, None where it draws all.

    Of a vocabulary of which only the size is known, as in a plan, as many tokens as there are texts.

    Raises:
      ConfigError: a text is not one token, or no token would be left.
    """
    texts, minimum = run.rollout.bad_tokens, run.rollout.min_tokens
    if not texts and not minimum:
        return None
    if isinstance(tokenizer, Tokenizer):
        ids = tuple(dict.fromkeys(_one_token(tokenizer, text) for text in texts))
    else:
        ids = tuple(range(len(texts)))
    ends = tokenizer.eos_ids if minimum else ()
    if len({*ids, *ends}) >= vocab:
        key = "bad_tokens" if len(ids) >= vocab else "min_tokens"
        raise ConfigError(f"rollout.{key}: of the {vocab} tokens none would be left; expected one that can be drawn")
    return LeftOut(ids, ends, minimum)


def _one_token(tokenizer: Tokenizer, text: str) -> int:
    try:
        ids = tokenizer.encode(text)
    except DataError as error:
        raise ConfigError(f"rollout.bad_tokens: {text!r}: {error}") from None
    if len(ids) != 1:
        pieces = [tokenizer.decode([i]) for i in ids]
        raise ConfigError(f"rollout.bad_tokens: {text!r}: expected one token; it is {len(ids)}: {pieces}")
    return ids[0]


def rollout_of(
    model: models.Model, mesh: Mesh, decoding: programs.Decoding
) -> tuple[Callable[..., Sampled], Callable[..., Sampled]]:
    """Returns the programs that sample independent completions in training, and in evaluation.

    In evaluation completions end where they like, and each token has its request's temperature.
    """
    training, left = programs.rollout_program(model, mesh, decoding), decoding.left_out
    if decoding.temper is None and (left is None or not left.minimum):
        return training, training
    left = LeftOut(left.ids) if left is not None and left.ids else None
    return training, programs.rollout_program(model, mesh, dataclasses.replace(decoding, left_out=left, temper=None))


def temper_of(recipe: Recipe) -> Temper | None:
    """Returns what gives each token its temperature, None where its request does."""
    return None if recipe.sampler is None else functools.partial(recipe.sampler.fn, **recipe.sampler.own)


def scale_of(recipe: Recipe, state: TrainState) -> tuple[Any, ...]:
    """Returns what the program of rollouts takes besides: the scale of the entropies of the batch before."""
    return () if recipe.sampler is None else (state.method_state["sampler"],)


def containing(tokenizer: Vocabulary, vocab: int, text: str | re.Pattern[str]) -> np.ndarray:
    """Returns which tokens have a piece of text, or a match of a pattern, in theirs: bool[vocab].

    Of a vocabulary of which only the size is known, as in a plan, all.
    """
    if not isinstance(tokenizer, Tokenizer):
        return np.ones(vocab, bool)
    pattern = re.compile(re.escape(text)) if isinstance(text, str) else text
    found = np.zeros(vocab, bool)
    found[: tokenizer.size] = [bool(pattern.search(tokenizer.decode([token]))) for token in range(tokenizer.size)]
    return found


def policy_of(model: models.Model) -> models.Model:
    """Returns the model without its critic."""
    return model.policy if isinstance(model, models.Critic) else model


def reference_of(model: models.Model) -> models.Model:
    """Returns the model that the reference is: with adapters their base, else the policy."""
    policy = policy_of(model)
    return policy.base if isinstance(policy, models.Lora) else policy


def policy_params(model: models.Model, params: Any) -> Any:
    """Returns the policy's part of the model's parameters, or of any tree like them."""
    return params["policy"] if isinstance(model, models.Critic) else params


def reference_params(model: models.Model, state: TrainState) -> Any:
    """Returns the parameters of `reference_of` the model; with adapters they are the frozen base itself."""
    if isinstance(policy_of(model), models.Lora):
        return policy_params(model, state.frozen)["base"]
    return state.ref_params


def plain_params(model: models.Model, params: Any) -> Any:
    """Returns the parameters of the base with what was trained in them: without a critic, adapters added in."""
    policy, own = policy_of(model), policy_params(model, params)
    return compiled(policy.merged)(own) if isinstance(policy, models.Lora) else own


def around(model: models.Model, base: Any, draw: Any) -> Any:
    """Returns the model's parameters with those of its base; `draw(specs)` gives the others."""
    return model.around(base, draw) if isinstance(model, models.Critic | models.Lora) else base


def frozen_params(model: models.Model, specs: Any, base: Any) -> Any:
    """Returns the frozen part of the model's parameters, of those of its base; None where nothing is frozen."""
    # Specs stand in for what is trained: `split` leaves them out.
    return model_params.split(specs, around(model, base, lambda specs: specs))[1]


def check_base(frozen: Any, expected: str, checkpoint: Any, weights: str) -> None:
    """Refuses another base than the one that a checkpoint's adapters were trained on.

    Raises:
      CheckpointError: the weights are not the same.
    """
    if (found := model_params.digest(frozen)) != expected:
        raise CheckpointError(
            f"{checkpoint}: its adapters were trained on other weights than those in {weights}: digest {expected} "
            f"there, {found} here"
        )
