"""Temperature."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def temperature(logits: Float[Array, "B V"], temperature: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Divides the logits by the temperature; rows with temperature 0 (greedy) are left as they are.

    z[b, v] = logits[b, v] / temperature[b]
    """
    return logits / jnp.where(temperature > 0, temperature, 1.0).astype(logits.dtype)[:, None]
