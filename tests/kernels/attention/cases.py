"""The table of cases that every backend of attention must get right, against a float64 oracle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxrl_tok.kernels.attention import Prefix, star_tree, tree_from_parents
from jaxrl_tok.kernels.attention.api import emptied, prepare
from jaxrl_tok.kernels.attention.backends import Problem, run
from jaxrl_tok.kernels.attention.common import Options

HEADS, KV_HEADS, SIZE, PREFIX = 4, 2, 16, 40


@dataclasses.dataclass(frozen=True)
class Case:
    """One attention problem; cases of one shape and type share what is compiled."""

    rows: int = 2
    tokens: int = 50
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    dtype: str = "float32"
    causal: bool = True
    segments: str | None = None  # "packed", "left", "right", "all padding"
    tree: str | None = None  # "random", "star", "chain", "single"
    prefixes: int | None = None  # P
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None

    @property
    def rng(self):
        """A generator that depends on the case's size alone."""
        return np.random.default_rng(self.rows * 1000 + self.tokens)

    def arrays(self):
        """Gives q, k, v and cotangents, [B, T, heads, H], and the prefix's k and v, float64 but rounded."""
        rng, heads = self.rng, (self.heads, self.kv_heads, self.kv_heads, self.heads)
        shapes = [(self.rows, self.tokens, n, SIZE) for n in heads]
        shapes += [(self.prefixes or 1, PREFIX, self.kv_heads, SIZE)] * 2
        dtype = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}[self.dtype]
        return [rng.normal(size=shape).astype(dtype).astype(np.float64) for shape in shapes]

    def ids(self):
        """Gives segment ids [B, T], or None."""
        if self.segments is None:
            return None
        ids = np.zeros((self.rows, self.tokens), np.int32)
        for row, cut in enumerate(np.linspace(5, self.tokens - 5, self.rows).astype(int)):
            if self.segments == "packed":
                ids[row] = np.searchsorted([cut // 2, cut, cut + 3], np.arange(self.tokens), side="right")
                ids[row, cut : cut + 3] = -1
                ids[row, cut + 3 :] = 0  # an id that was there before, apart from it
            ids[row, {"left": slice(cut), "right": slice(cut, None), "packed": slice(0)}.get(self.segments)] = -1
        return ids

    def parents(self):
        """Gives the pointers to parents [B, T] of tries, or None."""
        if self.tree is None:
            return None
        return np.stack([TREES[self.tree](self.rng, self.tokens) for _ in range(self.rows)])

    def prefix_mask(self):
        """Gives which tokens of the prefixes are there: all, those on the right, and every other one."""
        masks = [np.arange(PREFIX) >= 0, np.arange(PREFIX) >= 25, np.arange(PREFIX) % 2 > 0]
        return np.stack([masks[p % 3] for p in range(self.prefixes)])


def random_trie(rng, size):
    """Gives tries that grow at random from the current path, and padding behind them."""
    parents, path = [], []
    for token in range(size - 4):
        turn = rng.random()
        if path and turn < 0.15:
            path = path[: rng.integers(0, len(path)) + 1]
        elif turn < 0.18:
            path = []
        parents.append(path[-1] if path else -1)
        path.append(token)
    return np.array([*parents, *[-2] * 4])


def branches(prompt, lengths):
    """Gives a prompt with branches."""
    parents = list(range(-1, prompt - 1))
    for length in lengths:
        parents += [prompt - 1, *range(len(parents), len(parents) + length - 1)]
    return np.array(parents)


TREES = {
    "random": random_trie,
    "star": lambda rng, size: branches(14, [12, 5, size - 31]),
    "chain": lambda rng, size: np.arange(size) - 1,
    "single": lambda rng, size: branches(size - 17, [1] * 17),
}

CASES = {
    "causal": Case(),
    "full": Case(causal=False),
    "packed segments": Case(segments="packed"),
    "packed segments, both ways": Case(segments="packed", causal=False),
    "padded left": Case(segments="left"),
    "nothing but padding": Case(segments="all padding"),
    "window": Case(window=9),
    "window of one": Case(window=1),
    "window in segments": Case(window=9, segments="packed"),
    "soft cap, scale": Case(soft_cap=2.0, scale=0.9),
    "random tries": Case(tree="random"),
    "star": Case(tree="star"),
    "chain": Case(tree="chain"),
    "branches of one token": Case(tree="single"),
    "window and soft cap in tries": Case(soft_cap=2.0, scale=0.9, tree="random", window=8),
    "one head of keys, one token": Case(rows=1, tokens=1, kv_heads=1),
    "as many heads of keys, random tries": Case(rows=3, tokens=33, kv_heads=HEADS, tree="random"),
    "few tries": Case(rows=1, tokens=40, heads=2, kv_heads=1, tree="random"),
    "bf16": Case(dtype="bfloat16"),
    "bf16 tries": Case(dtype="bfloat16", tree="random"),
    "f64 tries": Case(dtype="float64", tree="random", soft_cap=3.0),
    "f64 segments": Case(dtype="float64", segments="packed"),
    "prefix": Case(rows=6, tokens=20, prefixes=3),
    "prefix, padded rows": Case(rows=6, tokens=20, prefixes=3, segments="right"),
    "prefix of one group, window, soft cap": Case(rows=3, tokens=20, prefixes=1, window=12, soft_cap=2.0),
    "f64 prefix of every row": Case(rows=3, tokens=20, prefixes=3, dtype="float64"),
    "bf16 prefix": Case(rows=6, tokens=20, prefixes=3, dtype="bfloat16"),
}

# name: (backend, platform, interpret)
BACKENDS = {
    "reference": ("reference", "cpu", False),
    "xla": ("xla", "cpu", False),
    "chunked": ("chunked", "cpu", False),
    "shared_prefix": ("shared_prefix", "cpu", False),
    "pallas_tpu": ("pallas_tpu", "tpu", True),
    "shared_prefix on pallas_tpu": ("shared_prefix", "tpu", True),
}


def fits(case, backend):
    """Tells whether a backend takes a case; TPU kernels know no float64."""
    name, platform, _ = BACKENDS[backend]
    if platform == "tpu" and case.dtype == "float64":
        return False
    return name in ("reference", "xla") or (name == "shared_prefix") == (case.prefixes is not None)


def problem_of(case):
    """Gives the problem as `attention` would, with spans and valid tokens spelt out for every row, but no tokens."""
    prefix, segments, tree = None, None, (None, None)
    if case.segments:
        segments = jnp.asarray(case.ids())
    if case.tree:
        packed = [tree_from_parents(row) for row in case.parents()]
        ends, positions = (jnp.asarray(np.stack([p[n] for p in packed])) for n in (0, 1))
        tree = ends, positions if case.window else None
    if case.prefixes:
        none = jnp.zeros((case.prefixes, PREFIX, case.kv_heads, 1))
        prefix = Prefix(none, none, jnp.asarray(case.prefix_mask()))
    q, k = (jnp.zeros((case.rows, case.tokens, n, 1)) for n in (case.heads, case.kv_heads))

    @jax.jit
    def arrays(q, k, segments, tree, prefix):
        options = Options(0.0)
        problem = prepare(q, k, k, options, case.causal, segments, tree, prefix, case.window)
        spans = jax.tree.map(lambda x: jnp.broadcast_to(x, (case.rows, case.tokens)), problem.spans)
        valid = jnp.ones((case.rows, case.tokens), bool) if problem.valid is None else problem.valid
        return spans, valid, problem.prefix_spans, None if prefix is None else prefix.mask

    return arrays(q, k, segments, tree, prefix)


def evaluate(case, arrays, backend, interpret=None):
    """Gives the result, and the gradients of q, k, v and of the prefix's k and v where there is one.

    Cases that differ in their masks alone share what is compiled.
    """
    name, platform, default = BACKENDS[backend]
    q, k, v, cotangents, *prefix = (jnp.asarray(x).astype(case.dtype) for x in arrays)
    scale = SIZE**-0.5 if case.scale is None else case.scale
    options = Options(scale, case.soft_cap, (16, 32), default if interpret is None else interpret)
    inputs = (q, k, v, *(prefix if case.prefixes else ()))
    return _evaluate(inputs, cotangents, problem_of(case), options, name, platform)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _evaluate(inputs, cotangents, masks, options, name, platform):
    spans, valid, prefix_spans, prefix_mask = masks

    def attend(q, k, v, *prefix):
        q, k, v = emptied((q, k, v), valid)
        if prefix:
            prefix = Prefix(*emptied(prefix, prefix_mask), prefix_mask)
        problem = Problem(q, k, v, spans, valid, prefix or None, prefix_spans, None, options, platform)
        return run(name, problem)

    o, pull = jax.vjp(attend, *inputs)
    return [o, *pull(cotangents)]


def visible(case):
    """Gives which keys each token sees, [B, T, S + T], one by one from the definitions."""
    rows, size, ids, parents = case.rows, case.tokens, case.ids(), case.parents()
    before = PREFIX if case.prefixes else 0
    mask = np.zeros((rows, size, before + size), bool)
    for b in range(rows):
        for t in range(size):
            if parents is not None:
                path = []
                u = t
                while u >= 0 and parents[b, u] > -2:
                    path.append(u)
                    u = parents[b, u]
            elif ids is not None and ids[b, t] < 0:
                path = []
            else:
                last = t if case.causal else size - 1
                path = [
                    u
                    for u in range(last, -1, -1)
                    if ids is None or (ids[b, min(t, u) : max(t, u) + 1] == ids[b, t]).all()
                ]
            kept = path if case.window is None else path[: case.window]
            mask[b, t, [before + u for u in kept]] = True
            if case.prefixes and path:
                there = np.flatnonzero(case.prefix_mask()[b // (rows // case.prefixes)])
                far = len(there) if case.window is None else max(0, case.window - len(path))
                mask[b, t, there[max(0, len(there) - far) :]] = True
    return mask


def oracle(case, arrays):
    """Gives what `evaluate` does, from the formulas, in float64."""
    q, k, v, w, *prefix = arrays
    mask, scale = visible(case), SIZE**-0.5 if case.scale is None else case.scale
    results = [np.zeros_like(x) for x in (q, q, k, v, *prefix)]
    o, d_q, d_k, d_v, d_pk, d_pv = results
    group, before = case.heads // case.kv_heads, PREFIX if case.prefixes else 0
    for b in range(case.rows):
        p = b // (case.rows // case.prefixes) if case.prefixes else 0
        for n in range(case.heads):
            keys, values = k[b, :, n // group], v[b, :, n // group]
            if before:
                keys, values = (
                    np.concatenate([x[p, :, n // group], y]) for x, y in zip(prefix, (keys, values), strict=True)
                )
            s, slope = q[b, :, n] @ keys.T * scale, 1.0
            if case.soft_cap:
                s, slope = case.soft_cap * np.tanh(s / case.soft_cap), 1 - np.tanh(s / case.soft_cap) ** 2
            e = np.where(mask[b], np.exp(s), 0)
            weights = e / np.maximum(e.sum(1, keepdims=True), 1e-300)
            o[b, :, n] = weights @ values
            d_p = w[b, :, n] @ values.T
            d_s = weights * (d_p - (weights * d_p).sum(1, keepdims=True)) * slope * scale
            d_q[b, :, n] = d_s @ keys
            both = d_s.T @ q[b, :, n], weights.T @ w[b, :, n]
            for own, shared, part in zip((d_k, d_v), (d_pk, d_pv), both, strict=True):
                own[b, :, n // group] += part[before:]
                if before:
                    shared[p, :, n // group] += part[:before]
    return results if case.prefixes else results[:4]


@functools.cache
def expected(name):
    """Gives the inputs of a case and what comes of them."""
    arrays = CASES[name].arrays()
    return arrays, oracle(CASES[name], arrays)


def star_row(prompt, branch, branches):
    """Gives the layout of one prompt with branches of one length, without padding."""
    return star_tree(jnp.array([prompt]), jnp.full((1, branches), branch), prompt + branch * branches)
