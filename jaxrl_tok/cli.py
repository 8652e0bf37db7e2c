"""The command `jaxrl-tok`. Heavy imports wait inside the commands: reward processes start before jax does."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from jaxrl_tok.errors import JaxrlTokError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="Run file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the run file; repeatable.")
]


def command() -> None:
    """Runs `main` as a process of its own, which ends here, without Python's shutdown.

    That could wait for ever for TensorStore's threads, where a save failed with other writes under way.
    """
    # Tracing makes millions of small objects that live on: looking through them for cycles so often is time lost.
    gc.set_threshold(50_000, 20, 100)
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Runs a command; a mistake of the user ends it with one line and exit code 2, bad numbers with 3.

    With 4 where another process of the run was lost: then the same command, given to all again, goes on.
    """
    try:
        app()
    except JaxrlTokError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def train(path: RunFile, sets: Sets = None) -> None:
    """Train, or go on with a run that was interrupted."""
    from jaxrl_tok.train.session import train as run_training

    sys.exit(run_training(path, sets or []))


@app.command(name="eval")
def evaluate(
    path: RunFile,
    sets: Sets = None,
    step: Annotated[int | None, typer.Option(help="RL step of the checkpoint; the best one unless given.")] = None,
) -> None:
    """Evaluate a checkpoint of a run on its held-out questions."""
    from jaxrl_tok.train.session import evaluate as run_evaluation

    for name, value in run_evaluation(path, sets or [], step).items():
        print(f"{name} {value:.4f}")


@app.command()
def sample(
    path: RunFile,
    prompt: Annotated[list[str], typer.Argument(help="Prompts to complete.")],
    sets: Sets = None,
    count: Annotated[int, typer.Option(min=1, help="Completions of each prompt.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 = greedy.")] = 0.0,
    step: Annotated[int | None, typer.Option(help="RL step of the checkpoint; the best one unless given.")] = None,
) -> None:
    """Complete prompts with a checkpoint of a run."""
    from jaxrl_tok.train.session import sample as run_sampling

    found = run_sampling(path, sets or [], prompt, count, temperature, step)
    # Of several processes, all but the first have nothing to print.
    for text, completions in zip(prompt, found, strict=False):
        for completion in completions:
            print(f"{text}{completion}")


@app.command()
def export(
    path: RunFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    sets: Sets = None,
    step: Annotated[int | None, typer.Option(help="RL step of the checkpoint; the best one unless given.")] = None,
    part: Annotated[
        Literal["model", "adapters", "base"],
        typer.Option(help="With adapters added in, if any; the adapters alone, in PEFT form; what they were added to."),
    ] = "model",
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None,
        typer.Option(help="Type of the file; float32 of adapters and bfloat16 of the rest unless given."),
    ] = None,
) -> None:
    """Write a checkpoint of a run as a folder that transformers and vLLM load."""
    from jaxrl_tok.train.session import export as run_export

    run_export(path, sets or [], out, step, part, dtype)
    print(out)


@app.command()
def show(path: RunFile, sets: Sets = None) -> None:
    """Print the resolved run, its derived sizes, and what each slot reads."""
    from jaxrl_tok.train.show import show as describe

    print(describe(path, sets or []))


@app.command()
def plan(
    path: RunFile,
    topology: Annotated[str, typer.Option(metavar="CHIP:SHAPE", help="The machine: v5p:8x8x8, h100:8, cpu:8.")],
    sets: Sets = None,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the chip's peak that products reach.")] = 0.4,
) -> None:
    """Compile a run for a machine that is not there: does it fit, and how long would a step take at least?"""
    # Nothing runs: an accelerator that is here is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxrl_tok.train import plan_report

    found = plan_report.plan(path, sets or [], topology, mfu)
    plan_report.show(found)
    sys.exit(0 if found.fits else 1)


@app.command()
def methods(
    reads: Annotated[str | None, typer.Option(help="Only methods that read this array.")] = None,
) -> None:
    """Print the table of methods: what each reads, what it takes, where it comes from."""
    from jaxrl_tok.train.show import methods as table

    print(table(reads))
