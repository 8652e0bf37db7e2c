"""One number of each hidden state: a critic's values, a reward model's score."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.models.model import Caches, Hidden, Model, Params, TrieModel
from jaxrl_tok.models.params import ParamSpec, abstract
from jaxrl_tok.types import Tries


def linear(hidden: Float[Array, "*B D"], head: Params) -> Float[Array, "*B"]:
    """Returns hidden kernel + bias, in float32."""
    return jnp.einsum("...D,D->...", hidden.astype(jnp.float32), head["kernel"]) + head["bias"]


@dataclasses.dataclass(frozen=True)
class Critic:
    """A policy as a `Model` with a value head on its last hidden states.

        values[t] = h[t] kernel + bias,   h[t] the state that predicts token t: the value before it

    Everything else is the policy's. Parameters are `{"policy": the model's, "value": {"kernel" [D], "bias" []}}`; the
    head has a learning rate of its own (`group`), is float32, and starts at 0, so that the first advantages are those
    of REINFORCE. With the trunk "shared" the losses of the values train the policy's layers too, "detached" only the
    head. PPO, Schulman et al. 2017, https://arxiv.org/abs/1707.06347, section 5, has the shared form; verl and OpenRLHF
    have a network of its own.
    """

    policy: Model
    trunk: Literal["shared", "detached"] = "shared"

    @property
    def vocab(self) -> int:
        """The policy's."""
        return self.policy.vocab

    @property
    def logit_cap(self) -> float | None:
        """The policy's."""
        return self.policy.logit_cap

    def specs(self) -> Params:
        """Returns the policy's specs and those of the head."""
        return {"policy": self.policy.specs(), "value": _linear_specs(self.policy, "critic")}

    def around(self, base: Params, draw: Any) -> Params:
        """Returns the parameters with this base under the policy; `draw(specs)` gives the others."""
        policy = self.policy.around(base, draw) if hasattr(self.policy, "around") else base  # type: ignore[attr-defined]
        return {"policy": policy, "value": draw({"value": self.specs()["value"]})["value"]}

    def values(self, params: Params, hidden: Float[Array, "P G T D"]) -> Float[Array, "P G T"]:
        """Returns the value before each token, of the states that predict them."""
        return linear(jax.lax.stop_gradient(hidden) if self.trunk == "detached" else hidden, params["value"])

    def forward(
        self,
        params: Params,
        prompts: Int[Array, "P S"],
        lengths: Int[Array, " P"],
        completions: Int[Array, "P G T"],
        mask: Bool[Array, "P G T"] | None = None,
    ) -> Hidden:
        """Returns the policy's."""
        return self.policy.forward(params["policy"], prompts, lengths, completions, mask)

    def forward_tries(
        self, params: Params, tries: Tries, mask: Bool[Array, "P G T"] | None = None
    ) -> tuple[Float[Array, "R S D"], Float[Array, "P G"] | None]:
        """Returns the policy's."""
        assert isinstance(self.policy, TrieModel)  # which the trainer has asked of it
        return self.policy.forward_tries(params["policy"], tries, mask)

    def head(self, params: Params) -> Float[Array, "V D"] | None:
        """Returns the policy's."""
        return self.policy.head(params["policy"])

    def for_decoding(self, params: Params, length: int) -> Params:
        """Returns the policy's; sampling has no use for values."""
        return {"policy": self.policy.for_decoding(params["policy"], length)}

    def prefill(
        self, params: Params, prompts: Int[Array, "P S"], lengths: Int[Array, " P"]
    ) -> tuple[Float[Array, "P D"], Caches]:
        """Returns the policy's."""
        return self.policy.prefill(params["policy"], prompts, lengths)

    def empty_cache(self, rows: int, length: int) -> Caches:
        """Returns the policy's."""
        return self.policy.empty_cache(rows, length)

    def decode(self, weights: Params, *arrays: Any) -> tuple[Float[Array, "B D"], Caches]:
        """Returns the policy's."""
        return self.policy.decode(weights["policy"], *arrays)


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A model with a scalar head, whose value at a completion's last token is the completion's reward.

    Parameters are `{"model": the model's, "score": {"kernel" [D], "bias" []}}`. The form of a sequence classifier with
    one label in `transformers`, whose head has no bias: leave it 0. The model may have adapters (`Lora`).
    """

    model: Model

    def specs(self) -> Params:
        """Returns the model's specs and those of the head."""
        return {"model": self.model.specs(), "score": _linear_specs(self.model, "critic", scale=True)}

    def score(
        self,
        params: Params,
        prompts: Int[Array, "P S"],
        lengths: Int[Array, " P"],
        completions: Int[Array, "P G T"],
        mask: Bool[Array, "P G T"],
    ) -> Float[Array, "P G"]:
        """Returns the score of each completion: the head on the state that has read its last token.

        A pure function, with a gradient, to be used as a reward or trained on preferences. Prompts are padded on the
        left, `mask` says which tokens a completion has; one without any gets the score of its prompt.
        """
        found = self.model.forward(params["model"], prompts, lengths, completions)
        time = jnp.arange(mask.shape[-1], dtype=jnp.int32)[None, None]
        last = jnp.max(jnp.where(mask, time, -1), axis=-1)[..., None, None]
        read = jnp.take_along_axis(found.completion, jnp.maximum(last, 0), axis=2)[:, :, 0]
        return linear(jnp.where(last[..., 0] >= 0, read, found.prompt[:, None, -1]), params["score"])


def _linear_specs(model: Model, group: Literal["policy", "critic"], *, scale: bool = False) -> Params:
    matrix = jax.eval_shape(model.head, abstract(model.specs()))
    if matrix is None:
        raise ConfigError("the model gives logits and no hidden states, of which a head of one number could be made")
    width = matrix.shape[1]
    kernel = {"scale": width**-0.5} if scale else {}
    return {
        "kernel": ParamSpec((width,), (None,), group=group, dtype="float32", **kernel),
        "bias": ParamSpec((), (), group=group, dtype="float32"),
    }
