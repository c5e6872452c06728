"""TensorBoard files, written with TensorBoard's own record writer and protobufs; needs neither torch nor tensorflow.

What is where: `train/*`, `perf/*`, `time/*`, `machine/*`, `eval/*`, `final/*` and `gradients/norm/<layer>` are
scalars, each with a description; `weights/*` and `gradients/*` histograms; samples, notices, hyper-parameters and the
architecture are also there as text; the HPARAMS and GRAPHS tabs are filled. Each attempt writes a file of its own. A
run that goes on from a checkpoint says from which step on what was written no longer counts, as torch's SummaryWriter
does with `purge_step`.

Writes are synchronous and flushed at every event: an event comes every few seconds, and a full disk is then noticed by
the write that met it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from array import array
from itertools import chain
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from luthier.events.printable import one_line, printable
from luthier.events.sinks.graph import architecture_table, cell, graph_def
from luthier.events.sinks.metrics import described, metrics
from luthier.events.types import (
    Architecture,
    Checked,
    Event,
    Gradients,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
    on_pairs,
)

_NOTICES_SHOWN = 50
_SESSION_METRICS = {
    "eval/best_loss": "best eval loss",
    "final/train_loss": "train loss",
    "final/train_runtime_seconds": "seconds",
    "final/peak_memory_gib": "peak memory (GiB)",
}


class TensorBoardSink:
    """One events file in `directory`, which is made if it is not there.

    Raises:
        OSError: The folder or the file cannot be written.
    """

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter((directory / name).open("xb"))
        self._step = 0
        self._notices: list[str] = []
        self._prompts: dict[str, int] = {}
        self._described: set[str] = set()
        self._pairs = False
        self._add(file_version="brain.Event:2")
        self._file.flush()

    def write(self, event: Event) -> None:
        """Write what TensorBoard can show of one event."""
        self._step = getattr(event, "step", None) or self._step
        if values := metrics(event):
            self._summary(*(self._scalar(tag, value) for tag, value in values.items()))
        match event:
            case RunStarted():
                self._run_started(event)
            case Resumed():
                self._goes_on_from(event.step)
            case Architecture():
                self._add(graph_def=graph_def(event.modules).SerializeToString())
                self._summary(_text("architecture", architecture_table(event)))
            case Gradients():
                self._summary(*(_histogram(tag, *row) for tag, row in event.buckets.items()))
            case Sampled():
                number = self._prompts.setdefault(event.prompt, len(self._prompts) + 1)
                self._step = event.step
                self._summary(_text(f"samples/{number}", _sample(event)))
            case Checked() if notice := event.notice():
                self._noticed(notice)
            case Notice():
                self._noticed(event)
            case RunFinished():
                self._summary(_session_end(event))
        self._file.flush()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if not self._file.closed:
            self._file.close()

    def _scalar(self, tag: str, value: float) -> summary_pb2.Summary.Value:
        """A number; the first of a tag has what it means, which TensorBoard shows behind the (i) of its chart."""
        if tag in self._described:
            return summary_pb2.Summary.Value(tag=tag, simple_value=value)
        self._described.add(tag)
        metadata = scalar_metadata.create_summary_metadata(display_name=None, description=described(tag, self._pairs))
        metadata.data_class = summary_pb2.DATA_CLASS_SCALAR  # or the fast server of tensorboard drops the text
        return summary_pb2.Summary.Value(tag=tag, metadata=metadata, simple_value=value)

    def _run_started(self, event: RunStarted) -> None:
        self._step, self._pairs = event.first_step, on_pairs(event.plan, ())
        self._goes_on_from(event.first_step)
        self._summary(_experiment(event), _session_start(event), _text("hyperparameters", _plan_table(event)))
        self._write_notices()

    def _goes_on_from(self, step: int) -> None:
        """What was written of later steps counts no longer; that step itself was logged before it was saved."""
        log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=step + 1 if step else 0, session_log=log)

    def _noticed(self, notice: Notice) -> None:
        self._notices = [*self._notices, _notice(notice)][-_NOTICES_SHOWN:]
        self._write_notices()

    def _write_notices(self) -> None:
        # All of them each time: of two texts at one step TensorBoard may show the later one only.
        if self._notices:
            self._summary(_text("notices", "\n".join(self._notices)))

    def _summary(self, *values: summary_pb2.Summary.Value) -> None:
        if values:
            self._add(step=self._step, summary=summary_pb2.Summary(value=values))

    def _add(self, **fields: object) -> None:
        self._file.write(event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())


def _text(tag: str, markdown: str) -> summary_pb2.Summary.Value:
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        string_val=[markdown.encode("utf-8", "replace")],
        tensor_shape=tensor_shape_pb2.TensorShapeProto(),
    )
    metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _histogram(tag: str, low: float, high: float, *counts: float) -> summary_pb2.Summary.Value:
    """[left edge, right edge, count] of each bucket: TensorBoard's own format of shape (buckets, 3)."""
    if low == high:
        counts = (sum(counts),)
    edges = [*(low + (high - low) * place / len(counts) for place in range(len(counts))), high]
    numbers = array("d", chain.from_iterable(zip(edges, edges[1:], counts, strict=False)))
    sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in (len(counts), 3)]
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_DOUBLE,
        tensor_content=numbers.tobytes(),
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=sizes),
    )
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _hparams(tag: str, **data: object) -> summary_pb2.Summary.Value:
    metadata = hparams_metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**data))
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)


def _experiment(event: RunStarted) -> summary_pb2.Summary.Value:
    kinds = {
        bool: api_pb2.DATA_TYPE_BOOL,
        int: api_pb2.DATA_TYPE_FLOAT64,
        float: api_pb2.DATA_TYPE_FLOAT64,
    }
    experiment = api_pb2.Experiment(
        time_created_secs=time.time(),
        hparam_infos=[
            api_pb2.HParamInfo(name=key, type=kinds.get(type(value), api_pb2.DATA_TYPE_STRING))
            for key, value in event.plan.items()
            if value is not None
        ],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name)
            for tag, name in _SESSION_METRICS.items()
        ],
    )
    return _hparams(hparams_metadata.EXPERIMENT_TAG, experiment=experiment)


def _session_start(event: RunStarted) -> summary_pb2.Summary.Value:
    start = plugin_data_pb2.SessionStartInfo(group_name=one_line(event.run), start_time_secs=time.time())
    for key, value in event.plan.items():
        match value:
            case bool():
                start.hparams[key].bool_value = value
            case int() | float():
                start.hparams[key].number_value = value
            case None:
                # A key that is not set has no type; the table shows it.
                pass
            case _:
                start.hparams[key].string_value = one_line(str(value))
    return _hparams(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=start)


def _session_end(event: RunFinished) -> summary_pb2.Summary.Value:
    status = api_pb2.STATUS_SUCCESS if event.status == "done" else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=end)


def _plan_table(event: RunStarted) -> str:
    rows = [f"| `{cell(key)}` | {cell(value)} |" for key, value in event.plan.items()]
    return "\n".join(("| key | value |", "|---|---|", *rows))


def _notice(event: Notice) -> str:
    where = f" (step {event.step:,})" if event.step is not None else ""
    change = f" Change: `{one_line(event.change)}`" if event.change else ""
    return f"- **{event.severity}**{where}: {one_line(event.text)}{change}"


def _sample(event: Sampled) -> str:
    return f"**Prompt**\n\n{_fenced(event.prompt)}\n\n**Answer at step {event.step:,}**\n\n{_fenced(event.text)}"


def _fenced(text: str) -> str:
    """A code block that no run of backticks inside can end."""
    text = printable(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
