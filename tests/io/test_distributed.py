"""How processes find each other, agree and end; runs of several are in tests/e2e/test_processes.py."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import jax
import pytest

from jaxrl_tok import compat
from jaxrl_tok.errors import CheckpointError, ConfigError, DataError, ProcessError
from jaxrl_tok.io import distributed
from jaxrl_tok.io.distributed import ALONE, COORDINATOR, PROCESS, PROCESSES, Given, Herald, Peers, connected, given

PLACE = {COORDINATOR: "host-1:1234", PROCESSES: "3", PROCESS: "2"}
CLUSTER = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JAXRL_TOK_")


@pytest.fixture
def bare(monkeypatch):
    """No cluster around this process."""
    for name in [name for name in os.environ if name.startswith(CLUSTER)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    return monkeypatch


def test_the_variables_say_which_process_this_is():
    assert given(PLACE) == Given("host-1:1234", 3, 2)
    assert given({"PATH": "/bin", COORDINATOR: ""}) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({PROCESS: ""}, f"{COORDINATOR} and {PROCESSES} set, but not {PROCESS}: expected all three or none"),
        ({COORDINATOR: "host-1"}, f"{COORDINATOR} = 'host-1': expected host:port"),
        ({PROCESSES: "0"}, f"{PROCESSES} = '0': expected a whole number of at least 1"),
        ({PROCESS: "-1"}, f"{PROCESS} = '-1': expected a whole number of at least 0"),
        ({PROCESS: "3"}, f"{PROCESS} = 3: expected less than {PROCESSES} = 3"),
    ],
)
def test_variables_that_make_no_sense_are_named(changes, line):
    with pytest.raises(ConfigError) as error:
        given(PLACE | changes)
    assert str(error.value) == line


@pytest.mark.parametrize(("count", "processes"), [(8, 2), (7, 3), (2, 5), (0, 4)])
def test_shares_are_neighbours_and_cover_all_once(count, processes):
    shares = [list(range(count))[Peers(k, processes).share(count)] for k in range(processes)]
    assert [thing for share in shares for thing in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_by_itself_asks_nobody(bare):
    with connected({}) as peers:
        assert peers is ALONE and peers.first
        assert peers.exchange(lambda: {"a": 1}) == [{"a": 1}]
        with pytest.raises(DataError):
            peers.exchange(lambda: fail(DataError("no such file")))


def fail(error):
    raise error


class Service:
    """What process 0 serves, for processes that are threads."""

    def __init__(self, count):
        self.barrier, self.values = threading.Barrier(count), {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]

    def key_value_delete(self, key):
        del self.values[key]

    def wait_at_barrier(self, name, timeout):
        self.barrier.wait(10)


def together(count, act):
    """Returns what `act(peers)` gave or raised in each of several processes."""
    service, results = Service(count), [None] * count

    def run(k):
        try:
            results[k] = act(Peers(k, count, service))
        except Exception as error:
            results[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return service, results


def test_an_exchange_gives_all_what_each_said_and_leaves_little_behind():
    def act(peers):
        return [peers.exchange(lambda n=n: [n, peers.index]) for n in range(3)]

    service, results = together(3, act)
    expected = [[[n, k] for k in range(3)] for n in range(3)]
    assert results == [expected] * 3
    assert len(service.values) == 3  # of the last exchange


def test_a_mistake_of_one_is_a_mistake_of_all_and_they_go_on():
    """Each knows the error by its kind; process 0 did nothing wrong, and is told whose it was."""

    def act(peers):
        found = []
        with contextlib.suppress(DataError):
            try:
                peers.exchange(lambda: fail(DataError("row 7")) if peers.index == 1 else 3)
            except DataError as error:
                found.append(str(error))
                with peers.telling():  # nobody has to be told what all know
                    raise
        return found, peers.told, peers.exchange(lambda: peers.index)

    _, results = together(2, act)
    assert results == [(["process 1: row 7"], False, [0, 1]), (["row 7"], False, [0, 1])]


def test_a_mistake_of_ours_is_not_passed_on_as_one_of_the_users():
    peers = Peers(0, 2, Service(2))
    with pytest.raises(ZeroDivisionError):
        peers.exchange(lambda: 1 / 0)


def test_waiting_has_an_end(monkeypatch):
    service = Service(2)
    late = jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")
    monkeypatch.setattr(service, "wait_at_barrier", lambda *_: fail(late))
    with pytest.raises(ProcessError, match="process 1 waited 3600 s for the others: DEADLINE_EXCEEDED"):
        Peers(1, 2, service).exchange(lambda: 0)


class Said(Herald):
    """A herald that keeps its lines."""

    def __init__(self):
        self.lines = []

    def will_say(self, line):
        self.lines.append(line)

    def dismiss(self):
        self.lines.append(".")


def told(error, monkeypatch):
    """What the others hear of an error that ends process 1, and how long it waited to tell."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    service, said = Service(2), Said()
    with pytest.raises(type(error)), Peers(1, 2, service, said).telling():
        raise error
    assert said.lines == [
        f"error: {error}" if isinstance(error, CheckpointError) else f"error: {type(error).__name__}: {error}"
    ]
    return json.loads(service.values["jaxrl_tok/end/1"]), waited


def test_an_error_that_ends_a_process_reaches_the_others_with_its_code(monkeypatch):
    end, waited = told(CheckpointError("disk full"), monkeypatch)
    assert end == {"of": 1, "line": "process 1: disk full", "code": 2} and not waited
    end, waited = told(KeyError("x"), monkeypatch)
    assert end == {"of": 1, "line": "process 1: KeyError: 'x'", "code": 1} and not waited


def test_what_fails_because_another_is_lost_waits_for_who_it_was(monkeypatch):
    """A collective that broke off, and saves that broke off by it, with either of the types it comes in."""
    broken = jax.errors.JaxRuntimeError("Gloo: connection reset by peer")
    saves = [CheckpointError("cannot save"), CheckpointError("cannot save")]
    saves[0].__cause__, saves[1].__cause__ = broken, ValueError("UNKNOWN: Gloo AllGather failed")
    for error in (broken, *saves):
        assert told(error, monkeypatch)[1] == [distributed.SILENCE + 5 * distributed.BEAT]


def test_a_process_that_is_silent_is_named_to_all(monkeypatch):
    service, now = Service(3), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first, heard = Peers(0, 3, service, Said()), {k: ("", 100.0) for k in range(3)}
    for beat in range(40):
        now[0] += 1
        for k in (0, 2):
            service.key_value_set(f"jaxrl_tok/beat/{k}", str(beat), allow_overwrite=True)
        first._look_for_lost(heard)
        assert ("jaxrl_tok/end/None" in service.values) == (beat + 1 > distributed.SILENCE)
    end = json.loads(service.values["jaxrl_tok/end/None"])
    assert end["line"].startswith("process 1 is lost, of 3: no sign of life for 30 s; the same command")
    assert (end["of"], end["code"]) == (None, 4)


@pytest.mark.parametrize("dismissed", [False, True])
def test_a_herald_says_the_last_line_of_who_ended_without_a_word(capfd, dismissed):
    with Herald() as herald:
        herald.will_say("error: too early")
        herald.will_say("error: process 0\nis gone")
        if dismissed:
            herald.dismiss()
        herald._process.stdin.close()  # as the end of this process would
        herald._process.wait()
    assert capfd.readouterr().err == ("" if dismissed else "error: process 0 is gone\n")


def test_slurm_is_found(bare):
    variables = {"JOB_ID": "7", "STEP_NODELIST": "node[001-004]", "NTASKS": "32", "PROCID": "9", "LOCALID": "1"}
    for name, value in variables.items():
        bare.setenv(f"SLURM_{name}", value)
    assert compat.cluster() == ("slurm", 32)


def test_a_tpu_slice_on_kubernetes_is_found(bare):
    """Two slices of two hosts, by the variables that GKE sets in the pods of a JobSet."""
    from jax._src.clusters import cloud_tpu_cluster

    bare.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    bare.setenv("TPU_WORKER_HOSTNAMES", "run-slice-0-0.run,run-slice-0-1.run")
    bare.setenv("MEGASCALE_NUM_SLICES", "2")
    assert compat.cluster() == ("gketpu", 4)


def tpu_vm(bare, metadata):
    from jax._src.clusters import cloud_tpu_cluster

    bare.delenv("TPU_SKIP_MDS_QUERY")
    bare.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    bare.setattr(cloud_tpu_cluster, "get_metadata", metadata)


def test_a_tpu_vm_asks_its_metadata(bare):
    answers = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "unused:0:10.0.0.2,unused:1:10.0.0.3,unused:2:10.0.0.4,unused:3:10.0.0.5",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'",
    }
    tpu_vm(bare, lambda key: (answers[key], 200))
    assert compat.cluster() == ("gcetpu", 4)


def test_a_cluster_that_cannot_be_asked_is_a_line_with_the_way_round_it(bare):
    def metadata(key):
        raise ConnectionError("no route to host")

    tpu_vm(bare, metadata)
    with pytest.raises(ConfigError) as error, connected({}):
        pass
    expected = f"(no route to host); set {COORDINATOR}, {PROCESSES} and {PROCESS}"
    assert str(error.value) == f"the cluster around this process cannot be asked {expected}"


PROGRAM = """
from jaxrl_tok.io.distributed import connected
with connected() as peers:
    import jax
    print(peers.exchange(lambda: [peers.index, jax.process_index(), jax.device_count()]))
"""


@pytest.mark.slow
def test_processes_that_slurm_starts_find_each_other(bare):
    """By SLURM's variables alone, as `srun` sets them in each task."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    job |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | job | {"SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    said = [task.communicate(timeout=200)[0].splitlines()[-1] for task in tasks]
    assert said == ["[[0, 0, 4], [1, 1, 4]]"] * 2
