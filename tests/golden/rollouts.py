"""Golden functions of rollouts: what a lookahead tree decides in each step."""

import jax.numpy as jnp
import numpy as np

from jaxrl_tok.rollouts import latr, similarity


def latr_branch(p, absolute=0.25, relative=0.15):
    """Whether the second of the likeliest tokens is worth a branch."""
    top = jnp.asarray(np.sort(p)[::-1][:2].copy())[None]
    return latr.undecided(top, absolute, relative)[0]


def latr_capacity(wants, capacity):
    """Which of the rows that want a branch get one."""
    rows, size = len(wants), int(capacity)
    number = jnp.arange(size, dtype=jnp.int32)[None]
    padded = jnp.asarray(np.pad(np.array(wants) > 0, (0, size - rows)))[None]
    source, new = latr.new_branches(padded, number < rows, number)
    return np.isin(np.arange(rows), np.asarray(source)[np.asarray(new)])


def latr_similarity(a, b):
    pair = [jnp.asarray(np.asarray(x), jnp.int32)[None] for x in (a, b)]
    shares = {"rouge": similarity.common_subsequence, "suffix": similarity.common_suffix}
    found = {name: np.asarray(measure(*pair), np.float64)[0] / len(a) for name, measure in shares.items()}
    return {"distance": similarity.edit_distance(*pair)[0]} | found


FUNCTIONS = {"latr_branch": latr_branch, "latr_capacity": latr_capacity, "latr_similarity": latr_similarity}
