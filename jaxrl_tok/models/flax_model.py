"""Any `flax.nnx` or Linen module as a `Model`: a small function says how it is called, another where its head is.

flax is the extra `flax`, and imported here alone, when one of these functions is called.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.models.model import Caches, Params
from jaxrl_tok.models.row_model import CachedRows, RowModel, layout, specs_of

Axes = Mapping[str, tuple[str | None, ...]]


def plain_call(module: Any, tokens: Array, positions: Array, seen: Array) -> Any:
    """Calls the module itself; what `call` is where nothing else is said."""
    return module(tokens, positions, seen)


def from_nnx(
    module: Any,
    *,
    call: Callable[..., Array] = plain_call,
    head: Callable[[Any], Array] | None = None,
    axes: Axes | None = None,
    logit_cap: float | None = None,
    init_cache: Callable[[int, int], Caches] | None = None,
    decode_step: Callable[..., tuple[Array, Caches]] | None = None,
) -> tuple[RowModel, Any]:
    """Returns the model of an `nnx.Module`, and its parameters as nested dicts.

    The parameters are its `nnx.Param`s. What other variables hold (tables, running means, random state) is constant.
    The module runs in `eval()` mode: without dropout. R rows are L tokens long.

    Args:
      module: the module, or a function of no arguments that makes it. Given a function, nothing is computed here, and
        a function of no arguments comes back in place of the parameters, to be run under `jit` with their shardings.
      call: `(module, tokens i32[R, L], positions i32[R, L], seen bool[R, L, L]) -> [R, L, D]`, the hidden states after
        the final norm, or the logits `[R, L, V]` where there is no `head`. `seen[r, i, j]`: token i sees token j.
      head: `module -> [V, D]`, the output matrix; a tied one is the embedding. With it no array of tokens x vocabulary
        is ever made.
      axes: logical axes by the path of a parameter, for meshes with more than data shards; see `row_model.specs_of`.
      logit_cap: the c of c tanh(logit / c), where `call` has not applied it.
      init_cache: `(rows, length) -> cache`, a tree of arrays `[rows, length, ...]`.
      decode_step: `(module, tokens [R, L], positions [R, L], start [R], seen bool[R, L, length], cache) -> (as call's,
        cache)`, with L = 1 but for the prompt; the tokens belong into the cache's places start, start + 1, ...
        Without the two, each new token reads its whole row again.

    Raises:
      ConfigError: flax is missing, or the module or a function does not give what it must.
    """
    nnx = _import("flax.nnx")
    given = isinstance(module, nnx.Module)
    graph, params, rest = _split(nnx, module if given else nnx.eval_shape(module))
    if not given and jax.tree.leaves(rest):
        rest = jax.jit(lambda: _split(nnx, module())[2])()
    bound = _Nnx(graph, _Constants(rest) if jax.tree.leaves(rest) else None)
    model = _model(bound, params, call, head, axes, logit_cap, init_cache, decode_step)
    return model, params if given else lambda: _split(nnx, module())[1]


def from_linen(
    module: Any,
    variables: Any,
    *,
    call: Callable[..., Array] = plain_call,
    head: Callable[[Params], Array] | None = None,
    axes: Axes | None = None,
    logit_cap: float | None = None,
    init_cache: Callable[[int, int], Caches] | None = None,
    decode_step: Callable[..., tuple[Array, Caches]] | None = None,
) -> tuple[RowModel, Any]:
    """Returns the model of a Linen module, and its parameters as nested dicts.

    As `from_nnx`, with three differences. `variables` are those of `module.init`, or a function of no arguments that
    returns them; collections other than "params" are constant. `call` and `decode_step` are methods for
    `module.apply`: their first argument is the bound module. `head` gets the parameters, as in
    `lambda params: params["embed"]["embedding"]`. Nothing sets a `deterministic`: `call` says it.

    Raises:
      ConfigError: as `from_nnx`.
    """
    _import("flax.linen")
    found = jax.eval_shape(variables) if callable(variables) else variables
    params, rest = _collections(found)
    if callable(variables) and jax.tree.leaves(rest):
        rest = jax.jit(lambda: _collections(variables())[1])()
    bound = _Linen(module, _Constants(rest) if jax.tree.leaves(rest) else None)
    model = _model(bound, params, call, head, axes, logit_cap, init_cache, decode_step)
    return model, (lambda: _collections(variables())[0]) if callable(variables) else params


@dataclasses.dataclass(frozen=True, eq=False)
class _Constants:
    """Arrays that are no parameters. Equal to themselves alone: a program holds them."""

    tree: Any


@dataclasses.dataclass(frozen=True)
class _Nnx:
    """A module without its parameters."""

    graph: Any
    constants: _Constants | None

    def apply(self, function: Callable[..., Any], params: Params, *arrays: Any) -> Any:
        return function(self._whole(params), *arrays)

    def head(self, function: Callable[[Any], Any], params: Params) -> Any:
        return function(self._whole(params))

    def _whole(self, params: Params) -> Any:
        from flax import nnx

        rest = {} if self.constants is None else self.constants.tree
        return nnx.merge(self.graph, params, rest)


@dataclasses.dataclass(frozen=True)
class _Linen:
    """A module without its variables."""

    module: Any
    constants: _Constants | None

    def apply(self, function: Callable[..., Any], params: Params, *arrays: Any) -> Any:
        rest = {} if self.constants is None else self.constants.tree
        return self.module.apply({"params": params, **rest}, *arrays, method=function)

    def head(self, function: Callable[[Any], Any], params: Params) -> Any:
        return function(params)


@dataclasses.dataclass(frozen=True)
class _Read:
    """`RowModel.read`, or the step of a cache."""

    bound: _Nnx | _Linen
    function: Callable[..., Any]

    def __call__(self, params: Params, *arrays: Any) -> Any:
        return jax.tree.map(jnp.asarray, self.bound.apply(self.function, params, *arrays))


@dataclasses.dataclass(frozen=True)
class _Head:
    """`RowModel.output`."""

    bound: _Nnx | _Linen
    function: Callable[..., Any]

    def __call__(self, params: Params) -> Array:
        # A variable of nnx in place of its value is an array to jnp.
        return jnp.asarray(self.bound.head(self.function, params))


def _model(
    bound: _Nnx | _Linen,
    params: Params,
    call: Callable[..., Any],
    head: Callable[..., Any] | None,
    axes: Axes | None,
    logit_cap: float | None,
    init_cache: Callable[[int, int], Caches] | None,
    decode_step: Callable[..., Any] | None,
) -> RowModel:
    if (init_cache is None) != (decode_step is None):
        missing = "init_cache" if init_cache is None else "decode_step"
        raise ConfigError(f"{missing} is missing: a cache takes both init_cache and decode_step")
    tree, leaves = specs_of(params, axes or {})
    read, output = _Read(bound, call), None if head is None else _Head(bound, head)
    cached = None
    if init_cache is not None and decode_step is not None:
        cached = CachedRows(init_cache, _Read(bound, decode_step))
    model = RowModel(read, output, _vocabulary(read, output, params), tree, leaves, logit_cap, cached)
    try:
        hash(model)
    except TypeError as error:
        raise ConfigError(
            f"the module cannot be hashed ({error}): its attributes besides arrays must be, as a tuple or a frozen "
            "dataclass is"
        ) from None
    return model


def _vocabulary(read: _Read, output: _Head | None, params: Params) -> int:
    """Returns V, from the shapes that the functions give on two rows of three tokens."""
    tokens = jnp.zeros((2, 3), jnp.int32)
    found = jax.eval_shape(read, params, tokens, *layout(jnp.full(2, 3, jnp.int32), 3, 3))
    what = "[R, L, V], logits, as there is no head" if output is None else "[R, L, D]"
    if getattr(found, "shape", ())[:2] != (2, 3) or found.ndim != 3 or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ConfigError(f"call gives {_shown(found)} for tokens i32[2, 3]; expected floating point {what}")
    if output is None:
        return found.shape[-1]
    head = jax.eval_shape(output, params)
    if head.ndim != 2 or head.shape[1] != found.shape[-1]:
        raise ConfigError(f"head gives {_shown(head)}; expected [V, D] with D = {found.shape[-1]}, as call gives")
    return head.shape[0]


def _shown(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else f"a {type(x).__name__}"


def _split(nnx: Any, module: Any) -> tuple[Any, Params, Any]:
    """Returns the graph of a module in eval mode, its parameters, and what else it holds."""
    copy = nnx.merge(*nnx.split(module))
    copy.eval()
    graph, params, rest = nnx.split(copy, nnx.Param, ...)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def _collections(variables: Any) -> tuple[Params, Any]:
    """Returns Linen's parameters, and its other collections, as plain dicts without boxes of partitioning."""
    from flax.core import meta, unfreeze

    plain = unfreeze(meta.unbox(variables))
    if "params" not in plain:
        raise ConfigError(f"variables have {', '.join(plain) or 'nothing'}; expected the collection 'params'")
    return plain.pop("params"), plain


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "flax":
            raise
        raise ConfigError("flax is not installed: pip install 'jaxrl_tok[flax]'") from None
