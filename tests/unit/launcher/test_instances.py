"""Every process gets its own settings by environment, and its own GPU."""

from launcher.gpus import placement, visible_gpus
from launcher.instances import Instance, plan_tiers
from launcher.options import ServeOptions, read_options

LISTEN_FD = 9


def planned(options: ServeOptions, gpus: tuple[str, ...] = ()) -> dict[str, Instance]:
    return {instance.name: instance for tier in plan_tiers(options, LISTEN_FD, list(gpus)) for instance in tier}


def environment(instance: Instance, options: ServeOptions, **environ: str) -> dict[str, str]:
    return dict(instance.spec(options.common, environ).environment)


def test_every_stage_has_as_many_processes_as_asked_for_in_the_order_of_the_pipeline() -> None:
    options = read_options(["--workers", "2", "--gateways", "2"], {})
    names = [[instance.name for instance in tier] for tier in plan_tiers(options, LISTEN_FD, [])]
    assert names == [["gateway-0", "gateway-1"], ["tokenizer-0"], ["worker-0", "worker-1"], ["detokenizer-0"]]


def test_a_secret_travels_by_environment_and_only_to_who_needs_it() -> None:
    options = read_options(["--api-key", "sesame"], {})
    instances = planned(options)
    for instance in instances.values():
        assert "sesame" not in " ".join(instance.spec(options.common, {}).command)
    assert environment(instances["gateway-0"], options)["MILLRACE_API_KEY"] == "sesame"
    assert "sesame" not in environment(instances["worker-0"], options).values()


def test_variables_of_others_are_passed_on_and_ours_are_replaced() -> None:
    options = read_options([], {"MILLRACE_PORT": "1"})
    given = environment(planned(options)["worker-0"], options, PATH="/bin", MILLRACE_PORT="1", MILLRACE_WORKERS="5")
    assert given["PATH"] == "/bin"
    assert "MILLRACE_PORT" not in given
    assert "MILLRACE_WORKERS" not in given


def test_every_stage_ends_with_its_standard_input() -> None:
    options = read_options([], {})
    for instance in planned(options).values():
        assert environment(instance, options)["MILLRACE_EXIT_ON_STDIN_EOF"] == "True"


def test_gateways_share_the_socket_of_the_launcher() -> None:
    options = read_options(["--gateways", "2"], {})
    instances = planned(options)
    for name in ("gateway-0", "gateway-1"):
        assert environment(instances[name], options)["MILLRACE_LISTEN_FD"] == str(LISTEN_FD)
        assert instances[name].inherited_fds == (LISTEN_FD,)
    assert instances["worker-0"].inherited_fds == ()


def test_metrics_pages_have_ports_of_their_own() -> None:
    ports = [instance.metrics_port for instance in planned(read_options(["--metrics-port", "9100"], {})).values()]
    assert ports == [9100, 9101, 9102, 9103]
    assert {instance.metrics_port for instance in planned(read_options([], {})).values()} == {0}


def test_workers_go_round_the_gpus() -> None:
    options = read_options(["--workers", "3"], {})
    instances = planned(options, ("0", "1"))
    places = [environment(instances[f"worker-{i}"], options)["CUDA_VISIBLE_DEVICES"] for i in range(3)]
    assert places == ["0", "1", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in environment(instances["tokenizer-0"], options)
    assert placement(0, ["0"]) == {}


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    argv = ["--workers", "2"]
    shared = planned(read_options(argv, {}), ("0",))["worker-0"]
    apart = planned(read_options(argv, {}), ("0", "1"))["worker-0"]
    asked = planned(read_options([*argv, "--mem-fraction-static", "0.3"], {}), ("0",))["worker-0"]
    shares = [getattr(instance.settings, "mem_fraction_static") for instance in (shared, apart, asked)]  # noqa: B009
    assert shares == [0.435, 0.87, 0.3]


def test_the_visible_gpus_are_those_that_the_environment_names() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-abc"}) == ["2", "GPU-abc"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_a_gateway_is_ready_when_it_has_found_the_other_stages() -> None:
    instances = planned(read_options([], {}))
    says_ready = "[2026-11-23 08:54:51] gateway-807033bc is ready"
    says_complete = "[2026-11-23 08:54:52] The server is fired up and ready to roll! http://127.0.0.1:30000"
    assert instances["gateway-0"].is_ready_line(says_complete)
    assert not instances["gateway-0"].is_ready_line(says_ready)
    assert instances["worker-0"].is_ready_line(says_ready.replace("gateway", "worker"))
    assert not instances["worker-0"].is_ready_line("[2026-11-23 08:54:51] the cache is ready")
