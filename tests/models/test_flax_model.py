"""Modules that are not ours: scored, sampled and trained as they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.models import Model, params
from jaxrl_tok.models.flax_model import from_linen, from_nnx
from jaxrl_tok.models.row_model import layout
from jaxrl_tok.rollouts.extend import Engine, extend, fork, from_prompts
from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.train.score import distances, score
from jaxrl_tok.train.step import train_step
from jaxrl_tok.types import TrainState
from tests import tiny
from tests.helpers import need
from tests.train import cases

need("flax")

from flax import nnx  # noqa: E402

from tests.models.their_transformer import Decoder, LinenDecoder  # noqa: E402

VOCAB, SIZE, LIMIT = 37, 5, 6
LINEN = LinenDecoder(VOCAB)


def decoder():
    return Decoder(VOCAB, rngs=nnx.Rngs(0))


def hidden(module, tokens, positions, seen):
    return module(tokens, positions, seen)[0]


def logits(module, tokens, positions, seen):
    return module.logits(tokens, positions, seen)


def embedding(module):
    return module.embed.embedding


def init_cache(rows, length):
    return [(jnp.zeros((rows, length, 2, 8)), jnp.zeros((rows, length, 2, 8))) for _ in range(2)]


def decode_step(module, tokens, positions, start, seen, cache):
    return module(tokens, positions, seen, list(cache), start)


def linen_variables():
    tokens = jnp.zeros((1, 2), jnp.int32)
    return LINEN.init(jax.random.key(0), tokens, *layout(jnp.array([2]), 2, 2))


MAKE = {
    "nnx": lambda: from_nnx(decoder(), call=hidden, head=embedding),
    "nnx, made later": lambda: from_nnx(decoder, call=hidden, head=embedding),
    "nnx, cached": lambda: from_nnx(
        decoder(), call=hidden, head=embedding, init_cache=init_cache, decode_step=decode_step
    ),
    "nnx, logits": lambda: from_nnx(decoder(), call=logits),
    "linen": lambda: from_linen(LINEN, linen_variables(), head=lambda p: p["embed"]["embedding"]),
    "linen, made later": lambda: from_linen(LINEN, linen_variables, head=lambda p: p["embed"]["embedding"]),
}
SAMPLED = ("nnx", "nnx, cached", "nnx, logits", "linen")


def all_but(names, *quick):
    """All these, and those marked as slow that the quick suite leaves out."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in names]


@functools.cache
def made(kind):
    model, given = MAKE[kind]()
    assert callable(given) == kind.endswith("later")
    weights = jax.jit(given)() if callable(given) else given
    # Logits of some size, so that distributions differ.
    return model, jax.tree.map(lambda w: 2 * w if w.ndim > 1 else w, weights)


def own_logits(kind, text):
    """The module's logits after each token of one text without padding, in float64."""
    place = jnp.arange(len(text), dtype=jnp.int32)
    arrays = jnp.asarray(text)[None], place[None], (place[None] <= place[:, None])[None]
    _, weights = made(kind)
    if kind.startswith("linen"):
        states = LINEN.apply({"params": weights, "tables": linen_variables()["tables"]}, *arrays)
        found = states @ weights["embed"]["embedding"].T
    else:
        module = decoder()
        nnx.update(module, weights)
        module.eval()
        found = module.logits(*arrays)
    return np.asarray(found[0], np.float64)


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def texts(prompts, tokens):
    """Each completion behind its prompt, without padding, and where it begins."""
    for p, g in np.ndindex(tokens.shape[:2]):
        length = int(prompts.lengths[p])
        yield (p, g), np.concatenate([prompts.tokens[p, SIZE - length :], tokens[p, g]]), length


@functools.cache
def scoring(kind, *statistics):
    model, _ = made(kind)
    return jax.jit(functools.partial(score, model=model, statistics=statistics))


@pytest.mark.parametrize("kind", all_but(MAKE, "linen"))
def test_logprobs_are_those_of_the_modules_own_logits(kind):
    model, weights = made(kind)
    assert isinstance(model, Model) and model.vocab == VOCAB and hash(model) == hash(model)
    prompts, fields = tiny.prompts(2, SIZE), cases.fields()
    tokens, mask = np.array(fields["tokens"][:2, :2]), np.array(fields["mask"][:2, :2])
    heat = jnp.full((2, 2), 0.7, jnp.float32)
    arrays = {"prompts": prompts, "tokens": jnp.asarray(tokens), "mask": jnp.asarray(mask), "temperature": heat}
    got = scoring(kind)(weights, **arrays)
    for at, text, length in texts(prompts, tokens):
        z = log_softmax(own_logits(kind, text)[length - 1 : -1] / 0.7)
        chosen = z[np.arange(len(tokens[at])), tokens[at]]
        np.testing.assert_allclose(got.logprobs[at], np.where(mask[at], chosen, 0), rtol=1e-4, atol=1e-5)
        entropy = -(np.exp(z) * z).sum(axis=-1)
        np.testing.assert_allclose(got.entropy[at], np.where(mask[at], entropy, 0), rtol=1e-4, atol=1e-5)


@functools.cache
def rollouts(kind, temperature=0.0, top_k=0):
    """Completions of two prompts, three of each, in two slots: slots change from one prompt to another."""
    model, weights = made(kind)
    prompts, asked = tiny.prompts(2, SIZE), tiny.sampling((2, 3), LIMIT, temperature, top_k=top_k)

    @jax.jit
    def run(weights):
        keys = request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), prompts.ids, jnp.arange(3))
        return generate(weights, model, prompts, keys, asked, max_tokens=LIMIT, end_ids=(2,), slots=2)[0]

    return prompts, jax.device_get(run(weights))


@pytest.mark.parametrize("kind", all_but(SAMPLED, "nnx, logits"))
def test_greedy_rollouts_are_the_modules_largest_logits(kind):
    prompts, found = rollouts(kind)
    for at, text, length in texts(prompts, found.tokens):
        z = own_logits(kind, text)[length - 1 : -1]
        kept = found.mask[at]
        assert kept.any()
        np.testing.assert_array_equal(found.tokens[at][kept], z.argmax(axis=-1)[kept])


@pytest.mark.parametrize("kind", ("nnx, cached", "nnx, logits"))
def test_what_is_sampled_is_scored_alike_with_a_filter(kind):
    model, weights = made(kind)
    prompts, found = rollouts(kind, temperature=0.8, top_k=5)
    arrays = jax.tree.map(jnp.asarray, (found.tokens, found.mask, found.temperature, found.keep_thresholds))
    got = jax.jit(functools.partial(score, model=model))(
        weights, prompts=prompts, **dict(zip(("tokens", "mask", "temperature", "keep_thresholds"), arrays, strict=True))
    )
    assert np.all(found.sampler_logprobs[found.mask] < 0)
    np.testing.assert_allclose(got.logprobs, np.where(found.mask, found.sampler_logprobs, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", all_but(("nnx", "nnx, cached"), "nnx, cached"))
def test_a_fork_goes_on_as_its_parent_did(kind):
    """Over rows with holes: what a fork does not see of its parent lies between the two."""
    model, weights = made(kind)

    @jax.jit
    def run(prompts):
        engine = Engine.read(weights, model, prompts, max_tokens=LIMIT, end_ids=(), slots=8)
        keys = request_keys(jnp.uint32(1), jnp.int32(0), jnp.int32(0), prompts.ids, jnp.arange(1))[:, 0]
        prompt_of = jnp.arange(2, dtype=jnp.int32)
        requests = from_prompts(engine, prompt_of, keys, tiny.sampling((2,), LIMIT))
        whole = extend(engine, requests, LIMIT, keep=True)
        row, kept = jnp.divmod(jnp.arange(8, dtype=jnp.int32), 4)
        forks = extend(engine, fork(requests, whole, row, kept, jnp.zeros_like(row)), LIMIT)
        return whole.tokens, whole.logprobs, forks.tokens, forks.logprobs

    tokens, logprobs, again, again_logprobs = jax.device_get(run(tiny.prompts(2, SIZE)))
    for i, (row, kept) in enumerate(np.ndindex(2, 4)):
        np.testing.assert_array_equal(again[i, : LIMIT - kept], tokens[row, kept:])
        np.testing.assert_allclose(again_logprobs[i, : LIMIT - kept], logprobs[row, kept:], rtol=1e-4, atol=1e-5)


def test_logits_give_the_same_statistics_and_distances_as_hidden_states():
    (head, weights), (plain, _) = made("nnx"), made("nnx, logits")
    other = jax.tree.map(lambda w: 1.1 * w, weights)
    prompts, fields = tiny.prompts(2, SIZE), cases.fields()
    arrays = prompts, fields["tokens"][:2, :2], fields["mask"][:2, :2], jnp.full((2, 2), 0.7, jnp.float32)
    names = ("lse", "max_logit", "proxy_logprobs", "sum_logits", "sum_p2", "target_logit")
    keys = ("prompts", "tokens", "mask", "temperature")
    a, b = (scoring(k, *names)(weights, **dict(zip(keys, arrays, strict=True))) for k in ("nnx", "nnx, logits"))
    for name in names:
        np.testing.assert_allclose(b.statistics[name], a.statistics[name], rtol=1e-4, atol=1e-5, err_msg=name)
    kinds = ("hellinger", "kl_to_ref", "js_to_ref")
    far = [
        jax.jit(lambda p, r, m=m: distances(p, r, m, m, *arrays, kinds=kinds))(weights, other) for m in (head, plain)
    ]
    for name in kinds:
        assert np.max(far[0][name]) > 1e-3
        np.testing.assert_allclose(far[1][name], far[0][name], rtol=1e-3, atol=1e-5, err_msg=name)


@functools.cache
def step(kind, name):
    model, weights = made(kind)
    adam = optax.adam(3e-3)
    run = jax.jit(
        functools.partial(
            train_step, recipe=cases.recipe(name), model=model, optimizer=adam, rate=optax.constant_schedule(3e-3)
        )
    )
    return run, TrainState(weights, adam.init(weights), jnp.int32(0), None, {})


# optax is not written for strict promotion.
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("kind", all_but(("nnx", "linen"), "nnx"))
def test_twenty_steps_on_answers_lower_the_loss(kind):
    run, state = step(kind, "sft")
    batch, losses = cases.batch("sft", temperature=1.0), []
    for _ in range(20):
        state, metrics = run(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("kind", all_but(("nnx", "nnx, logits"), "nnx"))
def test_a_grpo_step_changes_every_parameter_and_is_finite(kind):
    run, state = step(kind, "grpo")
    after, metrics = run(state, cases.batch("grpo"))
    assert np.isfinite(metrics["loss"]) and 0 < metrics["grad_norm"] < np.inf
    for path, change in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params, state.params)
    ):
        assert np.isfinite(change) and change > 0, path


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.slow
def test_logits_give_the_same_update_as_hidden_states():
    after = [step(kind, "grpo")[0](step(kind, "grpo")[1], cases.batch("grpo"))[1] for kind in ("nnx", "nnx, logits")]
    for name in ("loss", "grad_norm", "entropy"):
        np.testing.assert_allclose(after[1][name], after[0][name], rtol=1e-4, atol=1e-6)


def test_specs_follow_the_parameters_and_axes_go_by_patterns():
    axes = {"blocks.0.up.kernel": (None, "ffw"), "blocks.*.up.kernel": ("embed", "ffw"), "embed.*": ("vocab", None)}
    model, weights = from_nnx(decoder(), call=hidden, head=embedding, axes=axes)
    specs = model.specs()
    jax.tree.map(lambda a, w: np.testing.assert_equal(a.shape, w.shape), params.abstract(specs), weights)
    assert [specs["blocks"][i]["up"]["kernel"].axes for i in (0, 1)] == [(None, "ffw"), ("embed", "ffw")]
    assert specs["embed"]["embedding"].axes == ("vocab", None)
    assert specs["norm"]["scale"].axes == (None,)
    decay = params.decay_mask(specs)
    assert decay["embed"]["embedding"] and decay["blocks"][1]["down"]["kernel"]
    assert not decay["norm"]["scale"] and not decay["blocks"][1]["down"]["bias"]


def test_models_of_the_same_functions_are_equal_where_they_hold_no_arrays():
    make = functools.partial(nnx.Embed, 5, 4)

    def call(module, tokens, positions, seen):
        return module(tokens)

    one, other = (from_nnx(make(rngs=nnx.Rngs(seed)), call=call, head=embedding_itself)[0] for seed in (0, 1))
    assert one == other and hash(one) == hash(other)
    assert one != from_nnx(make(rngs=nnx.Rngs(0)), call=call, head=embedding_itself, logit_cap=5.0)[0]
    assert made("nnx")[0] != made("nnx, cached")[0]


def embedding_itself(module):
    return module.embedding


class Unhashable(Decoder):
    def __init__(self):
        super().__init__(VOCAB, rngs=nnx.Rngs(0))
        self.settings = {"a": 1}


class Whole(Decoder):
    def __init__(self):
        super().__init__(VOCAB, rngs=nnx.Rngs(0))
        self.count = nnx.Param(jnp.zeros(3, jnp.int32))


MISTAKES = [
    ({}, r"call gives a tuple for tokens i32\[2, 3\]; expected floating point \[R, L, V\], logits"),
    ({"call": lambda m, t, p, s: t}, r"call gives int32\[2, 3\]"),
    ({"call": hidden, "head": lambda m: m.embed.embedding[...].T}, r"head gives float32\[16, 37\]; expected \[V, D\]"),
    ({"call": hidden, "head": embedding, "axes": {"embed.embeding": (None, None)}}, "did you mean 'embed.embedding'"),
    ({"call": hidden, "head": embedding, "axes": {"embed.*": ("vocab",)}}, "expected 2 axes"),
    ({"call": hidden, "head": embedding, "init_cache": init_cache}, "decode_step is missing"),
]


@pytest.mark.parametrize(("options", "line"), MISTAKES)
def test_mistakes_are_one_clear_line(options, line):
    with pytest.raises(ConfigError, match=line) as error:
        from_nnx(decoder, **options)
    assert "\n" not in str(error.value)


def test_what_cannot_be_a_model_is_refused():
    with pytest.raises(ConfigError, match=r"parameter count is int32; expected floating point"):
        from_nnx(Whole(), call=hidden, head=embedding)
    with pytest.raises(ConfigError, match=r"cannot be hashed \(unhashable type: 'dict'\)"):
        from_nnx(Unhashable(), call=hidden, head=embedding)
    with pytest.raises(ConfigError, match="variables have tables; expected the collection 'params'"):
        from_linen(LINEN, {"tables": {}})
