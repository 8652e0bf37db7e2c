"""What a plan says in numbers: the memory of a chip, the work of a step, and what must hold of a good layout."""

import dataclasses
import math
from typing import Any

import jax

from jaxrl_tok.config.schema import Run
from jaxrl_tok.models import Architecture, Transformer
from jaxrl_tok.rollouts import NODES
from jaxrl_tok.sharding.mesh import batch_shards
from jaxrl_tok.sharding.rules import ROLLOUT_RULES, RULES, Rules, param_shardings
from jaxrl_tok.train import flops
from jaxrl_tok.train.build import Build
from jaxrl_tok.train.chips import Chip
from jaxrl_tok.train.plan import (
    Compiled,
    decoding_steps,
    longest_completion,
    longest_tries,
    on_a_chip,
    slots_and_rounds,
)
from jaxrl_tok.types import TrainState

BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a chip does in one of a step's programs, in all its calls, and the least seconds that it takes."""

    name: str
    flops: float
    compute: float  # seconds at the chip's peak
    memory: float  # seconds of reading from HBM what each decoding step reads; 0 of other programs
    links: float  # seconds of sending at the speed of all links

    def seconds(self, share: float = 1.0) -> float:
        """Returns the time where products reach a share of the peak, with all else going on meanwhile."""
        return max(self.compute / share, self.memory, self.links)


def state_bytes(state: TrainState) -> dict[str, int]:
    """Returns the bytes of a chip that stay for the whole run."""
    parts = {
        "parameters": (state.params, state.frozen),
        "optimizer": (state.opt_state, state.updates),
        "reference": state.ref_params,
    }
    if state.method_state:
        parts["methods"] = state.method_state
    return {name: sum(map(on_a_chip, jax.tree.leaves(tree))) for name, tree in parts.items()}


def cache_shapes(built: Build) -> dict[str, tuple[int, ...]]:
    """Returns what a chip has of the keys of all layers: of completions in progress, and of their prompts."""
    arch, rollout = _arch(built), built.run.rollout
    over = built.mesh.shape["tensor"] * built.mesh.shape["sequence"]
    heads = arch.kv_heads // math.gcd(over, arch.kv_heads)
    slots, prompts = slots_and_rounds(built)[0], rollout.prompts // batch_shards(built.mesh)
    return {
        "completions": (arch.layers, slots, heads, rollout.max_tokens, arch.head_dim),
        "prompts": (arch.layers, prompts, heads, rollout.max_prompt, arch.head_dim),
    }


def cache_bytes(built: Build) -> int:
    """Returns the bytes of keys and values by hand: 2 L K H (slots T + prompts S), of a chip's share."""
    return sum(2 * math.prod(shape) for shape in cache_shapes(built).values()) * BYTES[_arch(built).dtype]


def cache_found(built: Build, rollout: Compiled) -> int:
    """Returns the bytes of keys and values that the compiled decoding loop carries; 0 where it has none.

    The loops of a method of rollouts, which carry those of other shapes, are not looked at.
    """
    if built.method is not None:
        return 0
    arch, shapes = _arch(built), cache_shapes(built)
    if not arch.scan_decoding:
        shapes = {name: shape[1:] for name, shape in shapes.items()}
    kinds = {_sizes(shape) for shape in shapes.values()}
    return max(
        (sum(bits * count // 8 for bits, count, shape in loop if _sizes(shape) in kinds) for loop in rollout.loops),
        default=0,
    )


def work(built: Build, compiled: list[Compiled], chip: Chip) -> list[Work]:
    """Returns the work of a step's programs, completions taken to be of their full length.

    A method's rollouts are left out: how many tokens it decodes, and one after the other, is known when it has sampled.
    """
    operations = step_flops(built)
    found = []
    for one in compiled:
        if one.name == "rollout" and built.method is not None:
            continue
        done = operations.get(one.name, 0) / built.mesh.size
        read = decoding_bytes(built) if one.name == "rollout" else 0
        sent = one.calls * sum(c.moved for c in one.collectives)
        found.append(Work(one.name, done, done / chip.flops, read / chip.bandwidth, sent / chip.links))
    return found


def one_pass(built: Build) -> flops.Flops:
    """Returns the operations of a scoring pass over all of a step's tokens, laid out as `train.share_prefix` says."""
    arch, run = _arch(built), built.run
    if (tries := longest_tries(built)) is not None:
        return flops.tries(arch, tries)
    prompts, group, prompt, _ = _grid(run)
    completion = longest_completion(built)
    trained = prompts * group * completion
    if run.train.share_prefix == "none":
        prompts, group = prompts * group, 1
    return flops.forward(arch, prompts, group, prompt, completion, logits=trained)


def step_flops(built: Build) -> dict[str, int]:
    """Returns the operations of each program in all its calls of a step, on all chips together."""
    arch, run, stage = _arch(built), built.run, built.main
    passed = one_pass(built)
    updates = run.train.epochs * flops.update(passed, arch.remat)
    updates += run.train.epochs * passed.total if stage.recipe.passes(stage.updates)["prepare"] else 0
    return {
        "rollout": flops.forward(arch, *_grid(run), logits=tokens(run)).total,
        "score": passed.total,
        "reference": passed.total,
        "distances": 2 * passed.total,
        "update": updates,
    }


def decoding_bytes(built: Build) -> int:
    """Returns what a chip reads from HBM in all decoding steps: each time all weights, and all keys and values."""
    arch, shapes = _arch(built), cache_shapes(built)
    specs = built.base.specs()
    weights = jax.tree.map(
        lambda spec, laid: math.prod(laid.shard_shape(spec.shape)),
        specs, param_shardings(specs, built.mesh, ROLLOUT_RULES), is_leaf=_is_spec,
    )  # fmt: skip
    # Of a table of embeddings, a few rows; a prompt's keys are read for each of its completions.
    read = sum(jax.tree.leaves(weights)) - (0 if arch.tied else weights["embed"])
    slots = shapes["completions"][1]
    layers, _, heads, size, dim = shapes["prompts"]
    read += 2 * math.prod(shapes["completions"]) + 2 * layers * slots * heads * size * dim
    return decoding_steps(built) * read * BYTES[arch.dtype]


def sums(compiled: list[Compiled]) -> dict[str, tuple[int, float, float]]:
    """Returns, by kind, how many collectives a step has, the bytes that a chip puts into them, and those it sends."""
    found: dict[str, tuple[int, float, float]] = {}
    for one in compiled:
        for c in one.collectives:
            count, put, moved = found.get(c.kind, (0, 0.0, 0.0))
            times = one.calls * c.times
            found[c.kind] = (count + times, put + times * c.bytes, moved + one.calls * c.moved)
    return dict(sorted(found.items(), key=lambda item: -item[1][2]))


def checks(built: Build, compiled: list[Compiled]) -> list[str]:
    """Returns what is wrong with the layout: parameters that are whole, a head that is gathered, sizes by hand."""
    by_name = {one.name: one for one in compiled if not one.error}
    wrong = whole_parameters(built)
    for one in by_name.values():
        wrong += [f"{one.name} gathers the whole {name} on every chip" for name in gathered(built, one)]
    if "update" in by_name:
        wrong += _off("arguments of update", by_name["update"].arguments, arguments_bytes(built, by_name["update"]))
    if "rollout" in by_name and built.method is None:
        wrong += _off("keys and values in rollout", cache_found(built, by_name["rollout"]), cache_bytes(built))
    return wrong


def assumptions(built: Build) -> list[str]:
    """Returns a line for each thing that is known only when completions are there: what is taken, or left out."""
    lines, how = [], built.main.recipe.rollout
    if built.run.rollout.chunk:
        lines.append("rollout.chunk: planned is the program that decodes all in one call")
    if (tries := longest_tries(built)) is not None:
        shared = "the nodes of their tree" if how is not None and how.name in NODES else "no more than their prompt"
        rows, size = tries.tokens.shape
        lines.append(f"tries: {rows} rows of {size} tokens, completions taken to be long and to share {shared}")
    if how is None:
        return lines
    name = f'rollout = "{how.name}"'
    if built.main.recipe.in_rounds:
        lines.append(f"{name}: planned is one round; how many a step has is known by the rewards")
    lines.append(
        f"{name}: no time of it, and no count of keys and values; its collectives are those of loops of "
        f"{decoding_steps(built)} tokens each"
    )
    return lines


def whole_parameters(built: Build, rules: Rules = RULES) -> list[str]:
    """Returns a line for each parameter, or state of it, that the rules would split and that is whole on every chip."""
    specs = jax.tree.leaves_with_path(built.model.specs(), is_leaf=_is_spec)
    state, wrong = built.main.template, []
    for tree in (state.model_params, state.ref_params):
        for (path, spec), leaf in zip(specs, jax.tree.leaves(tree), strict=False):
            laid = leaf.sharding.shard_shape(leaf.shape)
            for axis, size, part in zip(spec.axes, spec.shape, laid, strict=True):
                over = math.prod(built.mesh.shape[name] for name in _mesh_axes(rules, axis))
                if part * over != size:
                    name = jax.tree_util.keystr(path)
                    wrong.append(f"{name}: {axis} of {size} is not split over {over} ({part} on every chip)")
    return [*dict.fromkeys(wrong)]


def gathered(built: Build, one: Compiled) -> list[str]:
    """Returns which of head and embedding a program brings together whole on a chip."""
    arch = _arch(built)
    over = built.mesh.shape["tensor"]
    if one.name == "rollout" and (over == 1 or arch.vocab % over):
        return []  # nothing splits what rollouts read
    whole = [
        shape
        for c in one.collectives
        if c.kind == "all-gather"
        for shape in c.results
        if math.prod(shape) == arch.vocab * arch.dim and {arch.vocab, arch.dim} <= {*shape}
    ]
    return ["embedding" if arch.tied else "head or embedding"] if whole else []


def arguments_bytes(built: Build, update: Compiled) -> int:
    """Returns what the update takes by hand: parameters, what the optimizer keeps, a reference, and the batch.

    Of each parameter a chip has its size, divided by the devices that the rules split its axes over.
    """
    run = built.run
    copies = 1 + (built.main.template.ref_params is not None)
    moments = BYTES[run.optimizer.state_dtype] + BYTES["float32"]
    total = update.batch
    for spec in jax.tree.leaves(built.model.specs(), is_leaf=_is_spec):
        over = math.prod(built.mesh.shape[name] for axis in spec.axes for name in _mesh_axes(RULES, axis))
        size = BYTES[spec.dtype or run.train.param_dtype]
        total += math.prod(spec.shape) * (copies * size + moments if spec.trained else size) // over
    return total


def _off(what: str, found: int, expected: int, bound: float = 0.02) -> list[str]:
    if abs(found - expected) <= bound * expected:
        return []
    return [f"{what}: {found / 2**30:.3f} GiB, by hand {expected / 2**30:.3f}"]


def _mesh_axes(rules: Rules, axis: str | None) -> tuple[str, ...]:
    rule = None if axis is None else rules[axis]
    return (rule,) if isinstance(rule, str) else rule or ()


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of more than one element in order of size: compilers drop, add and turn axes."""
    return tuple(sorted(size for size in shape if size > 1))


def _arch(built: Build) -> Architecture:
    base = built.base
    assert isinstance(base, Transformer)  # `vocabulary` has refused a model of the user's own
    return base.arch


def _grid(run: Run) -> tuple[int, int, int, int]:
    """Prompts, completions of each, and the most tokens of both."""
    return run.rollout.prompts, run.rollout.group, run.rollout.max_prompt, run.rollout.max_tokens


def _is_spec(x: Any) -> bool:
    return hasattr(x, "axes")


def tokens(run: Run) -> int:
    """Returns the most tokens that a step samples."""
    return run.rollout.prompts * run.rollout.group * run.rollout.max_tokens
