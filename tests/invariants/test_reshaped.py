"""Laws of advantages that are reshaped or have a state: what ties them to others, or what they are at a limit."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import (
    dcpo_smooth,
    dr_grpo,
    entropy_shaping,
    grpo,
    hapo_group_average,
    laser,
    nthr,
    spear_replay,
    thr,
    ucas,
)
from jaxrl_tok.advantages.dcpo_smooth import init as init_table
from jaxrl_tok.advantages.spear_replay import init as init_ring
from tests.conformance.fields import assemble
from tests.invariants.laws import equal, over_seeds

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones


def test_reshaping_by_nothing_changes_nothing():
    """alpha = 0, weight = 0, no penalty and no exponents, and a hidden reward that neither scales nor masks."""

    def law(f):
        a, mask, valid = f["advantages"], f["mask"], f["valid"]
        statistics = f["target_logit"], f["sum_logits"], f["lse"]
        ours = [
            entropy_shaping(a, f["old_entropy"], mask, valid, alpha=0.0),
            laser(a, f["last_token_score"], f["finished"], mask, valid, weight=0.0),
            ucas(a, *statistics, mask, valid, vocab_size=6, positive=0.0, negative=0.0, penalty=0.0),
            thr(a, f["rewards"], f["hidden"], f["token_errors"], mask, valid, p=0.0),
        ]
        return ours, [jnp.where(mask, a, 0)] * 4

    equal(law, assemble)


def test_entropy_shaping_keeps_signs_and_only_adds():
    def law(f):
        a = jnp.where(f["mask"], f["advantages"], 0)
        return a, entropy_shaping(a, f["old_entropy"], f["mask"], f["valid"])

    before, after = over_seeds(law, assemble)
    assert (np.sign(before) == np.sign(after)).all()
    assert (after >= before).all() and (after > before).any()


def test_thr_with_both_signs_of_p_averages_to_the_advantage():
    def law(f):
        arrays = f["advantages"], f["rewards"], f["hidden"], f["token_errors"], f["mask"], f["valid"]
        mean = (thr(*arrays, p=0.2) + thr(*arrays, p=-0.2)) / 2
        return mean, jnp.where(f["mask"], f["advantages"], 0)

    equal(law, assemble)


def test_nthr_only_ever_spares():
    def law(f):
        arrays = f["advantages"], f["rewards"], f["hidden"], f["token_errors"], f["mask"], f["valid"]
        return nthr(*arrays), jnp.where(f["mask"], f["advantages"], 0), f["rewards"] > 0.5

    after, before, correct = (np.asarray(x) for x in over_seeds(law, assemble))
    assert (np.abs(after) <= np.abs(before) + 1e-7).all() and (np.abs(after) < np.abs(before)).any()
    np.testing.assert_array_equal(after[correct], before[correct])


def test_the_first_visit_of_dcpo_is_grpo_without_eps():
    def law(f):
        ours, _ = dcpo_smooth(init_table(num_prompts=4), f["rewards"], f["prompt_ids"], f["mask"], f["valid"])
        return ours, grpo(f["rewards"], f["mask"], f["valid"], eps=0.0)

    equal(law, assemble)


def test_a_group_that_comes_again_with_the_same_rewards_keeps_its_advantage():
    def law(f):
        arrays = f["rewards"], f["prompt_ids"], f["mask"], f["valid"]
        first, state = dcpo_smooth(init_table(num_prompts=4), *arrays)
        return first, dcpo_smooth(state, *arrays)[0]

    equal(law, assemble)


def test_hapo_of_rows_of_one_length_is_grpo_up_to_the_std():
    def law(f):
        mask = jnp.ones_like(f["mask"]) & f["valid"][:, :, None]
        n = jnp.sum(f["valid"], axis=1, dtype=jnp.float32)[:, None, None]
        ours = hapo_group_average(f["rewards"], mask, f["valid"], eps=0.0)
        return ours, grpo(f["rewards"], mask, f["valid"], eps=0.0) * jnp.sqrt(n / jnp.maximum(n - 1, 1))

    equal(law, assemble)


def test_hapos_tokens_have_mean_zero_and_spread_one():
    def law(f):
        a = hapo_group_average(f["rewards"], f["mask"], f["valid"], eps=0.0, limit=jnp.inf)
        n = jnp.maximum(jnp.sum(f["mask"], axis=(1, 2), dtype=jnp.float32), 1)
        square = jnp.sum(a**2, axis=(1, 2)) / n
        return jnp.sum(a, axis=(1, 2)) / n, jnp.where(square > 0, square, 1)

    mean, square = over_seeds(law, assemble)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(square, 1, rtol=1e-4)


def test_spear_on_the_only_group_in_its_ring_is_dr_grpo():
    def law(f):
        one = [f[name][:1] for name in ("rewards", "mask", "valid")]
        return spear_replay(init_ring(size=1), *one, positive_only=False)[0], dr_grpo(*one)

    equal(law, assemble)


def test_certain_mistakes_are_blamed_more_and_certain_answers_praised_less():
    """UCAS without its token term scales an advantage of one sign only by the completion's certainty."""

    def law(f):
        statistics = f["target_logit"], f["sum_logits"], f["lse"]
        shape = functools.partial(ucas, vocab_size=6, penalty=0.0)
        ones = jnp.ones_like(f["advantages"])
        up = shape(ones, *statistics, f["mask"], f["valid"])
        down = shape(-ones, *statistics, f["mask"], f["valid"])
        # exp(-0.25 z) and exp(0.35 z): their logs are in the ratio -0.25 to 0.35.
        z = [jnp.where(f["mask"], jnp.log(jnp.abs(jnp.where(f["mask"], x, 1))), 0) for x in (up, down)]
        return z[0] / -0.25, z[1] / 0.35

    equal(law, assemble, rtol=1e-4, atol=1e-5)
