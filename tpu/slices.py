"""Cloud TPU slices: the names of their types, and the commands and the manifest that create, use and delete them.

Nothing here runs anything: options go in, argument lists and a plain dict come out. `tpu/pods.py` runs them.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from dyntok_jax.errors import InputError

MOUNT = "/bucket"
"""Where commands find the bucket."""
USAGE_ERROR = 2
"""The exit code of a command that its options made fail: a restart would not help."""
LOST = (1, 143, 255)
"""Exit codes of gcloud and ssh when the connection fails, and of a container that its host stopped."""
OWN_ERROR = 70
"""What a host gives instead of 1 or 255, which could not be told from a lost connection."""
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
_HOST_CHIPS = 4
"""Of each host, where there is more than one."""
_ALIVE = ("--ssh-flag=-oServerAliveInterval=30", "--ssh-flag=-oServerAliveCountMax=4")
"""Without them ssh waits for ever for a host that was preempted."""


@dataclass(frozen=True)
class Generation:
    """What the slices of one generation of chips have in common.

    Attributes:
      cores: of a chip, which the names of types count.
      most: chips that a single host can have.
      label: of its nodes in GKE.
      runtime: the software version of its hosts (docs.cloud.google.com/tpu/docs/runtimes).
      topologies: the grids of chips that are offered (docs.cloud.google.com/tpu/docs/v5e and its neighbours).
    """

    cores: int
    most: int
    label: str
    runtime: str
    topologies: tuple[str, ...]


GENERATIONS = {
    "v4": Generation(2, 4, "tpu-v4-podslice", "tpu-ubuntu2204-base", _CUBES),
    "v5litepod": Generation(1, 8, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", _FLAT),
    "v5p": Generation(2, 4, "tpu-v5p-slice", "v2-alpha-tpuv5", _CUBES),
    "v6e": Generation(1, 8, "tpu-v6e-slice", "v2-alpha-tpuv6e", _FLAT),
}
"""By the first part of a type's name."""


@dataclass(frozen=True)
class Slice:
    """One type of slice."""

    generation: Generation
    topology: str
    chips: int
    hosts: int


def find_slice(accelerator: str, most: int | None = None) -> Slice:
    """The slice of that type.

    Args:
      accelerator: its name, such as `v5litepod-8`: chips for v5e and v6e, cores (two a chip) for v4 and v5p.
      most: chips of a single host, where it is fewer than the generation allows.

    Raises:
      InputError: the table does not have the type.

    Example:
      >>> find_slice("v5litepod-8").topology, find_slice("v5litepod-8").hosts
      ('2x4', 1)
      >>> find_slice("v5p-32").topology, find_slice("v5p-32").hosts
      ('2x2x4', 4)
    """
    name, _, size = accelerator.rpartition("-")
    generation = GENERATIONS.get(name)
    for topology in generation.topologies if generation else ():
        chips = _n_chips(topology)
        if generation and str(chips * generation.cores) == size:
            is_single = chips <= min(generation.most, most or generation.most)
            return Slice(generation, topology, chips, 1 if is_single else chips // _HOST_CHIPS)
    known = "; ".join(
        f"{name}-" + ", ".join(str(_n_chips(grid) * kind.cores) for grid in kind.topologies)
        for name, kind in GENERATIONS.items()
    )
    raise InputError(f"{accelerator!r} is not a TPU type in the table: use one of {known}.")


def _n_chips(topology: str) -> int:
    n_chips = 1
    for side in topology.split("x"):
        n_chips *= int(side)
    return n_chips


@dataclass(frozen=True)
class Options:
    """Creates a TPU slice, runs a command on it, watches it, resumes the command after preemption, and deletes it.

    Attributes:
      action: create asks for a slice; watch waits until it is there; run runs the command on every host and, of a
        queued resource, follows its output (a cluster gets its job and no more); resume does all of that, again after
        each preemption, until the command succeeds; delete ends it.
      name: of the slice, and of the job on it.
      project: id of the Google Cloud project.
      zone: such as us-west4-a.
      accelerator: type of the slice, such as v5litepod-8 or v5p-8.
      on: queued, a queued resource of the Cloud TPU API; gke, a JobSet in a GKE cluster; xpk, a workload of xpk.
      command: for run and resume, one shell command; it finds the bucket under /bucket.
      image: of the container that it runs in (tpu/Containerfile).
      bucket: name of a Cloud Storage bucket, mounted in the container.
      cluster: for xpk the cluster's name, for gke its kubectl context.
      spot: take Spot VMs: cheaper, and preempted at any time.
      runtime: version of the host's software (default: that of the generation).
      max_restarts: how often to start again after a preemption.
      poll: seconds between two looks at the state.
      dry_run: print what would be run, and run nothing.
    """

    action: Annotated[Literal["create", "watch", "run", "resume", "delete"], tyro.conf.Positional]
    name: Annotated[str, tyro.conf.Positional]
    project: str | None = None
    zone: str | None = None
    accelerator: str = "v5litepod-8"
    on: Literal["queued", "gke", "xpk"] = "queued"
    command: str | None = None
    image: str | None = None
    bucket: str | None = None
    cluster: str | None = None
    spot: bool = False
    runtime: str | None = None
    max_restarts: int = 50
    poll: float = 30
    dry_run: bool = False

    @property
    def slice(self) -> Slice:
        """The slice; xpk builds those of eight chips from two hosts."""
        return find_slice(self.accelerator, _HOST_CHIPS if self.on == "xpk" else None)


def check_options(options: Options) -> None:
    """Raises InputError for what Google Cloud would refuse, or what the action needs and does not have."""
    if options.on != "gke":
        _check_place(options)
    _check(
        "The name", options.name, r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", "up to 40 of a-z, 0-9 and -, beginning with a-z"
    )
    if options.bucket is not None:
        _check("--bucket", options.bucket, r"[a-z0-9][-a-z0-9_.]{1,220}[a-z0-9]", "a name such as my-bucket, no gs://")
    if options.max_restarts < 0 or options.poll <= 0:
        raise InputError("--max-restarts must be 0 or more, and --poll more than 0 seconds.")
    find_slice(options.accelerator)
    if options.on != "queued":
        if options.cluster is None:
            raise InputError(f"--on {options.on} needs --cluster: xpk's name of the cluster, or its kubectl context.")
        if options.runtime is not None:
            raise InputError(f"--on {options.on} takes the software of the node pool: leave --runtime out.")
        if options.on == "xpk" and options.spot:
            raise InputError("xpk takes Spot VMs where the cluster was made with them: leave --spot out.")
        if options.action == "create":
            raise InputError(f"--on {options.on} creates no slice: make the cluster and its node pool once, then run.")
        if options.action == "resume":
            raise InputError(f"--on {options.on} resumes by itself, up to --max-restarts times: use run.")
    if options.on == "xpk" and options.bucket:
        raise InputError(
            f"xpk mounts what is attached to the cluster, so leave --bucket out: xpk storage attach {options.bucket} "
            f"--type=gcsfuse --bucket={options.bucket} --mount-point={MOUNT} --readonly=false --auto-mount=true …"
        )
    for name in ("command", "image"):
        if options.action in ("run", "resume") and not getattr(options, name):
            raise InputError(f"{options.action} needs --{name}.")


def _check_place(options: Options) -> None:
    if options.project is None:
        raise InputError("No project is named: give --project ID (`gcloud config get project` prints the current one).")
    _check("--project", options.project, r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", "an id such as my-project-1")
    if options.zone is None:
        raise InputError("No zone is named: give --zone ZONE, one that offers the TPU, such as us-west4-a.")
    _check("--zone", options.zone, r"[a-z]+-[a-z]+\d+-[a-z0-9]+", "a zone such as us-west4-a, not a region")


def _check(what: str, value: str, pattern: str, right: str) -> None:
    if not re.fullmatch(pattern, value):
        raise InputError(f"{what} {value!r} would be refused by Google Cloud: it must be {right}.")


def create_arguments(options: Options) -> list[str]:
    """Asks for the slice; returns before it is there."""
    return [
        *_queued(options, "create", options.name),
        f"--node-id={options.name}",
        f"--accelerator-type={options.accelerator}",
        f"--runtime-version={options.runtime or options.slice.generation.runtime}",
        *(["--spot"] if options.spot else []),
    ]


def state_arguments(options: Options) -> list[str]:
    """Prints the state of the request alone, such as ACTIVE."""
    return [*_queued(options, "describe", options.name), "--format=value(state.state)"]


def run_arguments(options: Options, *, again: bool = False) -> list[str]:
    """Runs the command: on every host of a queued resource, as a JobSet (the manifest on standard input), or by xpk.

    Args:
      options: of the command.
      again: on the hosts where it was started before, whose container may have ended meanwhile.
    """
    if options.on == "gke":
        return ["kubectl", f"--context={options.cluster}", "apply", "--filename=-"]
    if options.on == "xpk":
        return [
            *_xpk(options, "create"),
            f"--workload={options.name}",
            f"--tpu-type={options.accelerator}",
            "--num-slices=1",
            f"--docker-image={options.image}",
            f"--max-restarts={options.max_restarts}",
            f"--command={options.command}",
        ]
    on_hosts = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", options.name, *_place(options), "--worker=all"]
    return [*on_hosts, *_ALIVE, f"--command={host_script(options, again=again)}"]


def watch_arguments(options: Options) -> list[str]:
    """Shows the state: once for a queued resource, until the job ends for xpk, until interrupted for gke."""
    if options.on == "gke":
        return ["kubectl", f"--context={options.cluster}", "get", "jobset", options.name, "--watch"]
    if options.on == "xpk":
        return [*_xpk(options, "list"), f"--wait-for-job-completion={options.name}"]
    return state_arguments(options)


def delete_arguments(options: Options) -> list[str]:
    """Deletes the queued resource with its slice, or the job; asks nothing."""
    if options.on == "gke":
        return ["kubectl", f"--context={options.cluster}", "delete", "jobset", options.name]
    if options.on == "xpk":
        return [*_xpk(options, "delete"), f"--workload={options.name}", "--force"]
    return [*_queued(options, "delete", options.name), "--force", "--quiet"]


def host_script(options: Options, *, again: bool = False) -> str:
    """What a host of a queued resource runs: the container, once; its output until it ends; and its exit code.

    The container does not depend on the connection: after a lost one, which gcloud itself tries again a few times, the
    script follows the container that still runs or, `again`, has ended.
    """
    lines = ["set -e"]
    if options.bucket:
        lines += [f"mkdir -p {MOUNT}", f"gcsfuse --implicit-dirs {options.bucket} {MOUNT}"]
    inner = shlex.quote("\n".join([*lines, options.command or ""]))
    image = shlex.quote(options.image or "")
    registry = (options.image or "").partition("/")[0]
    login = f"  sudo gcloud auth configure-docker {shlex.quote(registry)} --quiet"
    which = "--all --quiet" if again else "--quiet"
    return "\n".join(
        [
            "set -e",
            f"trap 'code=$?; [ $code = 1 ] || [ $code = 255 ] && code={OWN_ERROR}; exit $code' EXIT",
            f'if [ -z "$(sudo docker ps {which} --filter name=^{options.name}$)" ]; then',
            *([login] if registry.endswith((".pkg.dev", "gcr.io")) else []),
            f"  sudo docker rm {options.name} 2>/dev/null || true",
            f"  sudo docker run --detach --init --pull=always --name={options.name} --privileged --net=host {image} "
            f"bash -c {inner}",
            "fi",
            f"sudo docker logs --follow {options.name}",
            f'exit "$(sudo docker wait {options.name})"',
        ]
    )


def jobset(options: Options) -> dict[str, Any]:
    """The JobSet manifest: one pod a host; started again when a pod is lost, but not after an error of its own."""
    tpu = options.slice
    resource, n_chips = "google.com/tpu", tpu.chips // tpu.hosts
    container: dict[str, Any] = {
        "name": "dyntok",
        "image": options.image,
        "command": ["bash", "-c", options.command],
        "resources": {"requests": {resource: n_chips}, "limits": {resource: n_chips}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": tpu.generation.label,
            "cloud.google.com/gke-tpu-topology": tpu.topology,
        },
        "containers": [container],
    }
    template: dict[str, Any] = {"spec": pod}
    if options.spot:
        spot = "cloud.google.com/gke-spot"
        pod["nodeSelector"][spot] = "true"
        pod["tolerations"] = [{"key": spot, "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    if options.bucket:
        attributes = {"bucketName": options.bucket, "mountOptions": "implicit-dirs"}
        template = {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, **template}
        pod["volumes"] = [
            {"name": "bucket", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}
        ]
        container["volumeMounts"] = [{"name": "bucket", "mountPath": MOUNT}]
    own_error = {"containerName": "dyntok", "operator": "In", "values": [1, USAGE_ERROR]}
    job = {
        "parallelism": tpu.hosts,
        "completions": tpu.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": own_error}]},
        "template": template,
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": options.name,
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": options.max_restarts,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _place(options: Options) -> list[str]:
    return [f"--project={options.project}", f"--zone={options.zone}"]


def _queued(options: Options, *words: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", *words, *_place(options)]


def _xpk(options: Options, word: str) -> list[str]:
    return ["xpk", "workload", word, f"--cluster={options.cluster}", *_place(options)]
