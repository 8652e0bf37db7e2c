"""What the public functions of token scoring check and make of their arguments."""

from collections.abc import Collection

import jax
import numpy as np
from jaxtyping import Array

from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.kernels.token_score.common import Layout, Options, wider
from jaxrl_tok.kernels.token_score.statistics import ALWAYS, STATISTICS


def options_of(
    hidden: Array,
    head: Array,
    *,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    head_grad: bool = True,
    block: int | None = None,
    statistics: Collection[str] = (),
    vocab_axis: str | None = None,
    fsdp_axis: str | None = None,
    vocabulary: int | None = None,
    name: str = "head",
) -> Options:
    """Checks what is static, and finds the head's layout."""
    if soft_cap is not None and not soft_cap > 0:
        raise ConfigError(f"soft_cap is {soft_cap}; expected a positive number, or None for no cap")
    if block is not None and block < 1:
        raise ConfigError(f"block is {block}; expected a positive number of columns")
    if isinstance(statistics, str):
        raise ConfigError(f"statistics is {statistics!r}; expected several names, as in ({statistics!r},)")
    for one in statistics:
        if one not in STATISTICS and one not in ALWAYS:
            raise ConfigError(f"unknown statistic {one!r}; {nearest(one, [*ALWAYS, *STATISTICS])}")
    layout = _layout(head, hidden.shape[-1], axis_size("fsdp_axis", fsdp_axis), head_layout, name)
    columns = head.shape[layout.index("v")] * axis_size("vocab_axis", vocab_axis)
    if vocabulary is not None and not 1 <= vocabulary <= columns:
        raise ConfigError(f"vocabulary is {vocabulary}; expected 1 to {columns}, the columns of the whole {name}")
    wanted = tuple(one for one in STATISTICS if one in statistics)
    extras = tuple(dict.fromkeys(field for one in wanted for field in STATISTICS[one]))
    real = None if vocabulary == columns else vocabulary
    return Options(layout, soft_cap, head_grad, block, wanted, extras, real, vocab_axis, fsdp_axis)


def _layout(head: Array, size: int, shards: int, head_layout: Layout | None, name: str) -> Layout:
    layouts: tuple[Layout, ...] = ("dv", "vd") if head_layout is None else (head_layout,)
    if not set(layouts) <= {"dv", "vd"}:
        raise ConfigError(f"{name}_layout is {head_layout!r}; expected 'dv' for [D, V] or 'vd' for [V, D]")
    fitting: list[Layout] = [layout for layout in layouts if head.shape[layout.index("d")] * shards == size]
    if not fitting:
        share = "D, as in hidden" if shards == 1 else f"D / {shards}, with D = {size} in hidden"
        expected = f"expected {size // shards} for {share}, in {' or '.join(layouts)}"
        raise ConfigError(f"{name} is {head.shape}; {expected}")
    if len(fitting) > 1:
        raise ConfigError(f"{name} is square, {head.shape}; say {name}_layout='dv' for [D, V] or 'vd' for [V, D]")
    return fitting[0]


def axis_size(argument: str, axis: str | None) -> int:
    """Returns the devices along a mesh axis, which must be one of the `shard_map` around; 1 for None."""
    if axis is None:
        return 1
    try:
        return jax.lax.axis_size(axis)
    except NameError as error:
        message = f"{argument} is {axis!r}; expected a mesh axis of the shard_map around the call"
        raise ConfigError(message) from error


def check_rows(hidden: Array, shape: tuple[int, ...], name: str = "targets") -> None:
    """Raises unless hidden has the leading axes of a per-row argument."""
    if hidden.shape[:-1] != shape:
        raise ConfigError(f"hidden is {hidden.shape} for {name} {shape}; expected {shape} + (D,)")


def accumulation_dtype(*arrays: Array) -> np.dtype:
    """Returns the type of sums and results: float64 where an input is, else float32."""
    return np.dtype(np.float64 if wider(*arrays) == np.float64 else np.float32)
