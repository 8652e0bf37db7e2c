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

# Columns that are gathered at a time where the head's D is split over devices, unless the caller names a block.
GATHERED_BLOCK = 8192

# Rows, columns and depth (of D) of a step of the TPU kernel: by chip, then by D and V; `tools/tune_blocks.py` writes
# what it measures. None is the entry for all that are not listed: 1024 by 1024 keeps a v6e busy, which reads 1640 GB/s
# and computes 918 TF/s, so 560 rows for each column read. Not measured on a TPU. A step that does not fit in memory is
# made smaller, in depth first.
PALLAS_TPU: dict[str | None, dict[tuple[int, int] | None, tuple[int, int, int]]] = {
    None: {None: (1024, 1024, 16384)},
}

# The same of the kernel for GPUs, whose sizes are powers of two. Not measured on a GPU.
PALLAS_GPU: dict[str | None, dict[tuple[int, int] | None, tuple[int, int, int]]] = {
    None: {None: (128, 128, 64)},
}

# Rows and columns of a step of the TPU kernel of divergences, which reads two heads and all of D.
PALLAS_TPU_PAIR = (512, 512)

# Most columns of a step of the TPU kernels: their code grows with them.
PALLAS_TPU_COLUMNS = 2048

# Rows whose logits the TPU kernels reduce at a time.
PALLAS_TPU_ROWS_AT_ONCE = 32

# Bytes of a TPU core's fast memory that a kernel may take, by chip: of 64 MiB, and of 128 MiB for all others.
VMEM: dict[str | None, int] = {"TPU v5": 60 * 2**20, "TPU7x": 60 * 2**20, None: 112 * 2**20}
