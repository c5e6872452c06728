import math
import time
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from luthier.events.numbers import NUMBERS, NUMBERS_OF_PAIRS
from luthier.events.sinks import Sinks
from luthier.events.sinks.graph import architecture_table, graph_def
from luthier.events.sinks.tensorboard import TensorBoardSink
from luthier.events.types import Architecture, Machine, Notice, Resumed, Sampled, Timing
from tests.events.stream import ESCAPES, MODULES, finished, log, started, whole_run


def write(directory, events):
    sink = TensorBoardSink(directory)
    for event in events:
        sink.write(event)
    sink.close()


def read(directory):
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def scalars(accumulator, tag):
    return [(point.step, pytest.approx(point.value)) for point in accumulator.Scalars(tag)]


def texts(accumulator, tag):
    return [
        (point.step, tensor_util.make_ndarray(point.tensor_proto).item().decode()) for point in accumulator.Tensors(tag)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    write(directory, whole_run())
    return read(directory)


def test_scalars(whole):
    expected = [(step, 2.5 * math.exp(-step / 60)) for step in range(10, 101, 10)]
    assert scalars(whole, "train/loss") == expected
    assert scalars(whole, "eval/loss") == [(50, 1.05), (100, 1.1)]
    assert scalars(whole, "eval/best_loss") == [(50, 1.05)]
    assert scalars(whole, "gradients/norm/layers.0.q_proj") == [(50, 0.25), (100, 0.25)]
    assert scalars(whole, "final/train_loss") == [(100, 1.2)]
    assert {"train/learning_rate", "train/grad_norm", "train/epoch", "train/num_tokens"} <= set(whole.scalars.Keys())
    assert {
        f"perf/{name}" for name in ("tokens_per_second", "trained_tokens_per_second", "step_seconds", "memory_gib")
    } <= set(whole.scalars.Keys())


def test_every_scalar_says_what_it_is(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for event in [*whole_run(), Timing(100, *[0.1] * 6, [0.5, 0.6], [1.0, 2.0]), Machine(100, *[50.0] * 9)]:
        sink.write(event)
    sink.close()
    board = EventAccumulator(str(tmp_path), {"tensors": 0, "scalars": 0}).Reload()
    tags = board.Tags()["scalars"]
    told = {tag: board.SummaryMetadata(tag).summary_description for tag in tags}
    assert len(told) > 30 and [tag for tag, text in told.items() if len(text) < 20] == []
    for tag, key in (("train/loss", "loss"), ("eval/loss", "eval_loss"), ("time/own_seconds/rank_1", "own_seconds")):
        assert told[tag].startswith(NUMBERS[key].idea) and told[tag].endswith(NUMBERS[key].care)
    assert board.SummaryMetadata("train/loss").data_class == 1  # scalar: the fast server keeps no other's text


def test_a_loss_of_pairs_says_what_it_is(tmp_path):
    start = replace(started(), plan={"training.objective": "dpo"})
    write(tmp_path, [start, replace(log(10, 0.5), reward_margin=0.5)])
    board = EventAccumulator(str(tmp_path), {"tensors": 0, "scalars": 0}).Reload()
    told = {tag: board.SummaryMetadata(tag).summary_description for tag in board.Tags()["scalars"]}
    assert told["train/loss"].startswith(NUMBERS_OF_PAIRS["loss"].idea)
    assert told["train/rewards/margins"].startswith(NUMBERS["rewards/margins"].idea)


def test_histograms_keep_their_buckets(whole):
    tag = "weights/layers.0.q_proj.lora_A"
    assert whole.SummaryMetadata(tag).plugin_data.plugin_name == "histograms"
    point = whole.Tensors(tag)[0]
    assert point.step == 50
    assert tensor_util.make_ndarray(point.tensor_proto).tolist() == [[-0.1, 0.0, 3.0], [0.0, 0.1, 5.0]]
    point = whole.Tensors("weights/layers.0.q_proj.lora_B")[0]
    assert tensor_util.make_ndarray(point.tensor_proto).tolist() == [[0.0, 0.0, 8.0]], "of one value"


def test_samples_cannot_leave_their_fence(whole):
    assert whole.SummaryMetadata("samples/1").plugin_data.plugin_name == "text"
    ((step, text),) = texts(whole, "samples/1")
    assert step == 0
    assert text.count("\n`````\n") == 1
    assert text.endswith("\n`````")
    assert "\x1b" not in text
    assert [step for step, _ in texts(whole, "samples/2")] == [100]


def test_notices_accumulate(whole):
    step, text = texts(whole, "notices")[-1]
    assert step == 100
    assert "- **info**: rows left out" in text
    assert "Change: `training.num_train_epochs: 1`" in text


def test_hyper_parameters_are_a_table_and_a_session(whole):
    ((_, table),) = texts(whole, "hyperparameters")
    assert "| `training.learning_rate` | 0.0002 |" in table
    content = whole.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = hparams_metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["training.learning_rate"].number_value == 2e-4
    assert start.hparams["quantization.load_in_4bit"].bool_value is True
    assert start.hparams["training.lr_scheduler_type"].string_value == "cosine"
    assert "training.max_steps" not in start.hparams
    content = whole.SummaryMetadata(hparams_metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert hparams_metadata.parse_session_end_info_plugin_data(content).status == 1
    content = whole.SummaryMetadata(hparams_metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = hparams_metadata.parse_experiment_plugin_data(content)
    assert {info.name.tag for info in experiment.metric_infos} <= set(whole.scalars.Keys())


def test_the_graph_nests_and_chains_the_innermost_modules(whole):
    nodes = list(whole.Graph().node)
    assert [node.name for node in nodes] == [
        "tokens",
        "embed",
        "layers/0/q_proj/base_layer",
        "layers/0/q_proj/lora_A",
        "layers/1/q_proj/base_layer",
        "layers/1/q_proj/lora_A",
    ]
    assert [list(node.input) for node in nodes[1:]] == [[node.name] for node in nodes[:-1]]
    lora = nodes[3]
    assert (lora.op, lora.device, lora.attr["shape"].s, lora.attr["trainable"].i) == (
        "Linear",
        "/device:trained",
        b"2 x 10",
        20,
    )


def test_the_architecture_table_folds_layers_that_are_alike(whole):
    ((_, table),) = texts(whole, "architecture")
    assert table == architecture_table(Architecture(1240, 40, MODULES))
    assert "| `layers.*.q_proj.lora_A` | 2 | Linear | 2 x 10 | 20 | 20 |" in table


def test_the_model_itself_is_no_node_of_its_graph():
    modules = [{"name": "Llama", "type": "Llama"}, {"name": "head", "type": "Linear"}]
    assert [node.name for node in graph_def(modules).node] == ["tokens", "head"]


def test_containers_without_a_parameter_are_no_nodes():
    """peft gives each adapted layer some: an embedding's, a DoRA's."""
    kinds = {"lora_embedding_A": "ParameterDict", "lora_magnitude_vector": "ModuleDict", "lora_A.default": "Linear"}
    modules = [{"name": f"q_proj.{name}", "type": kind, "parameters": 0} for name, kind in kinds.items()]
    assert [node.name for node in graph_def(modules).node] == ["tokens", "q_proj/lora_A/default"]


def test_a_graph_of_nothing():
    assert [node.name for node in graph_def([]).node] == ["tokens"]


def test_a_resumed_attempt_replaces_the_steps_after_its_checkpoint(tmp_path):
    write(tmp_path, [started(), *(log(step, 9.0) for step in (10, 20, 30, 40))])
    write(tmp_path, [started(20), *(log(step, 1.0) for step in (30, 40)), finished()])
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(read(tmp_path), "train/loss") == [(10, 9.0), (20, 9.0), (30, 1.0), (40, 1.0)]


def test_steps_that_a_run_took_back_are_replaced(tmp_path):
    again = Resumed(20, "checkpoint-20"), *(log(step, 1.0) for step in (30, 40))
    write(tmp_path, [started(), *(log(step, 9.0) for step in (10, 20, 30, 40)), *again])
    assert scalars(read(tmp_path), "train/loss") == [(10, 9.0), (20, 9.0), (30, 1.0), (40, 1.0)]


def test_a_run_from_the_start_replaces_all_steps(tmp_path):
    write(tmp_path, [started(), log(10, 9.0), log(20, 9.0)])
    write(tmp_path, [Notice(severity="info", text="before"), started(), log(20, 1.0)])
    again = read(tmp_path)
    assert scalars(again, "train/loss") == [(20, 1.0)]
    assert texts(again, "notices")[-1] == (0, "- **info**: before")


def test_what_was_written_can_be_read_while_the_run_goes_on(tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.write(log(10))
    assert scalars(read(tmp_path), "train/loss") == [(10, 1.5)]
    sink.close()
    sink.close()


def test_numbers_that_are_none_do_not_stop_it(tmp_path):
    write(tmp_path, [log(10, math.nan), log(20, math.inf), log(30, 1e300), Sampled(0, ESCAPES, ESCAPES)])
    assert len(read(tmp_path).Scalars("train/loss")) == 3


def test_a_removed_folder_does_not_stop_the_run(tmp_path):
    said = []
    with Sinks(said.append) as sinks:
        sinks.add("tensorboard", TensorBoardSink(tmp_path / "logs"))
        for path in (tmp_path / "logs").iterdir():
            path.unlink()
        (tmp_path / "logs").rmdir()
        sinks.write(log(10))
    assert said == []


def test_it_is_fast_enough_to_be_written_in_the_loop(tmp_path):
    sink = TensorBoardSink(tmp_path)
    start = time.perf_counter()
    for step in range(100):
        sink.write(log(step))
    assert (time.perf_counter() - start) / 100 < 0.01
    sink.close()
