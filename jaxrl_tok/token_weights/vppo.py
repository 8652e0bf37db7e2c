"""Train on the tokens that depend on a part of the prompt, and on the completions that depend on it most."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import kl_estimate


def vppo(
    context_logprobs: Float[Array, "P G T"],
    old_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    fraction: float = 0.4,
    floor: float = 0.9,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Weight of the completion on its tokens that depend most on the dropped part of the prompt, 0 on the rest.

        S[p,g,t] = exp(d) - d - 1,  d = context_logprobs - old_logprobs, clipped to +-20, and then S to 10
        w[p,g,t] = scale[p,g] on the ceil(fraction n[p,g]) largest S of the completion
        scale[p,g] = floor + (1 - floor) z[p,g] / (mean z + 1e-8),  z = min-max over the batch of mean_t S[p,g,t]

    VPPO, https://arxiv.org/abs/2510.09285. `context_logprobs` are of the same tokens with a part of the prompt
    corrupted: in the paper patches of the image blackened with probability 1/2, for text a context left out. S
    estimates the KL divergence between the two from the sampled token, as the code does; the paper defines the full
    one. Scales have mean 1 over the batch's completions. The code takes their minimum and maximum over a minibatch
    but the mean over a microbatch, which makes the scale 1 for a microbatch of one; here both are over the whole
    batch under `jit` on a mesh, inside `shard_map` over the shard, or with `axis_name` over all shards. Weights
    stay in the denominator.

    Raises:
        ConfigError: `fraction` is not in (0, 1], or `floor` not in [0, 1].

    Fidelity: code.
    Degenerate: fraction = floor = 1 is `uniform`; completions that depend equally have scale 1.
    """
    if not (0 < fraction <= 1 and 0 <= floor <= 1):
        raise ConfigError(f"vppo: fraction = {fraction!r} must lie in (0, 1] and floor = {floor!r} in [0, 1]")
    dependency = kl_estimate(old_logprobs, context_logprobs, estimator="k3", clamp=True)
    kept = masked.top_fraction(dependency, mask, fraction)
    scale = trajectory_scale(dependency, mask, floor=floor, axis_name=axis_name)
    return jax.lax.stop_gradient(masked.per_token(scale, kept))


def trajectory_scale(
    dependency: Float[Array, "P G T"], mask: Bool[Array, "P G T"], *, floor: float = 0.9, axis_name: str | None = None
) -> Float[Array, "P G"]:
    """Scale of each completion; 1 where the completions differ by at most 1e-6, 0 for one without a trained token."""
    mean, trained = masked.mean(dependency, mask, axis=2)[:, :, 0], jnp.any(mask, axis=2)
    low, high = masked.bounds(mean, trained, axis_name=axis_name)
    apart = high - low > 1e-6
    z = jnp.where(trained & apart, (mean - low) / jnp.where(apart, high - low, 1), 0)
    scale = floor + z * (1 - floor) / (masked.mean(z, trained, axis_name=axis_name) + 1e-8)
    return jnp.where(trained, jnp.where(apart, scale, 1), 0)
