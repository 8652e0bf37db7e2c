"""Finds intermediates of a traced function that hold logits: a token axis and the whole vocabulary."""

import math
from collections.abc import Collection, Iterator

from jax.extend.core import ClosedJaxpr, Jaxpr


def offending(jaxpr: ClosedJaxpr, tokens: int | Collection[int], vocab: int) -> list[str]:
    """Gives "primitive shape" of every intermediate that is as large as the logits of all tokens.

    That is one with an axis as long as the vocabulary and min(tokens) elements beside it, however split over
    axes, or one as large as both with the vocabulary flattened into an axis. Take a vocabulary that is prime
    and longer than any other axis, and more tokens than hidden size: then parameters, [D, V], pass.

    Args:
        jaxpr: from `jax.make_jaxpr(f)(*args)`; what it calls is searched too.
        tokens: how many tokens are scored together; or several such numbers, as of a batch and a microbatch.
        vocab: the size of the vocabulary.
    """
    fewest = tokens if isinstance(tokens, int) else min(tokens)

    def offends(shape: tuple[int, ...]) -> bool:
        size = math.prod(shape)
        beside = any(axis >= vocab and size // axis >= fewest for axis in shape)
        flattened = size >= fewest * vocab and any(axis > 0 and axis % vocab == 0 for axis in shape)
        return beside or flattened

    return sorted({f"{name} {shape}" for name, shape in shapes(jaxpr) if offends(shape)})


def shapes(jaxpr: ClosedJaxpr | Jaxpr) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Gives what computes each intermediate of a jaxpr and of all jaxprs inside it, and its shape."""
    if isinstance(jaxpr, ClosedJaxpr):
        yield from (("constant", tuple(getattr(x, "shape", ()))) for x in jaxpr.consts)
        jaxpr = jaxpr.jaxpr
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield equation.primitive.name, tuple(getattr(variable.aval, "shape", ()))
        for parameter in equation.params.values():
            for inner in jaxprs_in(parameter):
                yield from shapes(inner)


def jaxprs_in(parameter: object) -> Iterator[ClosedJaxpr | Jaxpr]:
    """Gives the jaxprs in a parameter of an equation: itself, or in its tuples (the branches of `cond`)."""
    if isinstance(parameter, ClosedJaxpr | Jaxpr):
        yield parameter
    elif isinstance(parameter, tuple | list):
        for part in parameter:
            yield from jaxprs_in(part)
