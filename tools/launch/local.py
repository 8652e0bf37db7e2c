"""Starts a command as several processes on this machine, which find each other.

    python tools/launch/local.py -n 2 --devices 4 -- jaxrl-tok train RUN.toml

Each process has its number in front of what it prints. A signal goes on to all of them. When one ends by an error, the
others get time to say why they end, and are then killed. For tests of what a pod does, on CPUs or on the GPUs of one
machine: without --devices, each process sees all accelerators of the machine unless the environment divides them.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

GRACE = 60.0  # seconds; processes that lose one of theirs notice it within this time


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if all processes did, else the code of the first that did not."""
    asked = parse(arguments)
    port = free_port()
    processes = [start(asked.command, environment(k, asked.n, port, asked.devices)) for k in range(asked.n)]
    note(", ".join(f"process {k} has id {process.pid}" for k, process in enumerate(processes)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: send(processes, number))
    lock = threading.Lock()
    printers = [
        threading.Thread(target=print_lines, args=(k, process.stdout, lock)) for k, process in enumerate(processes)
    ]
    for printer in printers:
        printer.start()
    code = wait(processes, asked.grace)
    for printer in printers:
        printer.join()
    return code


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the count, the devices, the grace and the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, required=True, help="processes")
    parser.add_argument("--devices", type=int, help="CPU devices of each; as the environment says unless given")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds that the others get when one has failed")
    parser.add_argument("command", nargs="+", help="after --")
    asked = parser.parse_args(arguments)
    if asked.n < 1:
        parser.error(f"-n {asked.n}: expected at least 1")
    if shutil.which(asked.command[0]) is None:
        parser.error(f"{asked.command[0]}: no such command")
    return asked


def environment(index: int, count: int, port: int, devices: int | None) -> dict[str, str]:
    """Returns the environment of process `index`."""
    own = {
        "JAXRL_TOK_COORDINATOR": f"localhost:{port}",
        "JAXRL_TOK_PROCESSES": str(count),
        "JAXRL_TOK_PROCESS": str(index),
        "PYTHONUNBUFFERED": "1",
    }
    if devices is not None:
        own |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return os.environ | own


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(command: Sequence[str], variables: dict[str, str]) -> subprocess.Popen:
    """Starts one process, in a session of its own: Ctrl-C reaches it through us alone."""
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def print_lines(index: int, lines: IO[bytes], lock: threading.Lock) -> None:
    """Prints what a process prints, line by line, with its number in front."""
    for line in lines:
        with lock:
            sys.stdout.buffer.write(b"[%d] " % index + line.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()


def wait(processes: Sequence[subprocess.Popen], grace: float) -> int:
    """Waits for all; from the first failure on for `grace` seconds at most. Returns its code, or 0."""
    failed: int | None = None
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if failed is None and any(codes):
            failed = next(k for k, code in enumerate(codes) if code)
            deadline = time.monotonic() + grace
            note(f"process {failed} {ending(processes[failed].returncode)}")
        if None not in codes:
            break
        if time.monotonic() > deadline:
            left = [k for k, code in enumerate(codes) if code is None]
            note(f"process {', '.join(map(str, left))} did not end within {grace:g} s, killing")
            send(processes, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.05)
    code = 0 if failed is None else processes[failed].returncode
    return code if code >= 0 else 128 - code


def send(processes: Sequence[subprocess.Popen], number: int) -> None:
    """Sends a signal to all that are left."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def ending(code: int) -> str:
    """Returns in words how a process ended."""
    return f"ended with code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"


def note(line: str) -> None:
    """Prints a line of our own."""
    print(f"launch: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
