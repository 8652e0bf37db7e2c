"""Laws that tie ratios, clips, losses and reductions together, or say what they are at a limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import archer, asymmetric, dcpo, entropy_scaled
from jaxrl_tok.losses import (
    archer_kl,
    cispo,
    clip_cov,
    functional_anchor,
    gmpo,
    kl,
    kl_cov,
    laser_mse,
    lp_reg,
    ppo_clip,
    return_decomposition,
    sapo,
)
from jaxrl_tok.losses.clip_cov import prepare as prepare_clip_cov
from jaxrl_tok.losses.kl_cov import prepare as prepare_kl_cov
from jaxrl_tok.losses.laser_mse import prepare as prepare_laser
from jaxrl_tok.losses.lp_reg import prepare as prepare_lp_reg
from jaxrl_tok.ratios import hybrid, segment, sequence, token
from jaxrl_tok.reductions import constant_length, row_mean, sequence_mean_token_mean, token_mean
from tests.invariants.laws import equal, over_seeds

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones


def surrogate(f, log_ratio, bounds, loss=ppo_clip, mask=None):
    mask = f["mask"] if mask is None else mask
    return loss(log_ratio, *bounds, f["advantages"], f["token_weights"], mask)


def value_and_grad(f, losses):
    """Per-token losses of the log-probs, and their gradient under fixed weights."""
    weights = jnp.linspace(0.5, 1.5, f["mask"].size).reshape(f["mask"].shape)
    return losses(f["logprobs"]), jax.grad(lambda x: jnp.sum(losses(x) * weights))(f["logprobs"])


def grad_of(f, losses):
    return value_and_grad(f, losses)[1]


def first_token(f):
    """The same fields with one trained token in a row, if it had any."""
    return f | {"mask": f["mask"] & (jnp.arange(f["mask"].shape[1])[None] == 0)}


def per_row(f):
    """Advantages that are the same at all tokens of a row."""
    return f | {"advantages": jnp.broadcast_to(f["advantages"][:, :1], f["mask"].shape)}


def test_gspo_of_one_token_is_ppo():
    def law(f):
        f = first_token(f)
        forms = [
            lambda x, r=r: surrogate(f, r(x, f["old_logprobs"], f["mask"]), (f["low"], f["high"]))
            for r in (sequence, token)
        ]
        return value_and_grad(f, forms[0]), value_and_grad(f, forms[1])

    equal(law)


def test_one_segment_is_gspo_and_a_segment_a_token_is_ppo():
    def law(f):
        whole = jnp.zeros_like(f["segment_ids"])
        each = jnp.broadcast_to(jnp.arange(whole.shape[1], dtype=whole.dtype)[None], whole.shape)
        arrays = f["logprobs"], f["old_logprobs"]
        ours = segment(*arrays, whole, f["mask"]), segment(*arrays, each, f["mask"])
        return ours, (sequence(*arrays, f["mask"]), token(*arrays, f["mask"]))

    equal(law)


def test_token_and_mean_gradient_agree_where_the_advantage_is_one_for_the_row():
    def law(f):
        f = per_row(f)

        def loss(x, gradient):
            log_ratio = sequence(x, f["old_logprobs"], f["mask"], gradient=gradient)
            losses = ppo_clip(log_ratio, *asymmetric(f["mask"]), f["advantages"], jnp.ones_like(x), f["mask"])
            return sequence_mean_token_mean(losses, f["mask"]).value()

        return [jax.grad(loss)(f["logprobs"], kind) for kind in ("token", "mean")]

    equal(law)


def test_hybrid_is_grpo_at_weight_one_and_gspo_at_weight_zero():
    def law(f):
        arrays = f["logprobs"], f["old_logprobs"]
        open_ = asymmetric(f["mask"], low=0.0, high=jnp.inf)

        def mixed(x, weight):
            return surrogate(f, hybrid(x, arrays[1], f["advantages"], f["mask"], weight=weight), open_)

        def plain(x, ratio, **bounds):
            return surrogate(f, ratio(x, arrays[1], f["mask"]), asymmetric(f["mask"], **bounds))

        ours = [value_and_grad(f, functools.partial(mixed, weight=w)) for w in (1.0, 0.0)]
        theirs = [
            value_and_grad(f, functools.partial(plain, ratio=token)),
            value_and_grad(f, functools.partial(plain, ratio=sequence, low=0.9997, high=1.0004)),
        ]
        return ours, theirs

    equal(law, rtol=1e-4, atol=1e-5)


def test_hybrid_lies_between_its_branches():
    def law(f):
        ends = [hybrid(f["logprobs"], f["old_logprobs"], f["advantages"], f["mask"], weight=w) for w in (0.0, 1.0)]
        mixed = hybrid(f["logprobs"], f["old_logprobs"], f["advantages"], f["mask"], f["entropy"], mixing="entropy")
        return mixed, jnp.minimum(*ends), jnp.maximum(*ends)

    mixed, low, high = over_seeds(law)
    assert (mixed >= low - 1e-5).all() and (mixed <= high + 1e-5).all() and np.any(np.asarray(low) < np.asarray(high))


def test_archer_with_quantile_one_is_ppo_with_kl():
    def law(f):
        ratio = f["log_ratio"]
        ours = surrogate(f, ratio, archer(f["old_entropy"], f["mask"], quantile=1.0))
        theirs = surrogate(f, ratio, asymmetric(f["mask"]))
        drawn = archer_kl(f["logprobs"], f["ref_logprobs"], f["old_entropy"], f["mask"], quantile=1.0)
        return (ours, drawn), (theirs, kl(f["logprobs"], f["ref_logprobs"], f["mask"], clamp=True))

    equal(law)


def test_constant_entropy_makes_archer_and_entropy_scaled_asymmetric():
    def law(f):
        flat = jnp.full_like(f["old_entropy"], 0.7)
        plain = asymmetric(f["mask"])
        return (archer(flat, f["mask"]), entropy_scaled(flat, f["segment_ids"], f["mask"])), (plain, plain)

    equal(law)


def test_dcpo_bounds_are_where_the_weighted_distance_is_epsilon():
    """(high - 1) high q = epsilon_high below the cap, (1 - low) low q = epsilon_low above its floor."""

    def law(f):
        low, high = dcpo(f["old_logprobs"], f["mask"])
        q = jnp.exp(f["old_logprobs"])
        inside = f["mask"] & (high < 10) & (low > 0.5)
        return jnp.stack([jnp.where(inside, (high - 1) * high * q, 0.28), jnp.where(inside, (1 - low) * low * q, 0.2)])

    result = over_seeds(law)
    np.testing.assert_allclose(result[:, 0], 0.28, rtol=1e-4)
    np.testing.assert_allclose(result[:, 1], 0.2, rtol=1e-4)


def test_dcpo_widens_as_the_token_gets_unlikely():
    logprobs = jnp.linspace(-12.0, 0.0, 64)[None]
    low, high = dcpo(logprobs, jnp.ones((1, 64), bool))
    assert (np.diff(low[0]) >= 0).all() and (np.diff(high[0]) <= 0).all()


def test_at_the_old_policy_every_policy_loss_has_ppos_gradient():
    """-w A; GMPO's is shared among the row, and averages the advantages."""

    def law(f):
        f = per_row(f) | {"old_logprobs": f["logprobs"], "token_weights": jnp.ones_like(f["logprobs"])}
        none, mask, bounds = jnp.zeros_like(f["mask"]), f["mask"], (f["low"], f["high"])
        rest = f["advantages"], f["token_weights"]
        n = jnp.sum(mask, axis=1, dtype=jnp.float32)[:, None]

        def of(x):
            r = token(x, f["old_logprobs"], mask)
            return {
                "cispo": cispo(x, r, *bounds, *rest, mask),
                "sapo": sapo(r, *rest, mask),
                "clip_cov": clip_cov(r, *bounds, *rest, none, mask),
                "kl_cov": kl_cov(r, *rest, mask, mask),
                "lp_reg": lp_reg(x, r, *bounds, x, *rest, mask, mask),
                "gspo": surrogate(f, sequence(x, f["old_logprobs"], mask), bounds),
                "dcpo": surrogate(f, r, dcpo(f["old_logprobs"], mask)),
                "hybrid": surrogate(f, hybrid(x, f["old_logprobs"], f["advantages"], mask), bounds),
            }

        grads = {name: jax.grad(lambda x, name=name: jnp.sum(of(x)[name]))(f["logprobs"]) for name in of(f["logprobs"])}
        shared = jax.grad(lambda x: jnp.sum(gmpo(token(x, f["old_logprobs"], mask), *bounds, *rest, mask)))(
            f["logprobs"]
        )
        expected = jnp.where(mask, -f["advantages"], 0)
        # The mixture's second half is a mean over one token's log-prob, with GSPO-token's gradient: also -A.
        return (grads, shared * jnp.where(n > 0, 1, 0)), ({name: expected for name in grads}, expected)

    equal(law, rtol=1e-4, atol=1e-5)


def test_gmpo_of_one_token_is_ppo():
    def law(f):
        f = first_token(f)
        forms = [lambda x, loss=loss: surrogate(f, x, (f["low"], f["high"]), loss) for loss in (gmpo, ppo_clip)]
        return forms[0](f["log_ratio"]), forms[1](f["log_ratio"])

    equal(law)


def test_cispo_without_a_cap_has_the_gradient_of_the_free_surrogate():
    def law(f):
        open_ = jnp.zeros_like(f["low"]), jnp.full_like(f["high"], jnp.inf)
        rest = f["advantages"], f["token_weights"], f["mask"]
        ours = grad_of(f, lambda x: cispo(x, token(x, f["old_logprobs"], f["mask"]), *open_, *rest))
        theirs = grad_of(f, lambda x: ppo_clip(token(x, f["old_logprobs"], f["mask"]), *open_, *rest))
        return ours, theirs

    equal(law)


def test_a_lower_bound_of_zero_makes_both_caps_of_cispo_one():
    def law(f):
        arrays = f["logprobs"], f["log_ratio"], jnp.zeros_like(f["low"]), f["high"], f["advantages"], f["token_weights"]
        return cispo(*arrays, f["mask"], cap="both"), cispo(*arrays, f["mask"], cap="upper")

    equal(law)


def test_sapo_with_a_small_tau_has_the_gradient_of_the_free_surrogate():
    def law(f):
        open_ = jnp.zeros_like(f["low"]), jnp.full_like(f["high"], jnp.inf)
        arrays = f["advantages"], f["token_weights"], f["mask"]
        ours = jax.grad(lambda x: jnp.sum(sapo(x, *arrays, tau_positive=1e-2, tau_negative=1e-2)))(f["log_ratio"])
        return ours, jax.grad(lambda x: jnp.sum(ppo_clip(x, *open_, *arrays)))(f["log_ratio"])

    equal(law, rtol=2e-3)


def test_nothing_chosen_leaves_ppo_and_the_free_surrogate():
    """Clip-Cov without candidates, Lp-Reg and KL-Cov without a fraction or a coefficient."""

    def law(f):
        rows, mask = (f["log_ratio"], f["low"], f["high"], f["advantages"], f["token_weights"]), f["mask"]
        none = prepare_clip_cov(f["logprobs"], *rows[:4], f["priority"], mask, cov_low=jnp.inf, cov_high=jnp.inf)
        few = prepare_lp_reg(f["logprobs"], f["advantages"], mask, fraction=0.0)
        some = prepare_kl_cov(f["logprobs"], f["advantages"], mask, fraction=0.5)
        open_ = jnp.zeros_like(f["low"]), jnp.full_like(f["high"], jnp.inf)
        ours = [
            clip_cov(*rows, none, mask),
            lp_reg(f["logprobs"], *rows[:3], f["proxy_logprobs"], *rows[3:], few, mask),
            kl_cov(rows[0], *rows[3:], some, mask, coefficient=0.0),
        ]
        return ours, [ppo_clip(*rows, mask), ppo_clip(*rows, mask), ppo_clip(rows[0], *open_, *rows[3:], mask)]

    equal(law)


@pytest.mark.parametrize("prepare", [prepare_kl_cov, prepare_lp_reg, prepare_clip_cov])
def test_a_choice_is_over_the_batch_whatever_the_order_of_its_rows(prepare):
    def law(f):
        names = ("logprobs", "log_ratio", "low", "high", "advantages", "priority", "mask")
        names = names if prepare is prepare_clip_cov else ("logprobs", "advantages", "mask")
        options = {"cov_low": 0.0} if prepare is prepare_clip_cov else {}
        order = jnp.arange(f["mask"].shape[0])[::-1]
        choose = functools.partial(prepare, fraction=0.3, **options)
        return choose(*(f[name] for name in names))[order], choose(*(f[name][order] for name in names))

    equal(law)


def test_every_token_functional_makes_the_anchor_ppo():
    def law(f):
        rows = f["log_ratio"], f["low"], f["high"], f["advantages"], f["token_weights"]
        return functional_anchor(*rows, jnp.ones_like(f["mask"]), f["mask"]), ppo_clip(*rows, f["mask"])

    equal(law)


def test_bias_correction_of_kl_does_nothing_to_the_value_at_the_old_policy():
    def law(f):
        arrays = f["logprobs"], f["ref_logprobs"], f["mask"]
        return kl(*arrays, jnp.zeros_like(f["logprobs"]), bias_corrected=True), kl(*arrays)

    equal(law)


def test_balanced_classes_weigh_as_much_as_each_other():
    """The weights of a class add up to half of the finished completions."""

    def law(f):
        weights = prepare_laser(f["rewards"], f["finished"], f["valid"])
        right = f["rewards"] > 0.5
        return jnp.sum(jnp.where(right, weights, 0)), jnp.sum(jnp.where(right, 0, weights))

    equal(law)


def test_laser_loss_does_not_depend_on_the_split_into_microbatches():
    def law(f):
        rows = (
            f["last_token_score"],
            f["rewards"],
            f["finished"],
            prepare_laser(f["rewards"], f["finished"], f["valid"]),
        )
        parts = [row_mean(laser_mse(*(x[i::2] for x in rows), f["valid"][i::2]), f["valid"][i::2]) for i in (0, 1)]
        return (parts[0] + parts[1]).value(), row_mean(laser_mse(*rows, f["valid"]), f["valid"]).value()

    equal(law)


def test_a_proxy_that_shares_the_outcome_has_no_error():
    def law(f):
        n = jnp.maximum(jnp.sum(f["mask"], axis=1, dtype=jnp.float32), 1)
        shared = jnp.broadcast_to((f["rewards"] / n)[:, None], f["mask"].shape)
        off = jnp.where(f["mask"], shared + 0.25, 0)
        losses = return_decomposition(off, f["rewards"], f["mask"])
        exact = return_decomposition(shared, f["rewards"], f["mask"])
        return losses + exact, jnp.where(jnp.any(f["mask"], axis=1), 0.0625, 0)

    equal(law)


def test_reductions_agree_where_all_rows_have_the_constant_length():
    def law(f):
        mask = jnp.ones_like(f["mask"])
        means = [r(f["loss"], mask).value() for r in (token_mean, sequence_mean_token_mean, constant_length)]
        summed = constant_length(f["loss"], mask, rows="none").value() / mask.shape[0]
        return means, [summed] * 3

    equal(law)


def test_rows_all_scales_by_the_share_of_rows_with_a_token():
    def law(f):
        share = jnp.mean(jnp.any(f["mask"], axis=1), dtype=jnp.float32)
        reductions = sequence_mean_token_mean, constant_length
        trained = [share * r(f["loss"], f["mask"]).value() for r in reductions]
        return trained, [r(f["loss"], f["mask"], rows="all").value() for r in reductions]

    equal(law)
