"""Block sizes of the token-scoring backends, as data.

Measured on 2 CPU cores with N=1536, D=256, f32: median ms of 15 interleaved rounds, forward / with gradients.

    V=4096, head [D, V]   512: 42/132   1024: 37/131   2048: 40/137   4096: 87/161
    V=4096, head [V, D]   512: 39/135   1024: 36/123   2048: 36/156   4096: 81/156

Smaller vocabularies are one block (V=64: 0.8/2.5 and 0.7/1.9).
"""

# Columns of the vocabulary that the chunked backend holds at a time.
CHUNKED_BLOCK = 1024

# Most logits that the chunked backend holds at a time, over all devices; above it, rows are split too.
CHUNKED_LOGITS = 2**28
