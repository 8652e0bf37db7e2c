"""Filters: which groups or completions train."""

from collections.abc import Callable

from jaxtyping import Array, Bool

from jaxrl_tok.filters.informative_groups import informative_groups as informative_groups

FILTERS: dict[str, Callable[..., Bool[Array, "P G"]]] = {f.__name__: f for f in (informative_groups,)}
