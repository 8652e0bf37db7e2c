"""What the trainer and the sampler ask of a model."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.models.cache import Level
from jaxrl_tok.types import Leaf, Tries, pytree

Params = Any
Caches = Any


@pytree
class Hidden:
    """Last hidden states of prompts and of their completions."""

    prompt: Leaf  # [P, S, D]
    completion: Leaf  # [P, G, T, D]
    balance: Leaf = None  # f32[P, G], how uneven experts were used; None without experts


@runtime_checkable
class Model(Protocol):
    """A decoder as pure functions of its parameters: hashable, and equal to another that computes the same.

    Prompts are padded on the left. `completions[p, g]` follow `prompts[p]`: they see the prompt and themselves, never
    each other.
    """

    @property
    def vocab(self) -> int:
        """Rows of the head."""
        ...

    @property
    def logit_cap(self) -> float | None:
        """The c of c tanh(logit / c); None for no cap."""
        ...

    def specs(self) -> Any:
        """Returns the tree of `ParamSpec` that the parameters follow."""
        ...

    def forward(
        self,
        params: Params,
        prompts: Int[Array, "P S"],
        lengths: Int[Array, " P"],
        completions: Int[Array, "P G T"],
        mask: Bool[Array, "P G T"] | None = None,
    ) -> Hidden:
        """Returns hidden states of prompts and completions; `mask` says which tokens `balance` is about."""
        ...

    def head(self, params: Params) -> Float[Array, "V D"] | None:
        """Returns the output matrix, rows by token; None of a model whose hidden states are its logits already."""
        ...

    def for_decoding(self, params: Params, length: int) -> Any:
        """Returns the weights as `decode` reads them, made once before a loop over up to `length` positions."""
        ...

    def prefill(
        self, params: Params, prompts: Int[Array, "P S"], lengths: Int[Array, " P"]
    ) -> tuple[Float[Array, "P D"], Caches]:
        """Returns the hidden state of each prompt's last token, and what its completions read of it."""
        ...

    def empty_cache(self, rows: int, length: int) -> Caches:
        """Returns what `rows` completions of up to `length` tokens keep."""
        ...

    def decode(
        self,
        weights: Any,
        tokens: Int[Array, " B"],
        at: Int[Array, " B"],
        cache: Caches,
        levels: tuple[Level, ...],
        /,
    ) -> tuple[Float[Array, "B D"], Caches]:
        """Feeds each slot its token number `at`, which follows what it sees of the levels, the prompt's first.

        Returns the hidden states and the longer cache.
        """
        ...


@runtime_checkable
class TrieModel(Model, Protocol):
    """A model that also reads packed tries, for `train.share_prefix = "tree"`."""

    def forward_tries(
        self, params: Params, tries: Tries, mask: Bool[Array, "P G T"] | None = None
    ) -> tuple[Float[Array, "R S D"], Float[Array, "P G"] | None]:
        """Returns the hidden state of each token of the tries, and `Hidden.balance` of the completions in them."""
        ...
