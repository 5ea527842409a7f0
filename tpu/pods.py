r"""Creates a TPU slice, runs a command on it, watches it, resumes the command after preemption, and deletes the slice.

    python -m tpu.pods create xlm-r --project my-project --zone us-west4-a --accelerator v5litepod-8 --dry-run
    python -m tpu.pods watch xlm-r --project my-project --zone us-west4-a
    python -m tpu.pods run xlm-r --project my-project --zone us-west4-a --image IMAGE --bucket my-bucket \
        --command "dyntok encode /bucket/corpus.txt --no-static --mesh 8x1 --output /bucket/embeddings"
    python -m tpu.pods resume nli --project my-project --zone us-west4-a --spot --image IMAGE --bucket my-bucket \
        --command "dyntok train-task --config /bucket/nli.toml --output /bucket/nli --resume"
    python -m tpu.pods delete xlm-r --project my-project --zone us-west4-a

`--on gke` and `--on xpk` run, watch and delete a job in a cluster that is there already. `--dry-run` prints the
commands, and the manifest, without running anything. Needs gcloud, and for clusters kubectl or xpk; no TPU software
and no JAX. docs/tpus.md has the whole way from an empty project. Not one of these commands was run on a TPU.
"""

import shlex
import shutil
import subprocess
import sys
import time

import tyro
import yaml

from dyntok_jax.errors import DyntokError, InputError
from tpu.slices import (
    LOST,
    USAGE_ERROR,
    Options,
    check_options,
    create_arguments,
    delete_arguments,
    jobset,
    run_arguments,
    state_arguments,
    watch_arguments,
)

ACTIVE, NOT_FOUND = "ACTIVE", "NOT_FOUND"
ENDED = ("SUSPENDED", "FAILED", NOT_FOUND)
"""States that a queued resource does not leave by itself."""
LOOKS = 3
"""At the state, before an error counts as the command's own and not as the beginning of a preemption."""
OUTAGE_LOOKS = 120
"""At the state by `resume`, whose own connection may fail for long: an hour, at 30 s each."""
INSTALL = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "kubectl": "gcloud components install kubectl gke-gcloud-auth-plugin",
    "xpk": "pip install xpk",
}


def main(options: Options) -> int:
    """Runs the action, or prints what it would run; returns the exit code."""
    try:
        check_options(options)
        hosts = options.slice.hosts
        if hosts > 1 and options.action in ("create", "run", "resume"):
            print(
                f"pods.py: note: this {options.accelerator} has {hosts} hosts, and each runs the same command: "
                "dyntok_jax does not join hosts yet. Use a slice with one host, such as v6e-4 or v5p-8.",
                file=sys.stderr,
            )
        if options.dry_run:
            print(dry_run(options), end="")
            return 0
        if options.action == "resume":
            return resume(options)
        if options.action == "watch" and options.on == "queued":
            return 0 if wait(options) == ACTIVE else 1
        return call(arguments_of(options), manifest_of(options))
    except DyntokError as error:
        print(f"pods.py: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130


def arguments_of(options: Options) -> list[str]:
    """The one command of an action."""
    make = {"create": create_arguments, "run": run_arguments, "watch": watch_arguments, "delete": delete_arguments}
    return make[options.action](options)


def manifest_of(options: Options) -> str | None:
    """What the command reads from standard input: the JobSet, as YAML."""
    is_read = options.on == "gke" and options.action == "run"
    return yaml.safe_dump(jobset(options), sort_keys=False, width=1000) if is_read else None


def dry_run(options: Options) -> str:
    """The commands as a shell would take them, each with what it reads."""
    if options.action == "resume":
        parts = (
            (f"# every {options.poll:g} s", state_arguments(options)),
            ("# when SUSPENDED or FAILED", delete_arguments(options)),
            ("# then, or when NOT_FOUND", create_arguments(options)),
            ("# when ACTIVE", run_arguments(options)),
        )
        return "".join(f"{when}\n{shlex.join(arguments)}\n" for when, arguments in parts)
    manifest = manifest_of(options)
    return shlex.join(arguments_of(options)) + (f" <<'END'\n{manifest}END\n" if manifest else "\n")


def call(arguments: list[str], given: str | None = None) -> int:
    """Runs a command with our own output and error streams; returns its exit code."""
    return subprocess.run([installed(arguments[0]), *arguments[1:]], input=given, text=True, check=False).returncode


def installed(program: str) -> str:
    """The program's path.

    Raises:
      InputError: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise InputError(f"{program} is not installed, or not in PATH. To install it: {INSTALL[program]}")
    return path


def state_of(options: Options) -> str:
    """The state of the queued resource; a few failed requests in a row are borne.

    Raises:
      InputError: it cannot be found out.
    """
    arguments, said = state_arguments(options), ""
    arguments[0] = installed(arguments[0])
    for look in range(OUTAGE_LOOKS if options.action == "resume" else LOOKS):
        if look:
            time.sleep(options.poll)
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        if NOT_FOUND in done.stderr:
            return NOT_FOUND
        said = done.stderr.strip()
    raise InputError(f"gcloud cannot tell the state of {options.name}: {said}")


def wait(options: Options) -> str:
    """Waits until the slice is there, or will not come; prints each change of state, and returns the last."""
    before = None
    while True:
        state = state_of(options)
        if state != before:
            print(f"{time.strftime('%H:%M:%S')} {options.name}: {state}", file=sys.stderr, flush=True)
        if state == ACTIVE or state in ENDED:
            return state
        before = state
        time.sleep(options.poll)


def resume(options: Options) -> int:
    """Creates the slice and runs the command, again after each preemption, until the command ends by itself.

    Returns:
      The command's exit code, or that of gcloud where it refuses to delete or create.

    Raises:
      InputError: the restarts are used up.
    """
    again = False
    for _ in range(options.max_restarts + 1):
        state = wait(options)
        if state != ACTIVE:
            if code := create_again(options, state):
                return code
            again, state = False, wait(options)
        if state != ACTIVE:
            time.sleep(options.poll)
            continue
        code = call(run_arguments(options, again=again))
        is_active = code != 0 and is_still_active(options)
        if code == 0 or (is_active and code not in LOST):
            return code
        again = is_active
    raise InputError(
        f"{options.name} was lost, or not given, {options.max_restarts + 1} times before the command ended: see its "
        "state (`watch`), and allow more with --max-restarts."
    )


def create_again(options: Options, state: str) -> int:
    """Deletes what is left of the request, if anything, and asks anew; returns the exit code."""
    code = 0 if state == NOT_FOUND else call(delete_arguments(options))
    return code or call(create_arguments(options))


def is_still_active(options: Options) -> bool:
    """Whether the slice stays: a preempted one may look active for a moment after its hosts are gone."""
    for look in range(LOOKS):
        if look:
            time.sleep(options.poll)
        if state_of(options) != ACTIVE:
            return False
    return True


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
