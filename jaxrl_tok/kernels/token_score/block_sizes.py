"""Block sizes of the token-scoring backends, as data.

Measured on 2 CPU cores with N=1536, D=256, float32, all three results, 31 rounds in turn; median ms of a forward
pass / of value and gradients of hidden and head:

    block               256      512      1024     2048     4096     dense logits
    V=4096, head [D,V]  27/76    23/78    24/73    33/87    46/83    43/67
    V=4096, head [V,D]  24/74    23/79    22/71    33/83    41/80    41/69

A vocabulary that fits into a block is one: V=64 takes 0.5/1.9 and 0.8/2.0 ms, dense logits 0.6/1.7 and 0.7/1.7.
"""

# Columns of the vocabulary that the chunked backend holds at a time.
CHUNKED_BLOCK = 1024

# Most logits that the chunked backend holds at a time, over all devices; above it, rows are taken in turns too.
CHUNKED_LOGITS = 2**28
