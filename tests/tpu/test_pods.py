"""`tpu/pods.py` against recorded argument lists, a parsed manifest, and stand-ins for gcloud and docker."""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tpu.pods import main
from tpu.slices import Options, find_slice, host_script

ROOT = Path(__file__).parents[2]
IMAGE = "us-west4-docker.pkg.dev/my-project/images/dyntok"
PLACE = "--project=my-project --zone=us-west4-a"
ENCODE = "dyntok encode /bucket/it's.txt --output /bucket/out"
QUEUED = Options("run", "xlm-r", "my-project", "us-west4-a", command=ENCODE, image=IMAGE, bucket="my-bucket", poll=0.01)
IN_CLUSTER = replace(QUEUED, on="gke", cluster="gke_my-project_us-west4_big")
IN_XPK = replace(QUEUED, on="xpk", cluster="big", bucket=None, accelerator="v6e-4")
HOST = """\
set -e
trap 'code=$?; [ $code = 1 ] || [ $code = 255 ] && code=70; exit $code' EXIT
if [ -z "$(sudo docker ps --quiet --filter name=^xlm-r$)" ]; then
  sudo gcloud auth configure-docker us-west4-docker.pkg.dev --quiet
  sudo docker rm xlm-r 2>/dev/null || true
  sudo docker run --detach --init --pull=always --name=xlm-r --privileged --net=host \
us-west4-docker.pkg.dev/my-project/images/dyntok bash -c 'set -e
mkdir -p /bucket
gcsfuse --implicit-dirs my-bucket /bucket
dyntok encode /bucket/it'"'"'s.txt --output /bucket/out'
fi
sudo docker logs --follow xlm-r
exit "$(sudo docker wait xlm-r)\""""
TPUS, KUBECTL = "gcloud compute tpus", "kubectl --context=gke_my-project_us-west4_big"
RECORDED = {
    "create": f"{TPUS} queued-resources create xlm-r {PLACE} --node-id=xlm-r --accelerator-type=v5litepod-8 "
    "--runtime-version=v2-alpha-tpuv5-lite",
    "watch": f"{TPUS} queued-resources describe xlm-r {PLACE} --format=value(state.state)",
    "run": f"{TPUS} tpu-vm ssh xlm-r {PLACE} --worker=all --ssh-flag=-oServerAliveInterval=30 "
    "--ssh-flag=-oServerAliveCountMax=4",
    "delete": f"{TPUS} queued-resources delete xlm-r {PLACE} --force --quiet",
}
RECORDED_IN_XPK = {
    "watch": f"xpk workload list --cluster=big {PLACE} --wait-for-job-completion=xlm-r",
    "run": f"xpk workload create --cluster=big {PLACE} --workload=xlm-r --tpu-type=v6e-4 --num-slices=1 "
    f"--docker-image={IMAGE} --max-restarts=50",
    "delete": f"xpk workload delete --cluster=big {PLACE} --workload=xlm-r --force",
}
RECORDED_IN_CLUSTER = {
    "watch": f"{KUBECTL} get jobset xlm-r --watch",
    "run": f"{KUBECTL} apply --filename=-",
    "delete": f"{KUBECTL} delete jobset xlm-r",
}
GCLOUD = """#!/bin/sh
cd {folder}
case "$*" in
*describe*) head -n 1 states > state; sed -i 1d states; grep -v NOT_FOUND state || {{ echo NOT_FOUND >&2; exit 1; }} ;;
*)  for word in create delete ssh; do case "$*" in *" $word "*) echo $word >> calls ;; esac; done
    case "$*" in *" ssh "*) code=$(head -n 1 codes); sed -i 1d codes; exit $code ;; esac ;;
esac
"""
DOCKER = """#!/bin/sh
cd {folder}
echo "$1" >> calls
case "$1" in ps) cat running ;; rm) exit 1 ;; run) exit $(cat run_code) ;; wait) cat code ;; esac
"""


def put(folder, **scripts):
    for name, text in scripts.items():
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("options", "recorded", "command"),
    [
        (QUEUED, RECORDED, [f"--command={HOST}"]),
        (IN_CLUSTER, RECORDED_IN_CLUSTER, []),
        (IN_XPK, RECORDED_IN_XPK, [f"--command={ENCODE}"]),
    ],
)
def test_a_dry_run_prints_the_recorded_commands_for_a_shell(options, recorded, command, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")  # nothing can run
    for action, arguments in recorded.items():
        assert main(replace(options, action=action, dry_run=True)) == 0
        shown = capsys.readouterr().out.partition(" <<'END'\n")[0]
        assert shlex.split(shown) == arguments.split() + (command if action == "run" else [])


def test_the_manifest_is_a_jobset_of_one_pod_a_host(capsys):
    spot = replace(IN_CLUSTER, spot=True, max_restarts=7, dry_run=True, accelerator="v5p-32")
    assert main(spot) == 0
    shown, note = capsys.readouterr()
    assert "4 hosts" in note
    manifest = yaml.safe_load(shown.partition("<<'END'\n")[2].removesuffix("END\n"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 7
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c", ENCODE]
    assert container["resources"] == {kind: {"google.com/tpu": 4} for kind in ("requests", "limits")}
    on_exit = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert on_exit == {"containerName": container["name"], "operator": "In", "values": [1, 2]}
    assert pod["volumes"][0]["name"] == container["volumeMounts"][0]["name"]
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


@pytest.mark.parametrize(
    ("states", "codes", "calls", "end"),
    [
        ("ACTIVE", "0", "ssh", 0),
        ("NOT_FOUND CREATING PROVISIONING ACTIVE", "0", "create ssh", 0),
        ("ACTIVE SUSPENDING SUSPENDED ACTIVE", "137 0", "ssh delete create ssh", 0),
        ("ACTIVE ACTIVE ACTIVE SUSPENDED SUSPENDED ACTIVE", "1 0", "ssh delete create ssh", 0),
        ("ACTIVE ACTIVE ACTIVE ACTIVE ACTIVE", "255 0", "ssh ssh", 0),
        ("ACTIVE ACTIVE ACTIVE ACTIVE", "70", "ssh", 70),
        ("FAILED FAILED FAILED FAILED", "", "delete create delete create", 2),
    ],
    ids=["there", "new", "preempted", "preempted late", "connection lost", "its own error", "never there"],
)
def test_resume_goes_on_until_the_command_ends_by_itself(states, codes, calls, end, tmp_path, monkeypatch):
    put(tmp_path, gcloud=GCLOUD)
    (tmp_path / "states").write_text(states.replace(" ", "\n") + "\n")
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(replace(QUEUED, action="resume", max_restarts=1)) == end
    assert (tmp_path / "calls").read_text().split() == calls.split()


@pytest.mark.parametrize(
    ("running", "run_code", "code", "calls", "end"),
    [
        ("", 0, 0, "ps rm run logs wait", 0),
        ("5f1d", 0, 0, "ps logs wait", 0),
        ("", 0, 1, "ps rm run logs wait", 70),
        ("", 0, 2, "ps rm run logs wait", 2),
        ("", 125, 0, "ps rm run", 125),
    ],
    ids=["starts", "follows", "traceback", "usage error", "no image"],
)
def test_a_host_starts_the_container_once_and_gives_its_exit_code(running, run_code, code, calls, end, tmp_path):
    put(tmp_path, docker=DOCKER, sudo='#!/bin/sh\nexec "$@"\n', gcloud="#!/bin/sh\n")
    for name, value in {"running": running, "run_code": run_code, "code": code}.items():
        (tmp_path / name).write_text(str(value))
    done = subprocess.run(["sh", "-c", host_script(QUEUED)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (tmp_path / "calls").read_text().split() == calls.split()
    assert done.returncode == end


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"project": None}, "No project is named"),
        ({"project": "My_Project"}, "--project 'My_Project' would be refused"),
        ({"zone": "us-west4"}, "not a region"),
        ({"name": "XLM_R"}, "The name 'XLM_R' would be refused"),
        ({"accelerator": "v5e-8"}, "'v5e-8' is not a TPU type in the table: use one of v4-8, "),
        ({"accelerator": "v5litepod-9"}, "not a TPU type"),
        ({"bucket": "gs://my-bucket"}, "no gs://"),
        ({"command": None}, "run needs --command"),
        ({"on": "gke"}, "needs --cluster"),
        ({"on": "gke", "cluster": "c", "action": "resume"}, "resumes by itself"),
        ({"on": "gke", "cluster": "c", "runtime": "v2-alpha-tpuv5-lite"}, "leave --runtime out"),
        ({"on": "xpk", "cluster": "c", "spot": True}, "leave --spot out"),
        ({"on": "xpk", "cluster": "c"}, "xpk storage attach"),
        ({"poll": 0}, "--poll"),
    ],
)
def test_what_would_be_refused_is_told_in_one_line_before_anything_runs(change, said, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something ran"))
    monkeypatch.setattr("tpu.pods.installed", lambda program: program)
    assert main(replace(QUEUED, **change)) == 2
    out, error = capsys.readouterr()
    assert not out
    assert said in error
    assert error.count("\n") == 1


def test_a_program_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(replace(QUEUED, action="delete")) == 2
    assert "gcloud is not installed" in capsys.readouterr().err


def test_types_have_the_chips_and_hosts_that_google_gives_them():
    known = {"v5litepod-1": ("1x1", 1, 1), "v5litepod-16": ("4x4", 16, 4), "v6e-8": ("2x4", 8, 1)}
    known |= {"v5p-8": ("2x2x1", 4, 1), "v4-16": ("2x2x2", 8, 2), "v6e-256": ("16x16", 256, 64)}
    found = {name: find_slice(name) for name in known}
    assert {name: (tpu.topology, tpu.chips, tpu.hosts) for name, tpu in found.items()} == known
    assert replace(IN_XPK, accelerator="v5litepod-8").slice.hosts == 2


def test_the_container_copies_what_the_package_is_built_from():
    text = (ROOT / "tpu" / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, flags=re.MULTILINE) for name in line.split()]
    assert {"pyproject.toml", "README.md", "dyntok_jax"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
