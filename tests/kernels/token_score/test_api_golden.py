"""Cases whose expected values come from an independent float64 reference."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels import token_score
from tests.kernels.token_score.cases import BACKENDS

GOLDEN = json.loads((Path(__file__).parent.parent / "golden_token_score.json").read_text())
FIELDS = {"logp": "logprobs", "entropy": "entropy", "lse": "lse"}


def close(got, want):
    # float64 throughout: what differs is the order of sums.
    np.testing.assert_allclose(got, np.asarray(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_and_their_gradients_by_the_logits(backend):
    with jax.enable_x64(True):

        @jax.jit
        def evaluate(logits, targets):
            def scores(logits):
                return token_score(logits, jnp.eye(11), targets, head_layout="vd", block=4, **BACKENDS[backend])

            result, pull = jax.vjp(scores, logits)
            one, zero = jnp.ones(targets.shape), jnp.zeros(targets.shape)
            gradients = {
                field: pull(dataclasses.replace(result, **{f: one if f == field else zero for f in FIELDS.values()}))[0]
                for field in FIELDS.values()
            }
            return result, gradients

        for case in (*GOLDEN["token_statistics"]["cases"], *GOLDEN["token_statistics_grads"]["cases"]):
            logits, targets = jnp.asarray(case["inputs"]["logits"]), jnp.asarray(case["inputs"]["labels"])
            result, gradients = evaluate(logits, targets)
            for name, want in case["expected"].items():
                by_logits = np.ndim(want) == 3
                close(gradients[FIELDS[name]] if by_logits else getattr(result, FIELDS[name]), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_cross_entropy(backend):
    (case,) = GOLDEN["linear_cross_entropy"]["cases"]
    expected = case["expected"]
    with jax.enable_x64(True):
        hidden, head, targets, mask = (jnp.asarray(case["inputs"][k]) for k in ("hidden", "weight", "labels", "mask"))
        mask = mask > 0

        def loss(hidden, head, targets):
            result = token_score(hidden, head, targets, block=4, **BACKENDS[backend])
            return -jnp.sum(result.logprobs) / mask.sum(dtype=float), result

        all_tokens = jax.jit(loss)(hidden, head, targets)[1]
        close(-all_tokens.logprobs, expected["nll"])
        close(all_tokens.lse, expected["lse"])
        (value, _), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
            hidden, head, jnp.where(mask, targets, -1)
        )
        close(value, expected["loss"])
        close(gradients[0], expected["grad_hidden"])
        close(gradients[1], expected["grad_weight"])
