"""Counts of operations: by hand, by going through every token, and by XLA where no loop hides any from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models import Transformer
from jaxrl_tok.train import flops
from jaxrl_tok.train.tries import pack
from jaxrl_tok.types import Prompts, Rollouts
from tests import tiny

ARCH = tiny.architecture()  # vocab 37, layers 2, dim 32, heads 4, kv_heads 2, head_dim 8, ffw 48


def test_products_of_a_token_by_hand():
    # A layer: q and o 32 x 32, k and v 32 x 16, three of 32 x 48; two operations each.
    assert flops.per_token(ARCH) == 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)


def test_of_experts_those_that_a_token_takes_count_and_the_router():
    some = dataclasses.replace(ARCH, experts=6, experts_per_token=2)
    assert flops.per_token(some) == 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 2 * 3 * 32 * 48 + 32 * 6)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, 1), (0, 7), (2, 5), (3, 1), (9, 4)])
def test_keys_seen_are_those_of_every_token(start, count, window):
    each = [min(at + 1, window or at + 1) for at in range(start, start + count)]
    assert flops.seen(start, count, window) == sum(each)


def test_attention_by_hand():
    # Three tokens after two see 3 + 4 + 5 keys: a product of 8 for the score and one for the value, in 4 heads.
    assert flops.attention(ARCH, 2, 3) == 2 * 12 * 2 * 8 * 4 * 2


def test_tries_by_going_through_every_token():
    """A prompt of 2 and of it two completions of 3 that share their first token; a second prompt of 1 with one of 2."""
    tokens = np.array([[[3, 4, 5], [3, 6, 7]], [[3, 4, 0], [0, 0, 0]]], np.int32)
    mask = np.array([[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]]], bool)
    prompts = Prompts(np.array([[1, 2], [0, 1]], np.int32), np.array([2, 1], np.int32), np.arange(2, dtype=np.int32))
    zeros = np.zeros(mask.shape, np.float32)
    packed = pack(prompts, Rollouts(tokens, mask, mask[..., 0], zeros, zeros, np.ones((2, 2), np.float32)))
    sees = [1, 2, 3, 4, 5, 4, 5, 1, 2, 3]
    found = flops.tries(ARCH, packed)
    assert found.layers == len(sees) * flops.per_token(ARCH)
    assert found.attention == 2 * sum(sees) * 2 * 8 * 4 * 2
    assert found.head == 2 * 7 * 32 * 37
    sliding = dataclasses.replace(ARCH, window=2, sliding=(True, False))
    narrow = sum(min(2, n) for n in sees)
    assert flops.tries(sliding, packed).attention == (narrow + sum(sees)) * 2 * 8 * 4 * 2


def test_layers_with_a_window_see_less():
    sliding = dataclasses.replace(ARCH, window=2, sliding=(True, False))
    assert flops.attention(sliding, 0, 4) == 4 * 4 * 8 * ((1 + 2 + 2 + 2) + (1 + 2 + 3 + 4))


def test_a_prompt_is_counted_once_for_its_group():
    found = flops.forward(ARCH, prompts=3, group=2, prompt=4, completion=5, logits=30)
    assert found.layers == 3 * (4 + 2 * 5) * flops.per_token(ARCH)
    assert found.attention == 3 * (flops.attention(ARCH, 0, 4) + 2 * flops.attention(ARCH, 4, 5))
    assert found.head == 2 * 30 * 32 * 37
    assert found.total == found.layers + found.attention + found.head
    assert (found + found).total == 2 * found.total


@pytest.mark.parametrize(("remat", "again"), [("none", 0), ("dots", 10), ("full", 110)])
def test_an_update_is_three_passes_and_what_is_done_again(remat, again):
    passed = flops.Flops(layers=100, attention=10, head=1)
    assert flops.update(passed, remat) == 3 * 111 + again + 1


def _counted(f, *arguments):
    """XLA's own count."""
    return jax.jit(f).lower(*arguments).compile().cost_analysis()["flops"]


# Products outweigh the rest, which XLA counts too: norms, activations, masked attention.
WIDE = tiny.architecture(vocab=512, dim=256, heads=8, kv_heads=4, head_dim=32, ffw=1024, unroll=2)


def _passed(params, prompts, lengths, completions):
    model = Transformer(WIDE)
    found = model.forward(params, prompts, lengths, completions)
    return jnp.einsum("PGTD,VD->PGTV", found.completion, model.head(params)), found.prompt


def _shapes(prompts=2, group=2, prompt=8, completion=16):
    params = jax.eval_shape(lambda: tiny.weights(Transformer(WIDE)))
    whole = [(prompts, prompt), (prompts,), (prompts, group, completion)]
    return params, *(jax.ShapeDtypeStruct(shape, np.int32) for shape in whole)


def test_a_pass_is_what_xla_counts():
    mine = flops.forward(WIDE, prompts=2, group=2, prompt=8, completion=16, logits=2 * 2 * 16).total
    # 3 %: elementwise work, and scores that are masked.
    assert _counted(_passed, *_shapes()) == pytest.approx(mine, rel=0.03)


@pytest.mark.slow
def test_a_backward_pass_is_what_xla_counts():
    def loss(params, *arrays):
        logits, prompt = _passed(params, *arrays)
        return jnp.sum(logits**2) + jnp.sum(prompt**2)

    # Logits that are kept are not computed again.
    passed = flops.forward(WIDE, prompts=2, group=2, prompt=8, completion=16, logits=2 * 2 * 16)
    mine = flops.update(passed, "none") - passed.head
    assert _counted(jax.grad(loss), *_shapes()) == pytest.approx(mine, rel=0.03)
