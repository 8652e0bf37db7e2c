"""Whether a run fits a machine that is not there: its programs, compiled ahead of time for a topology's chips.

The programs are those that `build` makes for training, called in the order of a training step with shapes in place of
arrays; nothing is computed, and neither data, tokenizer nor weights are opened.
"""

import dataclasses
import math
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_tok.config.load import load_run
from jaxrl_tok.config.schema import OwnModelConfig, Run
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import NODES, longest
from jaxrl_tok.sharding.mesh import BATCH_AXES, batch_shards
from jaxrl_tok.train import hlo, parts
from jaxrl_tok.train.build import Build, build
from jaxrl_tok.train.parts import sampling
from jaxrl_tok.train.probes import made
from jaxrl_tok.train.programs import TRAIN
from jaxrl_tok.train.recipe import DISTANCE_ARRAYS, STATISTIC_ARRAYS
from jaxrl_tok.train.topology import Topology, topology
from jaxrl_tok.train.tries import pack
from jaxrl_tok.types import Prompts, Rollouts, TrainState, Tries

# A plan opens no data: of how many questions methods keep something that keep it for each.
QUESTIONS = 100_000


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of one program; sizes are bytes on a chip."""

    name: str
    seconds: float = 0
    arguments: int = 0
    results: int = 0  # that reuse no argument's memory
    temporary: int = 0
    code: int = 0
    held: int = 0  # of the run, beside the arguments
    batch: int = 0  # of the arguments, what is not the state of the run
    calls: int = 1  # a step
    collectives: tuple[hlo.Collective, ...] = ()
    loops: tuple[Any, ...] = ()  # the arrays that each of its loops carries
    error: str = ""

    @property
    def total(self) -> int:
        """All that must be in memory while it runs."""
        return self.arguments + self.results + self.temporary + self.code + self.held


@dataclasses.dataclass(frozen=True)
class Size:
    """A vocabulary of which no more is known."""

    size: int
    eos_ids: tuple[int, ...] = (0,)


def vocabulary(run: Run) -> Size:
    """Returns the size of the vocabulary as the model or the characters of the tokenizer give it.

    Raises:
      ConfigError: neither does.
    """
    if isinstance(run.model, OwnModelConfig):
        raise ConfigError(f"model.function = {run.model.function}: a plan is of the built-in decoder")
    if run.model.vocab is not None:
        return Size(run.model.vocab)
    if run.tokenizer.kind == "characters":
        return Size(len(run.tokenizer.alphabet) + 2)  # padding and the end
    raise ConfigError("model.vocab: unset; a plan opens no tokenizer and needs the number of rows of the embedding")


def slots_and_rounds(built: Build) -> tuple[int, int]:
    """Returns how many completions a shard of the batch decodes at once, and how many such rounds it makes at most."""
    rollout, shards = built.run.rollout, batch_shards(built.mesh)
    requests = rollout.prompts * rollout.group // shards
    slots = min(requests, -(-rollout.slots // shards) if rollout.slots else requests)
    return slots, -(-requests // slots)


def decoding_steps(built: Build) -> int:
    """Returns the most tokens that a slot decodes one after the other in a step."""
    return built.run.rollout.max_tokens * slots_and_rounds(built)[1]


def longest_completion(built: Build) -> int:
    """Returns the most tokens of a completion that is scored and trained."""
    how, limit = built.main.recipe.rollout, built.run.rollout.max_tokens
    return limit if how is None else longest(how.name, limit, **how.own)


def longest_tries(built: Build) -> Tries | None:
    """Returns the tries of a step with the most tokens, on the host; None where completions are no tries.

    Completions are as long as they may be. Where the recipe's rollouts fix what they share before they sample, as trees
    of segments do, they share that, else nothing but their prompt.
    """
    stage, rollout = built.main, built.run.rollout
    if built.run.train.share_prefix != "tree":
        return None
    shape = (stage.prompts, stage.group, longest_completion(built))
    how = stage.recipe.rollout
    if how is not None and how.name in NODES:
        own = NODES[how.name](stage.group, rollout.max_tokens, **how.own)
    else:
        own = np.arange(stage.group, dtype=np.int32)[:, None]
    tokens = np.broadcast_to(own[None], shape)
    sampled = (tokens, np.ones(shape, bool), np.zeros(shape[:2], bool), np.zeros(shape, np.float32))
    rollouts = Rollouts(*sampled, np.full(shape, -np.inf, np.float32), np.ones(shape[:2], np.float32))
    prompt, zeros = np.zeros((stage.prompts, rollout.max_prompt), np.int32), np.zeros(stage.prompts, np.int32)
    prompts = Prompts(prompt, zeros + rollout.max_prompt, zeros)
    cut = stage.minibatches * stage.microbatches
    return pack(prompts, rollouts, filtered=built.filtered, parts=cut, shards=batch_shards(built.mesh))


class Step:
    """One training step on shapes: what `rl.rollout_step` calls, in its order, compiled and kept by name.

    With `only`, programs of other names are traced and not compiled; their results are taken to lie as a batch does.
    """

    def __init__(self, built: Build, only: frozenset[str] | None = None):
        self.built = built
        self._only = only
        self.compiled: list[Compiled] = []
        # Each leaf an object of its own: in the template, the reference's are those of the parameters.
        self._state = jax.tree.map(lambda x: _shaped(x, x.sharding), built.main.template)
        # Arrays that the run holds on the devices, by identity: arguments and results of the programs so far.
        self._live: dict[int, Any] = {}

    def take(self) -> None:
        """Compiles every program of a step of the main part."""
        built, stage = self.built, self.built.main
        run, state = built.run, self._state
        self._hold(state)
        prompts = self._placed(
            Prompts(
                np.zeros((stage.prompts, run.rollout.max_prompt), np.int32),
                np.zeros(stage.prompts, np.int32),
                np.zeros(stage.prompts, np.int32),
            )
        )
        rollouts, supplied = self._rollouts(prompts)
        tries = self._placed(longest_tries(built))
        known = supplied | self._scores(state, prompts, rollouts, tries)
        fields = self._fields(prompts, rollouts, known)
        thresholds = rollouts.keep_thresholds if built.filtered else None
        arrays = (prompts, fields, rollouts.temperature, thresholds)
        batch, _ = self.call("assemble", stage.assemble, state.method_state, *arrays)
        batch = dataclasses.replace(batch, tries=tries, left_out=built.left_out)
        self.call("update", stage.update, state, batch, jnp.int32(0), calls=stage.updates)

    def call(self, name: str, program: Callable[..., Any], *arguments: Any, calls: int = 1, **options: Any) -> Any:
        """Compiles one program and returns its results as shapes with their shardings."""
        self._hold(arguments)
        given, state = _arrays(arguments), {id(x) for x in _arrays(self._state)}
        known: dict[str, Any] = {
            "held": sum(map(on_a_chip, self._live.values())) - sum(map(on_a_chip, given)),
            "batch": sum(on_a_chip(x) for x in given if id(x) not in state),
            "calls": calls,
        }
        start = time.perf_counter()
        lowered = program.lower(*arguments, **options)  # type: ignore[attr-defined]
        if self._only is not None and name not in self._only:
            results = self._placed(lowered.out_info)
            self._hold(results)
            return results
        try:
            binary = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if not _is_of_hbm(str(error)):
                raise
            self.compiled.append(Compiled(name, time.perf_counter() - start, error=str(error), **known))
            results = self._placed(lowered.out_info)
        else:
            # The loop that decodes has no bound but the longest completions, one round of slots after the other.
            found = measured(name, binary, decoding_steps(self.built) if name == "rollout" else 1)
            self.compiled.append(dataclasses.replace(found, seconds=time.perf_counter() - start, **known))
            results = jax.tree.map(_shaped, lowered.out_info, binary.output_shardings)
        if name != "update":
            self._hold(results)
        return results

    def _rollouts(self, prompts: Any) -> tuple[Any, dict[str, Any]]:
        """The completions of one call of the sampling program, and the arrays that its method supplies besides."""
        built, stage = self.built, self.built.main
        asked = self._placed(sampling(built.run, stage.prompts))
        arguments: tuple[Any, ...] = (self._state.model_params, prompts, asked, np.int32(TRAIN), np.int32(0))
        arguments += parts.scale_of(stage.recipe, self._state)
        sampled = self.call("rollout", built.method or built.rollout, *arguments)
        if sampled.probes is None:
            return sampled.rollouts, sampled.fields
        assert stage.recipe.rollout is not None
        shape = sampled.probes.lengths.shape
        rewards = (np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape[:3], np.int32))
        return sampled.rollouts, sampled.fields | self._placed(made(stage.recipe.rollout.name, *rewards))

    def _scores(self, state: TrainState, prompts: Any, rollouts: Any, tries: Any) -> dict[str, Any]:
        """The passes of `rl._scores`."""
        built, recipe = self.built, self.built.main.recipe
        passes = recipe.passes(built.main.updates)
        reads = recipe.assemble_reads | recipe.step_reads
        scored: dict[str, Any] = {}
        if passes["old"]:
            statistics = tuple(sorted(reads & STATISTIC_ARRAYS))
            arguments = (state.model_params, prompts, rollouts, tries)
            old = self.call("score", built.score, *arguments, filtered=built.filtered, statistics=statistics)
            scored |= {"old_logprobs": old.logprobs, "old_entropy": old.entropy} | old.statistics
            scored |= {"values": old.values} if old.values is not None else {}
        reference = parts.reference_params(built.model, state)
        if passes["reference"]:
            program = built.score_reference
            found = self.call("reference", program, reference, prompts, rollouts, tries, filtered=built.filtered)
            scored["ref_logprobs"] = found.logprobs
        if passes["distances"]:
            kinds = tuple(sorted(reads & DISTANCE_ARRAYS))
            arguments = (state.model_params, reference, prompts, rollouts, tries)
            scored |= self.call("distances", built.distances, *arguments, kinds=kinds)
        return scored

    def _fields(self, prompts: Any, rollouts: Any, known: dict[str, Any]) -> dict[str, Any]:
        """The arrays of `rl._fields`."""
        stage = self.built.main
        grid = rollouts.mask.shape[:2]
        reads = stage.recipe.assemble_reads | stage.recipe.step_reads
        rewards = len(self.built.run.reward)
        host = {
            "rewards": np.zeros(grid, np.float32),
            "valid": np.zeros(grid, bool),
            "reward_parts": np.zeros((*grid, rewards), np.float32),
        }
        fields = self._placed({name: host[name] for name in sorted(stage.recipe.judged)})
        fields |= {"tokens": rollouts.tokens, "mask": rollouts.mask, "truncated": rollouts.truncated}
        fields |= {"finished": rollouts.truncated, "prompt_ids": prompts.ids}
        if "priority" in reads:
            fields["priority"] = self.call("priority", self.built.priority, prompts.ids, rollouts.mask, np.int32(0))
        fields |= {"sampler_logprobs": rollouts.sampler_logprobs} | known
        fields |= {} if rollouts.entropy is None else {"sampler_entropy": rollouts.entropy}
        return fields | {"progress": np.float32(0), "step": np.int32(0)}

    def _placed(self, tree: Any) -> Any:
        """Returns the shapes of host arrays as `shard_batch` lays them out."""

        def placed(x: Any) -> jax.ShapeDtypeStruct:
            spec = PartitionSpec(BATCH_AXES) if len(x.shape) else PartitionSpec()
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.built.mesh, spec))

        return jax.tree.map(placed, tree)

    def _hold(self, tree: Any) -> None:
        self._live |= {id(x): x for x in _arrays(tree)}


def _arrays(tree: Any) -> list[Any]:
    """The shapes in a tree, each once."""
    return [*{id(x): x for x in jax.tree.leaves(tree) if isinstance(x, jax.ShapeDtypeStruct)}.values()]


def _is_of_hbm(error: str) -> bool:
    """Whether a chip has too little memory; too little of a kernel's own (VMEM) is a mistake of the kernel."""
    return "RESOURCE_EXHAUSTED" in error and "vmem" not in error.lower()


def _shaped(info: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=sharding)


def on_a_chip(x: Any) -> int:
    """Returns the bytes that one device holds of an array."""
    shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
    return math.prod(shape) * jnp.dtype(x.dtype).itemsize


def measured(name: str, binary: jax.stages.Compiled, unknown: int) -> Compiled:
    """Reads memory and collectives off an executable; loops of unknown length go round `unknown` times."""
    memory, text = binary.memory_analysis(), binary.as_text()
    assert memory is not None and text is not None
    return Compiled(
        name=name,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        collectives=tuple(hlo.collectives(text, unknown)),
        loops=tuple(hlo.carried(text)),
    )


def compile_step(path: Path, sets: Sequence[str], where: str) -> tuple[Build, Topology, list[Compiled]]:
    """Compiles the programs of a run for a topology.

    Raises:
      JaxrlTokError: training would refuse the run there, or the topology is not known.
    """
    run = load_run(path, sets)
    if run.recipe.source != "rollout":
        raise ConfigError(f"{path}: recipe = {run.recipe.name!r}: a plan is of a recipe that learns from rollouts")
    place = topology(where, run.mesh.slices)
    built = build(run, vocabulary(run), QUESTIONS, place.devices)
    step = Step(built)
    step.take()
    return built, place, step.compiled


def host_memory() -> int:
    """Returns the most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
