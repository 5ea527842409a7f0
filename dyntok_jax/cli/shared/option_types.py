"""Options that several commands share, and their meaning. Nothing here imports JAX before it is called."""

from typing import Annotated, Literal, get_args

import tyro

from dyntok_jax.errors import InputError
from dyntok_jax.options import Boundary, Budget, Goal, Merges, Merging, Scope, Share

DEFAULT_HYPERNET = "auto"
DEFAULT_BOUNDARY: Boundary = "pretoken"
FULL_SHARE = 100.0

arg = tyro.conf.arg
Model = Annotated[str, arg(metavar="NAME")]
Percent = Annotated[float | None, arg(metavar="PERCENT", help_behavior_hint="(default: 100)")]
Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
MaxSubwords = Annotated[int | Literal["auto", "none"] | None, arg(metavar="N|none", help_behavior_hint="")]
OptionalBoundary = Annotated[Boundary | None, arg(metavar=f"{{{','.join(get_args(Boundary))}}}", help_behavior_hint="")]
HypernetName = Annotated[str, arg(metavar="NAME|none")]
Protect = Annotated[str | None, arg(metavar="digits|REGEX|none", help_behavior_hint="")]
OptionalPath = Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")]


def hypernet_of(name: str) -> str | None:
    """`--hypernet` as the library takes it."""
    return None if name == "none" else name


def goal_of(share: float | None, merges: int | None, budget: int | None = None) -> Goal:
    """The one goal that was given, or full merging.

    Raises:
      InputError: more than one was given, or one is out of range.
    """
    given = {"--share": share, "--merges": merges, "--budget": budget}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are different goals for merging: give one of them.")

    if merges is not None:
        return Merges(merges)
    if budget is not None:
        return Budget(budget)
    return Share(FULL_SHARE if share is None else share)


def limit_of(max_subwords: int | Literal["auto", "none"] | None) -> int | Literal["auto"] | None:
    """`--max-subwords` as the library takes it: a number, None for no limit, or `auto`, the default.

    Raises:
      InputError: it is less than 1.
    """
    if max_subwords is None or max_subwords == "auto":
        return "auto"
    if max_subwords == "none":
        return None
    if max_subwords < 1:
        raise InputError(f"--max-subwords must be 1 or more, or none, got {max_subwords}.")
    return max_subwords


def merging_of(
    goal: Goal | None,
    *,
    is_goal_given: bool,
    boundary: Boundary | None,
    max_subwords: int | Literal["auto", "none"] | None,
    merge_list: str | None,
    scope: Scope | Literal["auto"] = "auto",
    merge_last: bool | Literal["auto"] = "auto",
    protect: str | None = None,
) -> Merging:
    """Combines the options; a merge list has its own boundary and limit, and needs no goal.

    `protect` is as on the command line: None if left out, `none` for nothing.

    Raises:
      InputError: the merge list has another boundary or contradicts other options, or a limit is below 1.
    """
    kept = {None: "auto", "none": None}.get(protect, protect)
    if merge_list is None:
        return Merging(goal, boundary or DEFAULT_BOUNDARY, scope, limit_of(max_subwords), None, merge_last, kept)
    if is_goal_given or max_subwords is not None:
        raise InputError(
            "--merge-list decides which merges are done and how long tokens get: omit --share, --merges, --budget "
            "and --max-subwords."
        )
    from dyntok_jax.merging import load_merges

    learnt = load_merges(merge_list)
    if boundary is not None and boundary != learnt.boundary:
        raise InputError(
            f"{merge_list} was learnt with --boundary {learnt.boundary}, not {boundary}: omit --boundary, or "
            f"learn a list for {boundary}."
        )
    return Merging(boundary=learnt.boundary, scope=scope, merge_list=learnt, merge_last=merge_last, protect=kept)


def mesh_shape(mesh: str | None) -> tuple[int, int] | None:
    """`--mesh DATAxMODEL` as two numbers of devices.

    Raises:
      InputError: it is not two numbers.
    """
    if mesh is None:
        return None
    sizes = mesh.split("x")
    if len(sizes) != 2 or not all(size.isascii() and size.isdigit() and int(size) for size in sizes):
        raise InputError(f"--mesh {mesh} is not two numbers of devices: write DATAxMODEL, such as 4x2.")
    return int(sizes[0]), int(sizes[1])
