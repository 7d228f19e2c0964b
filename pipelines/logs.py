"""What a run says on standard error: for people, or one JSON object a line for collectors."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

LogFormat = Literal["text", "json"]
INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR

_log = logging.getLogger("millstream")
_run_id = ""
_as_json = False


def use(form: LogFormat) -> None:
    """Have everything that this process logs, Beam's own included, written in a form."""
    global _as_json
    _as_json = form == "json"
    if _as_json:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logging.basicConfig(handlers=[handler], level=WARNING, force=True)
        _log.setLevel(INFO)
    _log.propagate = _as_json
    _log.handlers = [] if _as_json else [_ToPeople()]


def of_run(run_id: str) -> None:
    """Name the run that is spoken of from now on."""
    global _run_id
    _run_id = run_id


def say(message: str, level: int = INFO) -> None:
    """Tell whoever runs this."""
    if _as_json:
        _log.log(level, message)
    else:
        print(f"millstream: {message}", file=sys.stderr)


def event(message: str, **fields: Any) -> None:
    """Tell collectors what people are told in another way: only as JSON, with fields of its own."""
    if _as_json:
        _log.info(message, extra={"fields": fields})


class _ToPeople(logging.Handler):
    """What transforms have to say, said as :func:`say` says it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"millstream: {record.getMessage()}", file=sys.stderr)


class JsonLines(logging.Formatter):
    """Records as JSON objects: ``time``, ``level``, ``message``, ``logger``, ``run_id``, and, from
    inside a pipeline, ``stage``: the step's name."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if _run_id:
            said["run_id"] = _run_id
        if stage := _stage():
            said["stage"] = stage
        said.update(getattr(record, "fields", {}))
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def _stage() -> str:
    """The step that this thread is at, as Beam knows it."""
    module = sys.modules.get("apache_beam.runners.worker.statesampler")
    tracker = module.get_current_tracker() if module else None
    state = tracker.current_state() if tracker else None
    context = getattr(state, "name_context", None)
    return getattr(context, "step_name", None) or ""
