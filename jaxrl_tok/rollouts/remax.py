"""Independent completions, and a greedy one of each prompt beside them: the rollouts of ReMax."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrl_tok.rollouts.extend import Engine, extend, from_prompts
from jaxrl_tok.rollouts.generate import as_rollouts
from jaxrl_tok.types import Probes, Sampled, Sampling

# `greedy_rewards` are those of the probes, which are the greedy completions.
SUPPLIES = frozenset({"greedy_rewards"})


def remax(engine: Engine, keys: Key[Array, "P G"], sampling: Sampling) -> Sampled:
    """Samples G independent completions and the greedy one of each prompt.

    ReMax, Li et al. 2023, https://arxiv.org/abs/2310.10505. The greedy completion is `probes`: a rollout from the
    prompt that trains nothing and belongs to no group. All run in slots together; where there is one for each of the
    P G completions, there are P more.
    """
    count, group = keys.shape
    if engine.slots >= keys.size:  # one for each completion; then for the greedy ones too, or these would wait
        engine = dataclasses.replace(engine, slots=engine.slots + count)
    keys = jnp.concatenate([keys, keys[:, :1]], axis=1)  # greedily, a key decides nothing
    asked: Sampling = jax.tree.map(lambda x: jnp.concatenate([x, x[:, :1]], axis=1), sampling)
    asked = Sampling(asked.limit, asked.temperature.at[:, group].set(0), asked.top_k, asked.top_p, asked.min_p)
    prompt_of = jnp.arange(keys.size, dtype=jnp.int32) // (group + 1)
    flat_keys, flat = jax.tree.map(lambda x: x.reshape(-1), (keys, asked))
    done = extend(engine, from_prompts(engine, prompt_of, flat_keys, flat), engine.max_tokens)
    whole = as_rollouts(done, asked)
    lengths = done.lengths.reshape(count, group + 1)
    return Sampled(
        jax.tree.map(lambda x: x[:, :group], whole),
        {},
        lengths.sum(1, dtype=jnp.int32),
        Probes(
            jnp.zeros((count, 1, 1), jnp.int32),
            whole.tokens[:, group:, None, None],
            lengths[:, group:, None, None],
        ),
    )
