"""One command line configures everything, and a bad one is refused with words."""

import pytest

from launcher.options import ServeOptions, read_options
from wire.settings import as_environment


def read(*argv: str, **environ: str) -> ServeOptions:
    return read_options(argv, environ)


def refused(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        read_options(argv, environ)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_flag_reaches_every_stage_that_has_it() -> None:
    options = read("--model-path", "/m", "--context-length", "512")
    assert {options.gateway.model_path, options.tokenizer.model_path} == {"/m"}
    assert {options.worker.model_path, options.detokenizer.model_path} == {"/m"}
    assert (options.tokenizer.context_length, options.worker.context_length) == (512, 512)


@pytest.mark.parametrize("argv", [["/m"], ["--model", "/m"], ["--port", "1", "/m"], ["/m", "--port", "1"]])
def test_the_model_may_be_named_in_three_ways(argv: list[str]) -> None:
    assert read(*argv).worker.model_path == "/m"


def test_two_models_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert "two models: /a and --model-path /b" in refused(capsys, "/a", "--model-path", "/b")


def test_a_variable_is_as_good_as_a_flag_which_wins() -> None:
    options = read("--port", "2", MILLRACE_PORT="1", MILLRACE_WORKERS="3")
    assert (options.gateway.port, options.serve.workers) == (2, 3)


def test_the_numbers_of_processes_have_the_names_of_others_too() -> None:
    options = read("--dp-size", "2", "--tokenizer-worker-num", "3", "--detokenizer-worker-num", "4")
    assert (options.serve.workers, options.serve.tokenizers, options.serve.detokenizers) == (2, 3, 4)


def test_names_of_vllm_are_understood() -> None:
    options = read("--max-model-len", "512", "--max-num-seqs", "7", "--gpu-memory-utilization", "0.5")
    assert (options.worker.context_length, options.worker.max_running_requests) == (512, 7)
    assert options.worker.mem_fraction_static == 0.5
    assert options.is_memory_share_given


def test_nats_is_embedded_unless_one_is_named() -> None:
    assert read().has_own_nats
    assert not read("--nats-url", "nats://n:4222").has_own_nats
    assert not read(MILLRACE_NATS_URL="nats://n:4222").has_own_nats


def test_a_flag_that_changes_nothing_here_is_reported() -> None:
    options = read("--trust-remote-code", "--attention-backend", "fa3", "--tp-size", "1", "--cuda-graph-bs", "1", "2")
    assert [line.split(" is ignored: ")[0] for line in options.ignored_flags] == [
        "--trust-remote-code",
        "--attention-backend fa3",
        "--tp-size 1",
        "--cuda-graph-bs 1 2",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tp-size", "2"], "--tp-size 2 is not supported (only 1): a worker runs on one GPU"),
        (["--quantization", "fp8"], "--quantization fp8 is not supported: quantized checkpoints"),
        (["--enable-lora"], "--enable-lora is not supported: LoRA"),
        (["--kv-cache-dtype", "fp8"], "--kv-cache-dtype fp8 is not supported (only auto)"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--page-size", "0"], "--page-size (or MILLRACE_PAGE_SIZE): Expected `int` >= 1, got '0'"),
    ],
)
def test_a_flag_that_asks_for_what_there_is_not_is_refused(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in refused(capsys, *argv)


def test_a_misspelt_variable_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "MILLRACE_PORTS; did you mean MILLRACE_PORT?" in refused(capsys, MILLRACE_PORTS="1")


def test_the_help_shows_each_setting_once_and_no_foreign_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = capsys.readouterr().out
    assert shown.count("[MILLRACE_MODEL_PATH") == 1
    assert "--tp-size" not in shown


def test_what_the_launcher_understood_is_what_a_stage_reads() -> None:
    options = read("--model-path", "/m", "--disable-radix-cache", "--api-key", "sesame")
    environ = as_environment(options.worker) | as_environment(options.gateway) | as_environment(options.common)
    again = read(**environ)
    assert (again.worker, again.gateway, again.common) == (options.worker, options.gateway, options.common)


def test_a_refusal_is_two_lines_and_not_the_list_of_all_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "--workers", "-1").count("\n") == 2


def test_the_socket_of_the_gateways_is_serves_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--listen-fd is for a gateway on its own" in refused(capsys, "--listen-fd", "3")
