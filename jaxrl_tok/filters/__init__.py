"""Filters: which groups or completions train."""

from collections.abc import Callable

from jaxtyping import Array, Bool

from jaxrl_tok.filters.informative_groups import informative_groups as informative_groups
from jaxrl_tok.filters.max_variance_subset import max_variance_subset as max_variance_subset
from jaxrl_tok.filters.overlong import overlong as overlong

FILTERS: dict[str, Callable[..., Bool[Array, "P G"]]] = {
    f.__name__: f
    for f in (
        informative_groups,
        overlong,
        max_variance_subset,
    )
}
