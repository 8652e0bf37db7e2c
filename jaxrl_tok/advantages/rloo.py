"""Leave-one-out advantage."""

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import leave_one_out


def rloo(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """Reward minus the mean reward of the group's other completions, given to every token.

        A[p,g,t] = r[p,g] - sum_{k != g} r[p,k] / (n - 1) = n / (n - 1) (r[p,g] - mean_g r[p])

    RLOO, Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740; n is the number of valid completions.
    Equal rewards give exactly 0. A group of one has no others: 0, as verl's vectorised form, or with
    `singleton = "raw"` its reward, as verl's other form.

    Fidelity: code. verl's forms.
    Degenerate: two completions give the difference of their rewards and its negative.
    """
    return masked.per_token(leave_one_out(rewards, valid, singleton=singleton), mask)
