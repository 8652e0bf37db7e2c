"""Writes what `transformers` gives for the tiny models of tests/parity/cases.py: tests/parity/stored/NAME.npz.

    python tools/make_hf_logits.py [NAME ...]

with an interpreter that has torch, transformers, safetensors and numpy; this project is not needed. Each file holds
logits of the completions, the tokens of a greedy continuation, and gradients of the mean cross-entropy of the
completions' tokens, all in float32 with the plain attention of transformers.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.parity import cases  # noqa: E402

OUT = ROOT / "tests/parity/stored"
GAP = 0.02  # between the likeliest token and the next one, so that no rounding turns a greedy choice


def main(names: list[str]) -> None:
    """Writes the files."""
    OUT.mkdir(exist_ok=True)
    for name in names or cases.CONFIGS:
        seed, arrays = next(found for found in map(lambda seed: made(name, seed), range(1000)) if found is not None)
        path = OUT / f"{name}.npz"
        np.savez_compressed(path, seed=np.int32(seed), **arrays)  # pyright: ignore[reportArgumentType]
        print(f"{path.name}: seed {seed}, {path.stat().st_size / 1000:.0f} kB")


def made(name: str, seed: int) -> tuple[int, dict[str, np.ndarray]] | None:
    """Returns what a model gives with the weights of this seed; None where a greedy choice is too close."""
    config = cases.CONFIGS[name]
    model = loaded(config, cases.draw(config, seed))
    cap = {"softcap": cases.SOFT_CAP[name]} if name in cases.SOFT_CAP else {}
    prompts, completions = cases.tokens(seed)
    greedy = []
    for prompt, length in zip(prompts, cases.PROMPT_LENGTHS, strict=True):
        row, gap = continuation(model, prompt[-length:], cap)
        if gap < GAP:
            return None
        greedy.append(row)
    logits, total = [], torch.zeros(())
    for prompt, length, group in zip(prompts, cases.PROMPT_LENGTHS, completions, strict=True):
        rows = np.concatenate([np.broadcast_to(prompt[-length:], (len(group), length)), group], axis=1)
        given = model(torch.tensor(rows, dtype=torch.long), **cap).logits[:, length - 1 : -1]
        target = torch.tensor(group, dtype=torch.long)
        total = total + torch.nn.functional.cross_entropy(given.flatten(0, 1), target.flatten(), reduction="sum")
        logits.append(given.detach().numpy()[:, :: cases.EVERY])
    (total / completions.size).backward()
    gradients = gradients_of(model, config)
    return seed, {"logits": np.stack(logits), "greedy": np.stack(greedy), **gradients}


def loaded(config: dict, tensors: dict[str, np.ndarray]) -> torch.nn.Module:
    """Returns the model as `transformers` reads it from a folder, all of whose tensors it has to use."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        save_file(tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def continuation(model: torch.nn.Module, prompt: np.ndarray, cap: dict) -> tuple[np.ndarray, float]:
    """Returns the greedy tokens after a prompt, and how close the closest choice was."""
    row, gap = torch.tensor(prompt[None], dtype=torch.long), np.inf
    with torch.no_grad():
        for _ in range(cases.STEPS):
            last = model(row, **cap).logits[0, -1]
            top = last.topk(2)
            gap = min(gap, float(top.values[0] - top.values[1]))
            if gap < GAP:
                break
            row = torch.cat([row, top.indices[:1][None]], dim=1)
    return row[0, len(prompt) :].numpy().astype(np.int32), gap


def gradients_of(model: torch.nn.Module, config: dict) -> dict[str, np.ndarray]:
    """Returns the watched gradients under the names of the files, in which experts are apart."""
    named = dict(model.named_parameters())
    found = {}
    for name in cases.watched(config):
        if ".experts." not in name:
            found[name] = named[name].grad
            continue
        layer, rest = name.split(".experts.")
        expert, kind, _ = rest.split(".")
        if kind == "down_proj":
            found[name] = named[f"{layer}.experts.down_proj"].grad[int(expert)]
        else:
            gate, up = named[f"{layer}.experts.gate_up_proj"].grad[int(expert)].chunk(2)
            found[name] = gate if kind == "gate_proj" else up
    return {f"gradient {name}": x.numpy() for name, x in found.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
