"""Block sizes of the attention backends, and where one overtakes another, as data."""

# Queries and keys of a block of the chunked backend, by platform. Not measured beyond CPUs: there each step of the
# loop costs some launches, so blocks are larger.
CHUNKED = {"cpu": (128, 128), "others": (512, 512)}

# Queries and keys of a block of the TPU kernels, where they fit; both are multiples of 128.
PALLAS_TPU = (512, 512)

# Most rows (queries x heads that share keys) of a block of queries in the TPU kernels, by their memory.
PALLAS_TPU_ROWS = 2048

# Block of the splash kernel, queries and keys.
SPLASH = 512

# Most scores, [B, N, T, U], that the dense backend is chosen for.
DENSE_SCORES = 2**20
