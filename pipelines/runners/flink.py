"""Flink, by Beam's job server for it: what a job needs there, and what it must not ask for.

What the flags mean is in ``FlinkPipelineOptions`` and ``FlinkExecutionEnvironments`` of Beam's
runner (https://beam.apache.org/documentation/runners/flink/).
"""

from __future__ import annotations

import re
import uuid

from ..job import JobError
from ..logs import WARNING, say
from . import flink_cluster
from .flags import is_given, value, with_defaults
from .flink_cluster import NoAnswer
from .job_server import Option

CHECKPOINTS_MS = 10_000
"""How far checkpoints of a stream are apart, if its flags do not say. What was read since the last
one is read again after a failure."""

_SLOT_BYTES = 128 << 20
"""Managed memory that a slot needs: elements of up to 60 MiB went through that."""
_NETWORK_BYTES = 512 << 20
"""Network memory that a batch job with two outputs needs."""
_NAME = re.compile(r"[^a-z0-9-]+")

_SWITCHES = (
    "allow_non_restored_state attached_mode auto_balance_write_files_sharding_enabled "
    "disable_metrics enable_stable_input_drain externalized_checkpoints_enabled "
    "fail_on_checkpointing_errors faster_copy finish_bundle_before_checkpointing "
    "force_unaligned_checkpoint_enabled object_reuse operator_chaining "
    "re_iterable_group_by_key_result retain_externalized_checkpoints_on_cancellation "
    "unaligned_checkpoint_enabled"
)
_VALUES = (
    "auto_watermark_interval checkpoint_timeout_millis checkpointing_interval checkpointing_mode "
    "execution_mode_for_batch execution_retry_delay file_input_split_max_size_m_b flink_conf_dir "
    "job_check_interval_in_secs latency_tracking_interval max_bundle_size max_bundle_time_mills "
    "min_pause_between_checkpoints num_concurrent_checkpoints number_of_execution_retries "
    "report_checkpoint_duration savepoint_path shutdown_sources_after_idle_ms state_backend "
    "state_backend_storage_path"
)
OPTIONS = (
    *(Option(name, True) for name in _SWITCHES.split()),
    *(Option(name, False) for name in _VALUES.split()),
)
"""What Beam 2.77's job server takes beyond what Beam's Python knows: for when there is none to ask.
"""


def flags(flags: list[str], streaming: bool, name: str = "millstream") -> list[str]:
    """The flags of a job, with what Flink needs; what is given stays as it is.

    - ``--job_name``: what the cluster calls the job. Without, the job server makes one up that
      nobody here can know, and the job could not be cancelled.
    - ``--checkpointing_interval``: without one Beam's runner takes no checkpoints and, what is
      worse, shuts sources down as soon as they are idle.
    - ``--finish_bundle_before_checkpointing``: without it a checkpoint that comes while the
      source's first bundle is open leaves its output in a buffer for ever.

    Args:
        name: of the job, for the name in the cluster, which is another at each launch.
    """
    title = _NAME.sub("-", name.lower()).strip("-") or "millstream"
    needed = [f"--job_name={title}-{uuid.uuid4().hex[:8]}"]
    if streaming:
        needed.append(f"--checkpointing_interval={CHECKPOINTS_MS}")
        needed.append("--finish_bundle_before_checkpointing")
    return with_defaults(flags, needed)


def check_flags(flags: list[str], streaming: bool) -> None:
    """See that a job's flags are of use on Flink.

    Raises:
        JobError: one of them would lose or double records, or stop the job.
    """
    if "@" in value(flags, "--flink_master"):
        raise JobError("--flink_master: a password in it would be printed; say HOST:PORT alone")
    if not streaming:
        if is_given(flags, "--savepoint_path"):
            raise JobError("--savepoint_path: only a stream goes on from a savepoint")
        return
    if is_given(flags, "--shutdown_sources_after_idle_ms"):
        raise JobError(
            "--shutdown_sources_after_idle_ms: it ends checkpoints, and is for tests of Beam's "
            "runner only; a stream is stopped by cancelling it"
        )
    interval = _raw(flags, "--checkpointing_interval")
    if interval and not (interval.isdigit() and int(interval)):
        raise JobError(
            f"--checkpointing_interval={interval}: a stream needs checkpoints; say how many "
            "milliseconds they are apart"
        )
    mode = value(flags, "--checkpointing_mode")
    if mode not in ("", "EXACTLY_ONCE"):
        raise JobError(
            f"--checkpointing_mode={mode}: after a failure records would be in a window twice; "
            "leave it away"
        )


def _raw(flags: list[str], name: str) -> str:
    """A flag's value, which may begin with a dash, as a number does that is below 0."""
    return next((f.partition("=")[2] for f in flags if f.startswith(f"{name}=")), "")


def look(flags: list[str], streaming: bool) -> None:
    """Say what of a cluster is too small for a job, or not told."""
    if not is_given(flags, "--parallelism"):
        said = "the cluster's parallelism.default is taken, which is 1 if that is not set"
        say(f"Flink: --parallelism is not given: {said}", WARNING)
    try:
        found = too_small(flags, streaming)
    except NoAnswer as error:
        # The job server may reach it under this name, and this machine not.
        found = [str(error)]
    for line in found:
        say(f"Flink: {line}", WARNING)


def too_small(flags: list[str], streaming: bool) -> list[str]:
    """What the cluster that the flags name has too little of.

    Raises:
        NoAnswer: it does not answer.
    """
    cluster = flink_cluster.of(value(flags, "--flink_master"))
    if cluster is None:
        return []
    said = []
    parallelism = int(value(flags, "--parallelism") or 1)
    managers = cluster.task_managers()
    slots = sum(manager.slots for manager in managers)
    free = sum(manager.free for manager in managers)
    if free < parallelism:
        said.append(f"of {slots} slots {free} are free, and the job waits for {parallelism}")
    managed = min((m.managed // max(m.slots, 1) for m in managers), default=_SLOT_BYTES)
    if managed < _SLOT_BYTES:
        said.append(
            f"{managed >> 20} MiB of managed memory a slot: batches of some megabytes may fail; "
            f"give it {_SLOT_BYTES >> 20} MiB (taskmanager.memory.managed.size)"
        )
    network = min((m.network for m in managers), default=_NETWORK_BYTES)
    if network < _NETWORK_BYTES and not streaming:
        said.append(
            f"{network >> 20} MiB of network memory: a batch job with more than one output may "
            f"fail; give it {_NETWORK_BYTES >> 20} MiB (taskmanager.memory.network.min and max)"
        )
    return said


def cancel(flags: list[str]) -> None:
    """Cancel the job of these flags in its cluster, and say how that went.

    Beam's own cancelling ends with the job server: the cluster goes on with the job.
    """
    name = value(flags, "--job_name")
    cluster = flink_cluster.of(value(flags, "--flink_master"))
    if cluster is None:
        if is_given(flags, "--job_endpoint"):  # else Flink is a part of the job server, and ends
            advice = "say --flink_master=HOST:PORT to have it cancelled, or do it by hand"
            say(f"Flink may go on with the job {name}: {advice}: flink cancel JOB_ID", WARNING)
        return
    try:
        say(f"Flink's job {cluster.cancel(name)} ({name}) is cancelled")
    except NoAnswer as error:
        say(f"Flink may go on with the job {name}: {error}; {cluster.by_hand}", WARNING)
