"""tools/launch/tpu_vm with a stand-in for gcloud, whose workers are folders on this machine."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "launch" / "tpu_vm"

# Logs its arguments; runs what ssh asks for in the home of each of two workers.
GCLOUD = """#!/bin/bash
echo "gcloud $*" >>"$LOG"
verb=$4 workers=worker-*
for argument; do
    case $argument in
        --command=*) command=${argument#*=} ;;
        --worker=0) workers=worker-0 ;;
    esac
done
case $verb in
    describe) head -n 1 "$BASE/states"; [ "$(wc -l <"$BASE/states")" = 1 ] || sed -i 1d "$BASE/states" ;;
    scp) for home in "$BASE"/worker-*; do cp "$5" "$home/${6#*:}"; done ;;
    ssh) for home in "$BASE"/$workers; do (cd "$home" && HOME=$home bash -c "$command") || exit; done ;;
esac
"""
LOGGED = '#!/bin/sh\necho "$(basename "$0") $*" >>"$LOG"\n'
STUBS = {
    "gcloud": GCLOUD,
    "sudo": LOGGED,
    "mountpoint": "#!/bin/sh\nexit 1\n",
    "uv": LOGGED + "echo /opt/python3.12\n",
}
# In place of tools/run: a trainer that ends when told, in three ways.
RUN = """#!/bin/bash
echo "run PYTHON=$PYTHON $*" >>"$LOG"
[ "$3" != true ] || exit 0
trap 'echo stopped; exit 143' TERM
echo "trains $*"
case $* in *broken*) echo "error: broken"; exit 2 ;; esac
while :; do sleep 0.05; done
"""


class Pod:
    """A project with the script, two workers, and a way to call it."""

    def __init__(self, base: Path):
        self.base, self.log = base, base / "log"
        for folder in ("worker-0", "worker-1", "bin", "project/tools/launch"):
            (base / folder).mkdir(parents=True)
        shutil.copy(SCRIPT, base / "project/tools/launch/tpu_vm")
        (base / "states").write_text("ACTIVE\n")
        programs = {f"bin/{name}": text for name, text in STUBS.items()} | {"project/tools/run": RUN}
        for path, text in programs.items():
            (base / path).write_text(text)
            (base / path).chmod(0o755)
        (base / "project/run file.toml").touch()
        subprocess.run(["git", "init", "-q", str(base / "project")], check=True)
        place = {"NAME": "pod", "ZONE": "us-x1", "TYPE": "v5litepod-16", "RUNTIME": "v2", "SHARE": "10.0.0.2:/vol"}
        self.environment = {"PATH": f"{base / 'bin'}:{os.environ['PATH']}", "LOG": str(self.log), "BASE": str(base)}
        self.environment |= {"POLL": "0", "USER": "me"} | place

    def __call__(self, *arguments, code=0, **changes) -> str:
        script = str(self.base / "project/tools/launch/tpu_vm")
        ended = subprocess.run(
            [script, *arguments], env=self.environment | changes, capture_output=True, text=True, timeout=30
        )
        assert ended.returncode == code, ended
        return ended.stdout + ended.stderr

    def asked(self, word: str) -> list[str]:
        """The logged calls with the word."""
        return [line for line in self.log.read_text().splitlines() if word in line]

    def until(self, pattern: str) -> str:
        """What `status` says as soon as it says that of both workers."""
        end = time.monotonic() + 20
        while len(re.findall(pattern, said := self("status"))) != 2:
            assert time.monotonic() < end, said
            time.sleep(0.05)
        return said


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


def test_it_asks_and_waits(pod):
    (pod.base / "states").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    said = pod("create", OPTIONS="--spot --network=n")
    assert [line.split()[-1] for line in said.splitlines()] == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    create = "gcloud compute tpus queued-resources create pod --accelerator-type=v5litepod-16 --runtime-version=v2"
    assert pod.asked(" create ") == [f"{create} --node-id=pod --spot --network=n --zone=us-x1"]
    pod("create", SLICES="2", PROJECT="p")
    assert pod.asked(" create ")[1] == f"{create} --node-count=2 --node-prefix=pod --zone=us-x1 --project=p"
    (pod.base / "states").write_text("FAILED\n")
    assert "pod is FAILED" in pod("create", code=2)


def test_a_run_starts_on_all_workers_stops_and_starts_again(pod):
    said = pod("setup")
    assert said.count("is ready") == 2 and (pod.base / "worker-1/jaxrl_tok/run file.toml").exists()
    assert pod.asked("sudo mount") == ["sudo mount 10.0.0.2:/vol /mnt/share"] * 2
    assert pod.asked("run PYTHON") == ["run PYTHON=/opt/python3.12 --extra tpu true"] * 2
    assert pod("status").count("no run") == 2
    for _ in range(2):
        assert pod("train", "run file.toml", "--set", "run.dir=/mnt/share/a b").count("starts") == 2
        pod.until("runs")
        assert "a run is in progress" in pod("train", "run file.toml", code=2)
        pod("stop")
        assert "ended with code 143: stopped" in pod.until("ended")
    assert (
        (pod.base / "worker-1/run.log")
        .read_text()
        .startswith("trains --extra tpu jaxrl-tok train run file.toml --set run.dir=/mnt/share/a b\n")
    )


def test_how_a_run_ended_is_said(pod):
    pod("setup")
    pod("train", "broken.toml")
    assert "ended with code 2: error: broken" in pod.until("ended")
    pod("stop")  # nothing to stop
    pod("delete")
    assert pod.asked(" delete ") == ["gcloud compute tpus queued-resources delete pod --force --quiet --zone=us-x1"]


def test_what_is_missing_is_said(pod):
    assert "SHARE is not set" in pod("setup", code=2, SHARE="")
    assert "expected a run file" in pod("train", code=2)
    assert "tpu_vm create" in pod("no-such", code=2)
    assert not pod.log.exists()
