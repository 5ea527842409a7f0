"""What `tpu/aot.py` reads out of compiled programs; and, where libtpu is installed, a tiny one compiled for a TPU."""

import json
import os
import subprocess
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.models import DecoderConfig, EncoderConfig
from dyntok_jax.sharding import make_mesh

ROOT = Path(__file__).parents[2]
TINY = DecoderConfig("llama", 64, 32, 3, 8, 4, 8, 48)

# an outer loop of unknown length around one of 4 steps, in which a slice of the weights is multiplied and reduced
PROGRAM = """\
HloModule jit_run, is_scheduled=true

FileNames
1 "/somewhere/model.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%multiply (p.0: bf16[4,16,32], p.1: s32[], p.2: bf16[8,16]) -> bf16[8,32] {
  %p.0 = bf16[4,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %slice = bf16[1,16,32]{2,1,0} dynamic-slice(%p.0, %p.1), dynamic_slice_sizes={1,16,32}
  %weights = bf16[16,32]{1,0} bitcast(%slice)
  %p.2 = bf16[8,16]{1,0} parameter(2)
  ROOT %product = bf16[8,32]{1,0} convolution(%p.2, %weights), dim_labels=bf_io->bf
}

%inner_body (s: (s32[], bf16[8,16], bf16[4,16,32])) -> (s32[], bf16[8,16], bf16[4,16,32]) {
  %s = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%s), index=1
  %w = bf16[4,16,32]{2,1,0} get-tuple-element(%s), index=2
  %two = s32[] constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %hidden = bf16[8,32]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %i, %x), kind=kOutput, calls=%multiply, backend_config={"window_config":{"estimated_cycles":"100"}}
  %reduced = bf16[8,32]{1,0:T(8,128)(2,1)S(1)} all-reduce(%hidden), channel_id=1, to_apply=%add
  %y = bf16[8,16]{1,0} slice(%reduced), slice={[0:8], [0:16]}, metadata={op_name="jit(run)/while/body/slice" stack_frame_id=1}
  ROOT %out = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}) tuple(%next, %y, %w)
}

%inner_condition (s.1: (s32[], bf16[8,16], bf16[4,16,32])) -> pred[] {
  %s.1 = (s32[], bf16[8,16], bf16[4,16,32]) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %end = s32[] constant(8)
  ROOT %less = pred[] compare(%i.1, %end), direction=LT
}

%outer_body (s.2: (s32[], bf16[8,16], bf16[4,16,32])) -> (s32[], bf16[8,16], bf16[4,16,32]) {
  %s.2 = (s32[], bf16[8,16], bf16[4,16,32]) parameter(0)
  %x.2 = bf16[8,16] get-tuple-element(%s.2), index=1
  %w.2 = bf16[4,16,32] get-tuple-element(%s.2), index=2
  %zero = s32[] constant(0)
  %begin = s32[] copy(%zero)
  %state = (s32[], bf16[8,16], bf16[4,16,32]) tuple(%begin, %x.2, %w.2)
  ROOT %scan = (s32[], bf16[8,16], /*index=2*/bf16[4,16,32]) while(%state), condition=%inner_condition, body=%inner_body, metadata={op_name="jit(run)/while/body/while"}
}

%outer_condition (s.3: (s32[], bf16[8,16], bf16[4,16,32])) -> pred[] {
  %s.3 = (s32[], bf16[8,16], bf16[4,16,32]) parameter(0)
  ROOT %again = pred[] custom-call(%s.3), custom_call_target="Ask"
}

ENTRY %main (in.0: bf16[8,16], in.1: bf16[4,16,32]) -> (s32[], bf16[8,16], bf16[4,16,32]) {
  %in.0 = bf16[8,16]{1,0} parameter(0)
  %in.1 = bf16[4,16,32]{2,1,0} parameter(1), metadata={op_name="model.layers.kernel.value"}
  %start = s32[] constant(0)
  %relaid = bf16[4,16,32]{1,2,0} copy(%in.1), metadata={op_name="jit(run)/while" stack_frame_id=1}
  %carried = (s32[], bf16[8,16], bf16[4,16,32]) tuple(%start, %in.0, %relaid)
  ROOT %loop = (s32[], bf16[8,16], bf16[4,16,32]) while(%carried), condition=%outer_condition, body=%outer_body, metadata={op_name="jit(run)/while"}
}
"""  # noqa: E501
BUFFERS = """\
BufferAssignment:
allocation 1: size 4096, page 0, parameter 1, shape |bf16[4,16,32]| at ShapeIndex {}:
 value: <1 in.1 @0> (size=4096,offset=0): bf16[4,16,32]{2,1,0}
allocation 2: size 9999, color 1, page 0, preallocated-temp:
 value: <2 hidden @1> (size=9999,offset=0): bf16[8,32]{1,0:S(1)}
allocation 3: size 8448, page 0, preallocated-temp:
 value: <3 y{} @0> (size=256,offset=8192): bf16[8,16]{1,0}
 value: <4 relaid @0> (size=8192,offset=0): bf16[4,16,32]{1,2,0}
"""


@pytest.fixture
def hlo():
    return import_module("tpu.hlo")


@pytest.fixture
def costs():
    return import_module("tpu.costs")


@pytest.fixture
def programs():
    return import_module("tpu.programs")


def test_loops_run_as_often_as_the_program_or_its_notes_say(hlo, costs):
    module = hlo.parse_module(PROGRAM)
    runs = costs.count_runs(module, [costs.Loop(r"jit\(run\)/while", 10, "rounds")])
    assert runs.of == {"main": 1, "outer_body": 10, "inner_body": 40}
    assert runs.loops == {"jit(run)/while": 10, "jit(run)/while/body/while": 4}
    assert runs.unknown == ()
    without_notes = costs.count_runs(module)
    assert without_notes.of["inner_body"] == 4
    assert without_notes.unknown == ("jit(run)/while",)


def test_work_counts_products_and_what_moves_to_and_from_main_memory(hlo, costs):
    module = hlo.parse_module(PROGRAM)
    work = costs.computation_work(module, "inner_body")
    weights, x, y = 16 * 32 * 2, 8 * 16 * 2, 8 * 16 * 2  # the product and its reduction stay in fast memory
    counter = 4 * 4  # read by the slice and, with what is added, by the sum; written once
    assert work == costs.Work(flops=2 * 8 * 16 * 32, bytes=weights + x + y + counter, cycles=100)
    total = costs.total_work(module, costs.count_runs(module, [costs.Loop(r"jit\(run\)/while", 10, "")]).of)
    assert total.flops == 40 * work.flops


def test_collectives_count_with_their_loops(hlo, costs):
    module = hlo.parse_module(PROGRAM)
    runs = costs.count_runs(module, [costs.Loop(r"jit\(run\)/while", 10, "")])
    assert costs.collectives(module, runs.of) == [costs.Traffic("all-reduce", 40, 40 * 8 * 32 * 2)]


def test_cycles_are_told_apart_by_the_names_of_operations(hlo, costs):
    named = PROGRAM.replace(
        "kind=kOutput, calls=%multiply,", 'kind=kOutput, calls=%multiply, metadata={op_name="jit(f)/model"},'
    )
    module = hlo.parse_module(named)
    counts = costs.count_runs(module, [costs.Loop(r"jit\(run\)/while", 10, "rounds")]).of
    assert costs.cycles_of(module, counts, r".*/model") == 40 * 100
    assert costs.cycles_of(module, counts, r".*/while") == 0


def test_the_largest_temporary_is_named(hlo, costs):
    module = hlo.parse_module(PROGRAM)
    buffers = hlo.parse_temporaries(BUFFERS)
    assert [(buffer.name, buffer.n_bytes) for buffer in buffers] == [("relaid", 8192), ("y", 256)]
    assert costs.describe(module, buffers[0]) == "bf16[4,16,32] · copy of model.layers.kernel · model.py:7"
    assert costs.describe(module, buffers[1]) == "bf16[8,16] · slice · jit(run)/while/body/slice · model.py:7"


@pytest.mark.parametrize(
    ("attributes", "image", "kernel", "output", "flops"),
    [
        ("dim_labels=bf_oi->bf", (8, 16), (32, 16), (8, 32), 2 * 8 * 16 * 32),
        # 5 products of 4×8 and 8×6: a batch is a dilated axis, each entry of which meets one of the kernel's
        (
            "window={size=5 stride=4 lhs_dilate=5}, dim_labels=0bf_0io->0bf",
            (5, 4, 8),
            (5, 8, 6),
            (5, 4, 6),
            2 * 5 * 4 * 8 * 6,
        ),
        # heads as an axis that padding shifts over
        (
            "window={size=3 pad=2_2 rhs_reversal=1}, dim_labels=bf0_i0o->b0f",
            (4, 8, 1),
            (8, 3, 6),
            (4, 3, 6),
            2 * 3 * 4 * 8 * 6,
        ),
    ],
    ids=["product", "batch of products", "heads"],
)
def test_products_in_the_form_of_convolutions_count_as_products(hlo, costs, attributes, image, kernel, output, flops):
    shape, image, kernel = (hlo.Shape("bf16", dims) for dims in (output, image, kernel))
    one = hlo.Instruction("c", "convolution", (shape,), ("x", "w"), {}, f", {attributes}", True)
    assert costs.convolution_flops(one, image, kernel) == flops


def test_an_update_in_place_counts_what_it_touches(hlo, costs):
    module = hlo.parse_module(
        "ENTRY %main (c: f32[100,8], n: f32[1,8], i: s32[]) -> f32[100,8] {\n"
        "  %c = f32[100,8]{1,0} parameter(0)\n"
        "  %n = f32[1,8]{1,0} parameter(1)\n"
        "  %i = s32[]{:S(6)} parameter(2)\n"
        "  ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%c, %n, %i, %i)\n"
        "}\n"
    )
    assert costs.computation_work(module, "main").bytes == 2 * 8 * 4


@pytest.mark.parametrize(
    ("relabel", "aliasing"), [("copy", ", output_to_operand_aliasing={{}: (0, {})}"), ("bitcast", "")]
)
@pytest.mark.parametrize(
    ("use", "rows"),
    [("dynamic-slice(%f, %i, %i), dynamic_slice_sizes={1,8}", 1), ("reduce(%f, %i), dimensions={0}", 100)],
)
def test_what_only_gets_another_layout_counts_as_its_user_reads_it(hlo, costs, relabel, aliasing, use, rows):
    module = hlo.parse_module(
        "%relabel (p: s8[100,8]) -> s8[100,8] {\n"
        "  %p = s8[100,8]{1,0:T(32,128)(4,1)} parameter(0)\n"
        f"  ROOT %c = s8[100,8]{{1,0:T(8,128)(4,1)}} {relabel}(%p)\n"
        "}\n\n"
        "%body (w: s8[100,8], i: s32[]) -> s8[1,8] {\n"
        "  %w = s8[100,8]{1,0:T(32,128)(4,1)} parameter(0)\n"
        "  %i = s32[]{:S(6)} parameter(1)\n"
        f"  %f = s8[100,8]{{1,0:T(8,128)(4,1)}} fusion(%w), kind=kLoop{aliasing}, calls=%relabel\n"
        f"  ROOT %s = s8[1,8]{{1,0}} {use}\n"
        "}\n\n"
        "ENTRY %main (rows: s8[100,8], at: s32[]) -> s8[1,8] {\n"
        "  %rows = s8[100,8]{1,0} parameter(0)\n"
        "  %at = s32[]{:S(6)} parameter(1)\n"
        "  ROOT %one = s8[1,8]{1,0} fusion(%rows, %at), kind=kLoop, calls=%body\n"
        "}\n"
    )
    assert costs.computation_work(module, "main").bytes == 8 * rows + 8


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (20.57G) exceeds available HBM (15.75G). HLO module: jit_advance.",
            ("20.57G", "15.75G"),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 215.17G of 31.25G hbm. Exceeded hbm capacity by 183.92G.",
            ("215.17G", "31.25G"),
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_out_of_memory_errors_are_read(message, sizes):
    assert import_module("tpu.compiled").parse_out_of_memory(message) == sizes


@pytest.mark.parametrize(("n_devices", "mesh"), [(1, (1, 1)), (8, (2, 4)), (6, (3, 2)), (32, (8, 4))])
def test_the_mesh_divides_the_key_value_heads_unless_told_otherwise(programs, n_devices, mesh):
    assert programs.default_mesh(TINY, n_devices) == mesh


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            (1, 8),
            "8 devices on the mesh axis 'model' do not divide the model's 4 key/value heads: use a mesh of 8x1, 4x2",
        ),
        ((4, 2), "4 devices on the mesh axis 'data' do not divide a batch of 6"),
        ((2, 2), "A mesh of 2x2 has 4 devices, but the topology 8"),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused_before_anything_is_compiled(programs, mesh, message):
    with pytest.raises(ConfigError, match=message):
        programs.check_mesh(TINY, 6, *mesh, 8)


def test_programs_are_the_functions_that_run(programs, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes alone are no arrays
    mesh = make_mesh(2, 4)
    prefill = programs.prefill_program(TINY, mesh, jnp.bfloat16, n_batch=4, length=64, chunk=16)
    state = prefill.function.lower(*prefill.arguments, **prefill.options).out_info
    decode = programs.decode_program(TINY, mesh, jnp.bfloat16, n_batch=4, capacity=64, size=8)
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), decode.arguments[1])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == expected
    decode.function.lower(*decode.arguments, **decode.options)
    device_bytes = import_module("tpu.compiled").device_bytes
    # 3 layers · keys and values · 4 ÷ 2 sequences · 64 slots · 4 ÷ 4 heads · 8 wide · 2 bytes, and lengths
    assert device_bytes(decode.held["cache"]) == 3 * 2 * 2 * 64 * 1 * 8 * 2 + 2 * 4
    with pytest.raises(InputError, match="must be a multiple of the 16 tokens that are read at a time, got 60"):
        programs.prefill_program(TINY, mesh, jnp.bfloat16, n_batch=4, length=60, chunk=16)


def test_the_search_of_a_large_vocabulary_and_its_step_are_those_that_run(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes alone are no arrays
    large_program, mesh = import_module("tpu.large_program"), make_mesh(2, 4)
    sizes = {"n_batch": 4, "n_rows": 50_000}
    search = large_program.search_program(TINY, mesh, jnp.bfloat16, **sizes)
    ids, logits = search.function.lower(*search.arguments).out_info
    assert (ids.shape, logits.dtype) == ((4, large_program.CANDIDATES), jnp.float32)
    exact = large_program.exact_program(TINY, mesh, jnp.bfloat16, **sizes)
    assert jax.tree.map(jnp.shape, exact.function.lower(*exact.arguments).out_info) == (ids.shape, logits.shape)
    step = large_program.large_decode_program(TINY, mesh, jnp.bfloat16, **sizes, capacity=64, size=8)
    state, _ = step.function.lower(*step.arguments, **step.options).out_info
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, step.arguments[1])
    # blocks that are nine tenths full, a quarter of them on each device: 8-bit rows, ids and scales; ranking, counts
    n_blocks = round(50_000 / 0.9 / 256 / 4)
    index = n_blocks * (256 * (TINY.width + 8) + 4 * TINY.width + 8)
    special = large_program.N_SPECIAL * (4 + 2 * TINY.width)
    assert import_module("tpu.compiled").device_bytes(step.held["index"]) == pytest.approx(index + special, rel=0.02)


@pytest.mark.slow
def test_the_training_step_keeps_the_form_of_its_state(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    program = import_module("tpu.train_program").train_program(
        TINY, make_mesh(8, 1), jnp.bfloat16, n_batch=8, length=16
    )
    state, metrics = program.function.lower(*program.arguments, **program.options).out_info
    after, before = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, program.arguments[0]))
    assert after == before
    assert set(metrics) == {"hidden", "next_subword", "loss", "gradient_norm"}


@pytest.mark.slow
def test_the_step_of_a_decoder_s_adapter_keeps_the_form_of_its_state(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    program = import_module("tpu.task_program").lm_program(TINY, make_mesh(2, 4), jnp.bfloat16, n_batch=4, length=32)
    state, metrics = program.function.lower(*program.arguments, **program.options).out_info
    after, before = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, program.arguments[0]))
    assert after == before
    assert set(metrics) == {"loss", "gradient_norm"}


@pytest.mark.slow
def test_the_step_of_a_task_keeps_the_form_of_its_state(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    config = EncoderConfig("xlm-roberta", 64, 32, 2, 4, 48, 40, 1, 1, 1e-5)
    program = import_module("tpu.task_program").task_program(
        config, make_mesh(4, 2), jnp.bfloat16, n_batch=8, length=16
    )
    state, metrics = program.function.lower(*program.arguments, **program.options).out_info
    after, before = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, program.arguments[0]))
    assert after == before
    assert set(metrics) == {"loss", "accuracy", "gradient_norm"}
    # two float32 moments a parameter, and counts of steps
    device_bytes = import_module("tpu.compiled").device_bytes
    assert device_bytes(program.held["moments"]) == pytest.approx(2 * device_bytes(program.held["adapter"]), abs=16)


@pytest.mark.slow
def test_the_one_program_of_an_encoder_is_the_one_that_runs(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    config = EncoderConfig("xlm-roberta", 64, 32, 2, 4, 48, 40, 1, 1, 1e-5)
    program = import_module("tpu.encode_program").encode_program(
        config, make_mesh(4, 2), jnp.bfloat16, n_batch=8, length=32, n_predicted=8, n_merges=0
    )
    out = program.function.lower(*program.arguments, **program.options).out_info
    assert (out.result.shape, out.merged.start_BT.shape) == ((8, 32), (8, 32))
    after, before = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (out.cache, program.held["cache"]))
    assert after == before


def test_an_encoder_is_found_by_name_or_by_its_config_and_lies_whole_on_each_device(programs, tmp_path):
    find = partial(programs.find_config, kinds=(DecoderConfig, EncoderConfig))
    config = find("xlm-r-base")
    assert (config.n_layers, config.max_tokens) == (12, 512)
    assert programs.default_mesh(config, 8) == (8, 1)
    with pytest.raises(ConfigError, match="do not divide the model's 12"):
        programs.check_mesh(config, 256, 1, 8, 8)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    assert find(str(tmp_path)) == config
    with pytest.raises(InputError, match=r"The model must be .*xlm-r-base or the path"):
        find("no-such")
    assert find("mistral-7b") == programs.find_config("mistral-7b")
    with pytest.raises(ConfigError):
        programs.find_config(str(tmp_path))


def test_a_model_is_found_by_name_or_by_its_config(programs, tmp_path):
    assert programs.find_config("mistral-7b").n_kv_heads == 8
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_hf()))
    assert programs.find_config(str(tmp_path)) == programs.find_config(str(tmp_path / "config.json")) == TINY
    with pytest.raises(InputError, match=r"must be mistral-7b, .* got 'no-such'"):
        programs.find_config("no-such")


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
    aot = import_module("tpu.aot")
    monkeypatch.setattr(aot, "ENVIRONMENT", {})
    monkeypatch.setattr(aot.importlib, "util", SimpleNamespace(find_spec=lambda _: None))
    with pytest.raises(SystemExit) as status:
        aot.main(aot.Options())
    assert status.value.code == 2
    assert capsys.readouterr().err.strip().endswith("is not installed: pip install 'dyntok_jax[aot]'.")


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, the TPU compiler: the extra aot")
def test_a_tiny_model_compiles_for_a_tpu(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_hf()))
    out = tmp_path / "aot.json"
    sizes = ["--batch", "4", "--length", "64", "--chunk", "16", "--cache", "64"]
    command = [sys.executable, "-m", "tpu.aot", "--model", tmp_path, "--topology", "v5e:2x2", *sizes, "--json", out]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert result.returncode == 0, result.stderr
    assert "Assumed to run once" not in result.stdout  # every loop is known
    figures = json.loads(out.read_text())
    prefix = "decode_v5e:2x2_as_1x4_"
    assert 0 < figures[f"{prefix}total_bytes"] < figures[f"{prefix}memory_bytes"]
    # two operations a weight and sequence, the table of outputs among them, and attention, on 4 devices
    weights = 3 * (32 * 8 * 8 * 2 + 32 * 4 * 8 * 2 + 32 * 48 * 3) + 64 * 32
    attention = 3 * 8 * 8 * 2 * (64 + 1)
    assert figures[f"{prefix}flops"] == pytest.approx(2 * 4 * (weights + attention) / 4, rel=0.02)
    assert figures[f"{prefix}all_reduce_count"] > 0
