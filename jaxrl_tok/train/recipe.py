"""A recipe's slots bound to functions: what will be read, and so what must be computed."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxrl_tok.advantages import ADVANTAGES
from jaxrl_tok.clips import CLIPS
from jaxrl_tok.config.bind import Bound, bind, companions, split_signature
from jaxrl_tok.config.catalogue import STEP_ARRAYS, in_step
from jaxrl_tok.config.schema import SLOTS, RecipeConfig, slots
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.filters import FILTERS
from jaxrl_tok.losses import LOSSES
from jaxrl_tok.ratios import RATIOS
from jaxrl_tok.reductions import REDUCTIONS
from jaxrl_tok.rollouts import ROLLOUTS, SUPPLIES
from jaxrl_tok.samplers import TEMPERATURES
from jaxrl_tok.samplers.adaptive_temperature import check
from jaxrl_tok.token_weights import TOKEN_WEIGHTS
from jaxrl_tok.train.score import DISTANCES, STATISTICS

REGISTRIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "advantage": ADVANTAGES,
    "reshape": ADVANTAGES,
    "filter": FILTERS,
    "token_weight": TOKEN_WEIGHTS,
    "ratio": RATIOS,
    "clip": CLIPS,
    "loss": LOSSES,
    "reduction": REDUCTIONS,
}
# The slots that stand alone in a recipe, in the order in which they act.
ASSEMBLE_SLOTS = ("advantage", "reshape", "filter", "token_weight")

# What this trainer can supply at each stage; docs/notation.md says what each is.
ANSWER_ARRAYS = {"tokens", "mask", "valid"}
ROLLOUT_ARRAYS = ANSWER_ARRAYS | {"truncated", "finished", "prompt_ids", "rewards", "reward_parts", "sampler_logprobs"}
DERIVED_ARRAYS = {"token_rewards", "boundaries", "node_rewards"}  # where a method needs them; assemble.py says of what
OLD_ARRAYS = {"old_logprobs", "old_entropy"}
STATISTIC_ARRAYS = {*STATISTICS, "proxy_logprobs"}  # of the old policy
REFERENCE_ARRAYS = {"ref_logprobs"}
DISTANCE_ARRAYS = {*DISTANCES}  # of the old policy from the reference
ASSEMBLED_ARRAYS = {"advantages", "token_weights"}
CRITIC_ARRAYS = {"values", "old_values", "returns"}
EXPERT_ARRAYS = {"expert_balance"}
SCORED_ARRAYS = OLD_ARRAYS | STATISTIC_ARRAYS | REFERENCE_ARRAYS | DISTANCE_ARRAYS
EITHER = ROLLOUT_ARRAYS | SCORED_ARRAYS | {"priority", "progress", "step"}
ASSEMBLE = EITHER | DERIVED_ARRAYS - {"node_rewards"} | {"advantages"}
STEP = EITHER - {"reward_parts", "prompt_ids"} | ASSEMBLED_ARRAYS | STEP_ARRAYS
# What a run supplies besides, at each stage, with a part of the model that it need not have.
WITH_PART = {
    "critic": ({"values"}, CRITIC_ARRAYS),
    "experts": (set[str](), EXPERT_ARRAYS),
}

# What of that which methods of rollouts supply the step can read too: what has a place for each token.
IN_STEP = frozenset({"multiplicity", "segment_ids"})

# What the arrays that it cannot supply, or not without such a part, would have to come from.
SUPPLIERS = {
    'a critic (critic.trunk = "shared" or "detached")': CRITIC_ARRAYS,
    "a model with experts (model.experts)": EXPERT_ARRAYS,
    "a process reward model or an environment": {"step_rewards", "step_mask"},
    "an environment that names its states": {"step_states"},
    "a judge": {"wrong_steps"},
    'a segmenter, or rollouts with segments (rollout = "spo_chain", "vine_ppo" or "brpo")': {"segment_ids"},
    "a matcher of phrases": {"planning", "format_ids"},
    'rollouts from the states between segments (rollout = "spo_chain" or "vine_ppo")': {"state_values"},
    'a greedy rollout of each prompt (rollout = "remax")': {"greedy_rewards"},
    "rewards of the items of a list": {"item_rewards"},
    'temperatures of its own for each token (sampler = "adaptive_temperature")': {"sampler_entropy"},
    'summaries at several budgets (rollout = "brpo")': {"budget_rewards"},
    'tree rollouts (rollout = "spo_tree" or "eptree")': {"node_ids", "node_parents", "node_rewards", "multiplicity"},
    "tree rollouts with values": {"node_values"},
    "a scoring pass without part of the prompt": {"context_logprobs"},
    "a scoring pass over a whole group at once": {"group_divergence"},
    "attention maps": {"attention_distance", "attention_received", "attention_flow", "attention_entropy"},
    "hidden states": {"hidden", "token_errors"},
    "a scoring pass of the token after the end": {"last_token_score"},
    "another model's log-probs": {"dpo_logprobs", "prm_logprobs"},
    "a proxy reward model": {"proxy_rewards"},
}


def supplier(array: str) -> str | None:
    """Returns what has to supply an array that is not in every run; None for one that is."""
    return next((name for name, arrays in SUPPLIERS.items() if array in arrays), None)


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
    advantage: Bound | None
    reshape: Bound | None
    filter: Bound | None
    token_weight: Bound | None
    ratio: Bound | None
    clip: Bound | None
    terms: tuple[Term, ...]
    parts: frozenset[str] = frozenset()  # of the model: "critic", "experts"
    rollout: Bound | None = None  # None = independent completions
    sampler: Bound | None = None  # None = each token has its request's temperature

    @functools.cached_property
    def assemble(self) -> dict[str, Bound]:
        """The slots that act once for each rollout batch, in their order."""
        filled = {slot: getattr(self, slot) for slot in ASSEMBLE_SLOTS}
        return {slot: bound for slot, bound in filled.items() if bound is not None and not in_step(slot, bound.fn)}

    @functools.cached_property
    def step(self) -> dict[str, Bound]:
        """The methods that act inside the gradient, by their paths, in their order; a loss before its reduction."""
        filled = {slot: getattr(self, slot) for slot in ("ratio", "clip", "token_weight")}
        found = {slot: bound for slot, bound in filled.items() if bound is not None and slot not in self.assemble}
        for term in self.terms:
            found |= {f"loss.{term.name}": term.loss, f"loss.{term.name}.reduction": term.reduction}
        return found

    @property
    def stateful(self) -> dict[str, Bound]:
        """The methods with a state, by their paths."""
        methods = {"sampler": self.sampler} | self.assemble | self.step
        return {path: bound for path, bound in methods.items() if bound is not None and bound.init is not None}

    @property
    def assemble_reads(self) -> frozenset[str]:
        """Arrays read once per rollout batch."""
        of_sampler = frozenset() if self.sampler is None else frozenset({"sampler_entropy"})
        return _takes(self.assemble.values()) | of_sampler

    @property
    def step_reads(self) -> frozenset[str]:
        """Arrays read inside the gradient, or in the pass before it."""
        return _takes(self.step.values()) - {"loss"}

    def passes(self, updates: int) -> dict[str, bool]:
        """Says which extra passes of the model `updates` updates a batch need.

        By the old policy, by the reference, and by both for their distance, once a batch; `prepare`, by the current
        policy, once an update.
        """
        reads = self.assemble_reads | self.step_reads
        old = bool(self.assemble_reads & OLD_ARRAYS or reads & STATISTIC_ARRAYS) or "old_entropy" in self.step_reads
        old = old or bool(reads & CRITIC_ARRAYS)
        return {
            "old": old or (updates > 1 and "old_logprobs" in self.step_reads),
            "reference": bool(reads & REFERENCE_ARRAYS),
            "distances": bool(reads & DISTANCE_ARRAYS),
            "prepare": any(bound.prepare is not None for bound in self.step.values()),
        }

    @property
    def keeps_reference(self) -> bool:
        """Whether a frozen copy of the parameters is part of the state."""
        return bool((self.assemble_reads | self.step_reads) & (REFERENCE_ARRAYS | DISTANCE_ARRAYS))

    @property
    def in_rounds(self) -> bool:
        """Whether the rewards of what was sampled say what is sampled next."""
        return self.rollout is not None and self.rollout.next_round is not None

    @property
    def judged(self) -> frozenset[str]:
        """The arrays of the rewards that go to the device; the outcome is also what `token_rewards` are made of."""
        return frozenset({"valid", "rewards"} | {"reward_parts"} & self.assemble_reads)

    @property
    def targets(self) -> Bound | None:
        """What gives a critic its targets: the function beside the advantage, where a loss reads `returns`."""
        wanted = self.advantage is not None and "returns" in self.step_reads
        return self.advantage.returns if wanted else None  # type: ignore[union-attr]

    def supplied(self, path: str) -> frozenset[str]:
        """Returns the arrays that a method at this path can read in a run with these parts."""
        early = path in self.assemble
        of_parts = frozenset[str]().union(*(WITH_PART[part][0 if early else 1] for part in self.parts))
        if self.source == "answers":
            return of_parts - CRITIC_ARRAYS | ANSWER_ARRAYS | {"logprobs", "entropy", "loss"}
        of_rollout = frozenset[str]() if self.rollout is None else SUPPLIES[self.rollout.name]
        of_sampler = frozenset() if self.sampler is None else frozenset({"sampler_entropy"})
        return of_parts | (ASSEMBLE | of_rollout | of_sampler if early else STEP | {"loss"} | of_rollout & IN_STEP)


def build_recipe(config: RecipeConfig, vocab_size: int | None = None, parts: frozenset[str] = frozenset()) -> Recipe:
    """Binds a recipe's slots to functions. A method that wants the size of the vocabulary gets it, unless it is set.

    `parts` are what the model has of "critic" and "experts".

    Raises:
      ConfigError: unknown method or hyperparameter, an array that nothing supplies, a slot that no loss reads.
    """
    bound: dict[str, Bound] = {}
    for slot, path, method, hyper in slots(config):
        try:
            known = REGISTRIES[slot].get(method)
            if vocab_size is not None and known is not None and "vocab_size" in split_signature(known).hyper:
                hyper = {"vocab_size": vocab_size, **hyper}
            bound[path] = bind(REGISTRIES[slot], method, **hyper)
        except ConfigError as error:
            raise ConfigError(f"recipe {config.name}: {path}: {error}") from None
    terms = tuple(
        Term(name, term.weight, bound[f"loss.{name}"], bound[f"loss.{name}.reduction"])
        for name, term in config.loss.items()
    )
    single = {slot: bound.get(slot) for slot in SLOTS}
    of_rollouts = {"rollout": _rollout(config), "sampler": _sampler(config)}
    recipe = Recipe(source=config.source, **single, terms=terms, parts=parts, **of_rollouts)
    for problem in (*_missing(recipe), *_misplaced(recipe), *_unread(recipe)):
        raise ConfigError(f"recipe {config.name}: {problem}")
    return recipe


def _rollout(config: RecipeConfig) -> Bound | None:
    if config.rollout is None:
        return None
    try:
        return bind(ROLLOUTS, config.rollout.method, **config.rollout.options)
    except ConfigError as error:
        raise ConfigError(f"recipe {config.name}: rollout: {error}") from None


def _sampler(config: RecipeConfig) -> Bound | None:
    if config.sampler is None:
        return None
    if config.rollout is not None:
        raise ConfigError(
            f"recipe {config.name}: sampler = {config.sampler.method!r}: expected none with rollout = "
            f"{config.rollout.method!r}; it is for independent completions"
        )
    try:
        bound = bind(TEMPERATURES, config.sampler.method, **config.sampler.options)
        check(**bound.own)
    except ConfigError as error:
        raise ConfigError(f"recipe {config.name}: sampler: {error}") from None
    return bound


def _missing(recipe: Recipe) -> Iterator[str]:
    """Finds arrays that nothing supplies."""
    for path, method in (recipe.assemble | recipe.step).items():
        missing = sorted(method.needs - recipe.supplied(path))
        if missing:
            sources = dict.fromkeys(source for source in map(supplier, missing) if source is not None)
            wanted = f": it needs {', '.join(sources)}" if sources else ""
            arrays = ", ".join(map(repr, missing))
            yield f"{path} = {method.name!r} reads {arrays}, which nothing in this run supplies{wanted}"
    if "returns" in recipe.step_reads and recipe.targets is None:
        known = sorted(name for name, fn in ADVANTAGES.items() if "returns" in companions(fn))
        yield f"its losses read 'returns', the targets of a critic, which its advantage does not give: {known} do"


def _misplaced(recipe: Recipe) -> Iterator[str]:
    """Finds methods in a slot where they can do nothing, or too early."""
    for slot, method in recipe.assemble.items():
        reads = "advantages" in method.takes
        if slot == "advantage" and reads:
            yield f"advantage = {method.name!r} changes advantages that another method gives: put it into reshape"
        if slot == "reshape" and not reads:
            yield f"reshape = {method.name!r} does not read advantages: put it into advantage"
    if recipe.reshape is not None and recipe.advantage is None:
        yield f"reshape = {recipe.reshape.name!r} changes the advantages, but advantage is empty"


def _unread(recipe: Recipe) -> Iterator[str]:
    """Finds losses without what they read, and slots whose result no loss reads."""
    # A term's reduction, or a method of the step, may read a result in place of a loss.
    read = _takes(recipe.step.values())
    needed = frozenset(name for method in recipe.step.values() for name in method.needs)
    given = {
        "advantage": {"advantages"},
        "token_weight": {"token_weights"},
        "ratio": {"log_ratio"},
        "clip": {"low", "high"},
    }
    for slot, arrays in given.items():
        method = getattr(recipe, slot)
        if method is None and arrays & needed and slot != "token_weight":
            yield f"its losses read {sorted(arrays & needed)}, but {slot} is empty"
        if method is not None and not arrays & read:
            yield f"{slot} = {method.name!r} is set, but no loss reads its result"


def _takes(methods: Iterable[Bound]) -> frozenset[str]:
    return frozenset(name for method in methods for name in method.takes)
