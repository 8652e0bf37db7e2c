"""A small transformer as someone else writes it, in NNX and in Linen: nothing of this library is in it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx


def rotated(x, positions):
    """Rotary positions on [R, L, N, H]."""
    half = x.shape[-1] // 2
    wave = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions.astype(jnp.float32)[:, :, None, None] * wave[None, None, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], axis=-1)


class Block(nnx.Module):
    def __init__(self, dim, heads, rngs):
        self.heads = heads
        self.norm1, self.norm2 = nnx.LayerNorm(dim, rngs=rngs), nnx.LayerNorm(dim, rngs=rngs)
        self.qkv = nnx.Linear(dim, 3 * dim, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(dim, dim, use_bias=False, rngs=rngs)
        self.up, self.down = nnx.Linear(dim, 2 * dim, rngs=rngs), nnx.Linear(2 * dim, dim, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x, positions, seen, cache=None, start=None):
        q, k, v = jnp.split(self.qkv(self.norm1(x)).reshape(*x.shape[:2], self.heads, -1), 3, axis=-1)
        q, k = rotated(q, positions), rotated(k, positions)
        if cache is not None:
            row = jnp.arange(len(x))[:, None]
            place = start[:, None] + jnp.arange(x.shape[1])[None]
            cache = k, v = cache[0].at[row, place].set(k), cache[1].at[row, place].set(v)
        mixed = jax.nn.dot_product_attention(q, k, v, mask=seen[:, None])
        x = x + self.dropout(self.out(mixed.reshape(x.shape)))
        return x + self.dropout(self.down(nnx.gelu(self.up(self.norm2(x))))), cache


class Decoder(nnx.Module):
    def __init__(self, vocab, dim=16, layers=2, heads=2, *, rngs):
        self.embed = nnx.Embed(vocab, dim, rngs=rngs)
        self.blocks = nnx.List([Block(dim, heads, rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(dim, rngs=rngs)

    def __call__(self, tokens, positions, seen, caches=None, start=None):
        x = self.embed(tokens)
        caches = [None] * len(self.blocks) if caches is None else caches
        for i, block in enumerate(self.blocks):
            x, caches[i] = block(x, positions, seen, caches[i], start)
        return self.norm(x), caches

    def logits(self, tokens, positions, seen):
        return self.embed.attend(self(tokens, positions, seen)[0])


class LinenDecoder(nn.Module):
    vocab: int
    dim: int = 16

    @nn.compact
    def __call__(self, tokens, positions, seen):
        x = nn.Embed(self.vocab, self.dim, name="embed")(tokens)
        scale = self.variable("tables", "scale", lambda: jnp.full(self.dim, 0.5)).value
        where = jnp.sin(positions.astype(jnp.float32)[..., None] * scale[None, None])
        x = x + where
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=seen[:, None])
        x = x + nn.Dense(self.dim)(nn.gelu(nn.Dense(2 * self.dim)(nn.LayerNorm()(x))))
        return nn.LayerNorm(name="norm")(x)
