"""A recipe's slots bound to functions: what will be read, and so what must be computed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxrl_tok.advantages import ADVANTAGES
from jaxrl_tok.clips import CLIPS
from jaxrl_tok.config.bind import Bound, bind
from jaxrl_tok.config.schema import RecipeConfig, slots
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.filters import FILTERS
from jaxrl_tok.losses import LOSSES
from jaxrl_tok.ratios import RATIOS
from jaxrl_tok.reductions import REDUCTIONS
from jaxrl_tok.token_weights import TOKEN_WEIGHTS

REGISTRIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "filter": FILTERS,
    "advantage": ADVANTAGES,
    "token_weight": TOKEN_WEIGHTS,
    "ratio": RATIOS,
    "clip": CLIPS,
    "loss": LOSSES,
    "reduction": REDUCTIONS,
}

# What this trainer can supply at each stage; docs/notation.md says what each is.
ANSWER_ARRAYS = {"tokens", "mask", "valid"}
ROLLOUT_ARRAYS = ANSWER_ARRAYS | {"truncated", "prompt_ids", "rewards", "reward_parts", "sampler_logprobs"}
OLD_ARRAYS = {"old_logprobs", "old_entropy"}
REFERENCE_ARRAYS = {"ref_logprobs"}
CURRENT_ARRAYS = {"logprobs", "entropy"}
ASSEMBLED_ARRAYS = {"advantages", "token_weights"}
RATIO_ARRAYS = {"log_ratio", "low", "high"}
ASSEMBLE = ROLLOUT_ARRAYS | OLD_ARRAYS | REFERENCE_ARRAYS | {"progress", "step"}
STEP = ASSEMBLE - {"rewards", "reward_parts", "prompt_ids"} | CURRENT_ARRAYS | ASSEMBLED_ARRAYS | RATIO_ARRAYS


@dataclasses.dataclass(frozen=True)
class Term:
    """One named term of the objective."""

    name: str
    weight: float
    loss: Bound
    reduction: Bound


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An algorithm: one bound function a slot, and the terms of its objective."""

    source: str  # "rollout" or "answers"
    filter: Bound | None
    advantage: Bound | None
    token_weight: Bound | None
    ratio: Bound | None
    clip: Bound | None
    terms: tuple[Term, ...]

    @property
    def assemble_reads(self) -> frozenset[str]:
        """Arrays read once per rollout batch."""
        return _reads(self.filter, self.advantage, self.token_weight)

    @property
    def step_reads(self) -> frozenset[str]:
        """Arrays read inside the gradient."""
        parts = [self.ratio, self.clip]
        for term in self.terms:
            parts += [term.loss, term.reduction]
        return _reads(*parts) - {"loss"}

    def passes(self, updates: int) -> dict[str, bool]:
        """Says which extra scoring passes `updates` updates a batch need: the old policy, the reference."""
        old = bool(self.assemble_reads & OLD_ARRAYS) or "old_entropy" in self.step_reads
        old = old or (updates > 1 and "old_logprobs" in self.step_reads)
        return {"old": old, "reference": bool((self.assemble_reads | self.step_reads) & REFERENCE_ARRAYS)}


def build_recipe(config: RecipeConfig) -> Recipe:
    """Binds a recipe's slots to functions.

    Raises:
      ConfigError: unknown method or hyperparameter, an array that nothing supplies, a slot that no loss reads.
    """
    bound: dict[str, Bound] = {}
    for slot, path, method, hyper in slots(config):
        try:
            bound[path] = bind(REGISTRIES[slot], method, **hyper)
        except ConfigError as error:
            raise ConfigError(f"recipe {config.name}: {path}: {error}") from None
    terms = tuple(
        Term(name, term.weight, bound[f"loss.{name}"], bound[f"loss.{name}.reduction"])
        for name, term in config.loss.items()
    )
    single = {slot: bound.get(slot) for slot in ("filter", "advantage", "token_weight", "ratio", "clip")}
    recipe = Recipe(source=config.source, **single, terms=terms)
    _check(config.name, recipe, bound)
    return recipe


def _check(name: str, recipe: Recipe, bound: Mapping[str, Bound]) -> None:
    assemble = ("filter", "advantage", "token_weight")
    for path, method in bound.items():
        supplied = ASSEMBLE if path in assemble else STEP | {"loss"}
        if recipe.source == "answers":
            supplied = ANSWER_ARRAYS | CURRENT_ARRAYS | {"loss"}
        for array in method.reads:
            if array not in supplied:
                raise ConfigError(
                    f"recipe {name}: {path} = {method.name!r} reads {array!r}, which nothing in this run supplies"
                )
    by_losses = _reads(*(term.loss for term in recipe.terms))
    given = {
        "advantage": {"advantages"},
        "token_weight": {"token_weights"},
        "ratio": {"log_ratio"},
        "clip": {"low", "high"},
    }
    for slot, arrays in given.items():
        method = getattr(recipe, slot)
        if method is None and arrays & by_losses and slot != "token_weight":
            raise ConfigError(f"recipe {name}: its losses read {sorted(arrays & by_losses)}, but {slot} is empty")
        if method is not None and not arrays & by_losses:
            raise ConfigError(f"recipe {name}: {slot} = {method.name!r} is set, but no loss reads its result")


def _reads(*methods: Bound | None) -> frozenset[str]:
    return frozenset(name for method in methods if method is not None for name in (*method.reads, *method.optional))
