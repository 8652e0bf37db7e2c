import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.train.assemble import assemble
from tests import tiny
from tests.train import cases


def test_a_filter_takes_its_groups_out_of_mask_and_valid():
    fields = cases.fields()
    batch = cases.batch("dapo")
    rewards, valid = np.asarray(fields["rewards"]), np.asarray(fields["valid"])
    keeps = [len(set(r[ok])) > 1 for r, ok in zip(rewards, valid, strict=True)]
    assert 0 < sum(keeps) < len(keeps)
    np.testing.assert_array_equal(batch.fields["valid"], valid & np.array(keeps)[:, None])
    np.testing.assert_array_equal(
        batch.fields["mask"], np.asarray(fields["mask"]) & np.asarray(batch.fields["valid"])[..., None]
    )


def test_advantages_are_of_the_valid_samples_only():
    fields, batch = cases.fields(), cases.batch("dr_grpo")
    rewards, valid = np.asarray(fields["rewards"]), np.asarray(fields["valid"])
    for p in range(cases.PROMPTS):
        mean = rewards[p][valid[p]].mean()
        for g in range(cases.GROUP):
            expected = np.where(batch.fields["mask"][p, g], rewards[p, g] - mean, 0)
            np.testing.assert_allclose(batch.fields["advantages"][p, g], expected, atol=1e-6)


def test_without_a_token_weight_every_trained_token_counts_once():
    batch = cases.batch("grpo")
    np.testing.assert_array_equal(batch.fields["token_weights"], np.asarray(batch.fields["mask"], np.float32))


def test_the_step_gets_what_it_reads_and_no_more():
    batch = cases.batch("grpo")
    assert "ref_logprobs" not in batch.fields and "rewards" not in batch.fields
    assert "ref_logprobs" in cases.batch("grpo_kl").fields
    assert batch.fields["advantages"].dtype == jnp.float32


def test_the_next_batch_is_sampled_by_the_entropies_of_this_one():
    """Of all of its tokens, also of those that train nothing: here the groups without a difference and the invalid."""
    have, built = cases.fields(), cases.recipe("hapo")
    mask = np.asarray(have["mask"])
    entropy = np.where(mask, np.asarray(have["sampler_entropy"]), np.nan)
    # The extremes are a completion's without a reward, and one's of a group without a difference.
    entropy[(*np.argwhere(~np.asarray(have["valid"]))[0], 0)], entropy[0, 0, 0] = 2.0, 1e-4
    states = {path: method.init() for path, method in built.stateful.items()}
    assert states.keys() == {"sampler"} and not np.any(states["sampler"])
    heat = jnp.ones(mask.shape, jnp.float32)
    given = have | {"sampler_entropy": jnp.asarray(entropy)}
    batch, after = jax.jit(lambda x: assemble(built, states, tiny.prompts(cases.PROMPTS, 5), x, heat, None))(given)
    logs = np.sort(np.log(entropy[mask]))
    pivot = logs[round(0.8 * (len(logs) - 1))]
    np.testing.assert_allclose(after["sampler"], [pivot, logs[0] - pivot, logs[-1] - pivot], rtol=1e-5)
    assert batch.temperature.shape == mask.shape and batch.fields["mask"].sum() < mask.sum()


def test_a_token_that_is_not_trained_leaves_the_mask_and_the_credit_of_the_others_stays():
    have, built = cases.fields(), cases.recipe("dapo")
    trained = jnp.asarray(np.random.default_rng(1).random(have["mask"].shape) < 0.6)
    heat = jnp.ones(have["mask"].shape[:2], jnp.float32)
    prompts = tiny.prompts(cases.PROMPTS, 5)
    whole, part = (
        jax.jit(lambda fields: assemble(built, {}, prompts, fields, heat, None)[0])(fields).fields
        for fields in (have, have | {"trained": trained})
    )
    expected = np.asarray(whole["mask"]) & np.asarray(trained)
    assert expected.any() and (expected != np.asarray(whole["mask"])).any()
    np.testing.assert_array_equal(part["mask"], expected)
    for name in ("advantages", "token_weights"):
        np.testing.assert_array_equal(part[name], np.where(expected, whole[name], 0))
    assert "trained" not in part
