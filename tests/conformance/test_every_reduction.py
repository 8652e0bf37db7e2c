"""What every reduction must do, whatever it divides by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.bind import bind
from jaxrl_tok.reductions import REDUCTIONS
from tests.conformance import fields as data


@pytest.fixture(params=sorted(REDUCTIONS), scope="module")
def reduction(request):
    return data.Jitted(bind(REDUCTIONS, request.param))


def step(reduction, seed):
    """Arrays of a step, with a loss for each token or for each completion."""
    fields = data.step(seed)
    return fields if of_tokens(reduction) else fields | {"loss": fields["loss"][:, 0]}


def of_tokens(reduction):
    return "mask" in reduction.bound.reads


def counted(reduction, fields):
    return np.asarray(fields["mask" if of_tokens(reduction) else "valid"])


def spoil(reduction, fields):
    return fields | {"loss": jnp.where(counted(reduction, fields), fields["loss"], jnp.nan)}


def value(reduction, fields):
    return np.asarray(reduction(fields).value())


def gradient(reduction, fields):
    return np.asarray(jax.grad(lambda x: reduction(fields | {"loss": x}).value())(fields["loss"]))


def test_values_under_the_mask_do_not_matter(reduction):
    fields = step(reduction, 0)
    spoilt = spoil(reduction, fields)
    np.testing.assert_array_equal(value(reduction, spoilt), value(reduction, fields))
    grads = gradient(reduction, spoilt)
    np.testing.assert_array_equal(grads, gradient(reduction, fields))
    assert (grads[~counted(reduction, fields)] == 0).all()
    assert (grads[counted(reduction, fields)] > 0).all()


def test_parts_of_a_batch_add_up_to_the_whole(reduction):
    fields = step(reduction, 1)
    parts = [reduction({n: x[i : i + 4] if x.ndim else x for n, x in fields.items()}) for i in range(0, data.B, 4)]
    joined = parts[0] + parts[1] + parts[2] + parts[3]
    data.close(joined.value(), reduction(fields).value())


def test_rows_without_a_trained_token_count_nowhere(reduction):
    fields = step(reduction, 1)
    empty = {name: jnp.zeros_like(x) for name, x in fields.items()}
    longer = {name: jnp.concatenate([x, empty[name]]) if x.ndim else x for name, x in fields.items()}
    data.close(value(reduction, longer), value(reduction, fields))


def test_an_empty_batch_gives_zero_and_no_gradient(reduction):
    fields = step(reduction, 0) | {"mask": jnp.zeros((data.B, data.T), bool), "valid": jnp.zeros(data.B, bool)}
    assert value(reduction, spoil(reduction, fields)) == 0
    assert (gradient(reduction, spoil(reduction, fields)) == 0).all()


def test_the_count_does_not_depend_on_the_loss(reduction):
    fields = step(reduction, 0)
    zeros = fields | {"loss": jnp.zeros_like(fields["loss"])}
    assert reduction(zeros).count == reduction(fields).count > 0


def test_jit_and_sharding_over_rows_change_nothing(reduction):
    fields = step(reduction, 1)
    expected = reduction.run(fields)
    data.close(reduction(fields), expected)
    data.close(reduction(data.shard(fields)), expected)


def test_second_call_compiles_nothing(reduction):
    assert reduction.traces_of_a_second_call(step(reduction, 0), step(reduction, 1)) == 0
