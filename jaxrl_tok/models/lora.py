"""Low-rank adapters beside a frozen decoder."""

import dataclasses
import fnmatch
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.models.architecture import Params
from jaxrl_tok.models.model import Caches, Hidden
from jaxrl_tok.models.params import ParamSpec, tree_map_specs
from jaxrl_tok.models.transformer import Transformer
from jaxrl_tok.types import Tries

# The matrices that may have an adapter: how targets name them -> how many of their axes are inputs.
MATRICES = {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}
EXPERTS = {f"experts.{name}": 1 for name in ("gate", "up", "down")}
TARGETS = tuple(MATRICES)


@dataclasses.dataclass(frozen=True)
class Lora:
    """A decoder as a `Model` in which each chosen matrix W stands for W + alpha / rank A B, and only A, B are trained.

        y = x W + alpha / rank (x A) B,   A [inputs, rank] normal, B [rank, outputs] 0 at the start

    LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685. So the model starts as its base, to the bit. `targets` are
    patterns of names: `q k v o gate up down`, and `experts.gate experts.up experts.down` in a model with experts.
    Adapters are float32 whatever the base is stored in: a step of training is less than bfloat16 can tell apart.

    Parameters are `{"base": the decoder's, "lora": {name: {"a", "b"}}}`, both stacked over layers. The product A B is
    nowhere made but in `merged`: in training it would cost the gradient of W, half as much again as all the rest, and
    in sampling a base that came from bfloat16 weights would round it away until it has grown.
    """

    base: Transformer
    rank: int
    alpha: float
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        """Checks the targets.

        Raises:
          ConfigError: the rank is below 1, a pattern fits no name, or all of them fit nothing in this model.
        """
        if self.rank < 1:
            raise ConfigError(f"lora.rank = {self.rank}: expected at least 1")
        known = (*MATRICES, *EXPERTS)
        for pattern in self.targets:
            if not fnmatch.filter(known, pattern):
                raise ConfigError(f"lora.targets: no matrix is called {pattern!r}; {nearest(pattern, known)}")
        if not self._adapted():
            raise ConfigError(f"lora.targets = {list(self.targets)}: nothing in this model fits")

    @property
    def vocab(self) -> int:
        """Rows of the head."""
        return self.base.vocab

    @property
    def logit_cap(self) -> float | None:
        """The base's."""
        return self.base.logit_cap

    @property
    def scale(self) -> float:
        """The factor alpha / rank."""
        return self.alpha / self.rank

    def specs(self) -> Params:
        """Returns the base's specs, frozen, and those of the adapters."""
        frozen = tree_map_specs(lambda spec: dataclasses.replace(spec, trained=False), self.base.specs())
        return {"base": frozen, "lora": self.adapter_specs()}

    def adapter_specs(self) -> Params:
        """Returns the specs of the adapters, which lie as their matrices do; the axis of the rank is not split."""
        blocks, stacked = self.base.specs()["layers"], self._stacked()
        return {name: _pair(blocks[name], stacked[name], inputs, self.rank) for name, inputs in self._adapted().items()}

    def around(self, base: Params, draw: Any) -> Params:
        """Returns the parameters with this base; `draw(specs)` gives those of the adapters."""
        return {"base": base, "lora": draw({"lora": self.adapter_specs()})["lora"]}

    def merged(self, params: Params) -> Params:
        """Returns the base's parameters with the adapters added in, in the base's type: what is exported."""
        blocks, stacked = params["base"]["layers"], self._stacked()

        def added(name: str) -> Array:
            a, b = (params["lora"][name][half].astype(jnp.float32) for half in ("a", "b"))
            product = jnp.tensordot
            for _ in range(stacked[name]):
                product = jax.vmap(product, in_axes=(0, 0, None))
            return (blocks[name].astype(jnp.float32) + self.scale * product(a, b, 1)).astype(blocks[name].dtype)

        return params["base"] | {"layers": blocks | {name: added(name) for name in params["lora"]}}

    def forward(
        self,
        params: Params,
        prompts: Int[Array, "P S"],
        lengths: Int[Array, " P"],
        completions: Int[Array, "P G T"],
        mask: Bool[Array, "P G T"] | None = None,
    ) -> Hidden:
        """Returns the base's hidden states with the adapters on."""
        return self.base.forward(self._on(params), prompts, lengths, completions, mask)

    def forward_tries(
        self, params: Params, tries: Tries, mask: Bool[Array, "P G T"] | None = None
    ) -> tuple[Float[Array, "R S D"], Float[Array, "P G"] | None]:
        """Returns the base's hidden states with the adapters on."""
        return self.base.forward_tries(self._on(params), tries, mask)

    def head(self, params: Params) -> Float[Array, "V D"]:
        """Returns the base's head."""
        return self.base.head(params["base"])

    def for_decoding(self, params: Params, length: int) -> Params:
        """Returns the base's weights as `decode` reads them, the adapters beside them."""
        return {"base": self.base.for_decoding(self._on(params), length)}

    def prefill(
        self, params: Params, prompts: Int[Array, "P S"], lengths: Int[Array, " P"]
    ) -> tuple[Float[Array, "P D"], Caches]:
        """Returns what the base's `prefill` does with the adapters on."""
        return self.base.prefill(self._on(params), prompts, lengths)

    def empty_cache(self, rows: int, length: int) -> Caches:
        """Returns the base's."""
        return self.base.empty_cache(rows, length)

    def decode(self, weights: Params, *arrays: Any) -> tuple[Float[Array, "B D"], Caches]:
        """Returns what the base's `decode` does with the adapters on."""
        return self.base.decode(weights["base"], *arrays)

    def _on(self, params: Params) -> Params:
        """The base's parameters with the adapters where its layers look for them, their factor in B."""
        lora = {
            name: {"a": pair["a"], "b": pair["b"] * jnp.asarray(self.scale, pair["b"].dtype)}
            for name, pair in params["lora"].items()
        }
        return params["base"] | {"layers": params["base"]["layers"] | {"lora": lora}}

    def _adapted(self) -> dict[str, int]:
        """Names in the decoder's layers -> axes of inputs, of the matrices that a target fits."""
        experts = bool(self.base.arch.experts)
        here = {name: n for name, n in MATRICES.items() if not experts or name not in ("gate", "up", "down")}
        here |= EXPERTS if experts else {}
        chosen = {name for pattern in self.targets for name in fnmatch.filter(here, pattern)}
        return {name.removeprefix("experts."): inputs for name, inputs in here.items() if name in chosen}

    def _stacked(self) -> dict[str, int]:
        """How many leading axes of each matrix number its layers and experts."""
        of_experts = 2 if self.base.arch.experts else 1
        return {name: of_experts if name in ("gate", "up", "down") else 1 for name in MATRICES}


def _pair(spec: ParamSpec, stacked: int, inputs: int, rank: int) -> dict[str, ParamSpec]:
    """The adapter of a matrix with these axes: number of layers (and experts), inputs, outputs."""
    cut = stacked + inputs
    shape, axes = spec.shape, spec.axes
    return {
        "a": ParamSpec(
            (*shape[:cut], rank), (*axes[:cut], None), scale=math.prod(shape[stacked:cut]) ** -0.5, dtype="float32"
        ),
        # Normal with deviation 0, so that weight decay counts it among the matrices.
        "b": ParamSpec(
            (*shape[:stacked], rank, *shape[cut:]), (*axes[:stacked], None, *axes[cut:]), scale=0.0, dtype="float32"
        ),
    }
