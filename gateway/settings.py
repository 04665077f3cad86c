"""The gateway's settings. Names and defaults follow SGLang where it has them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Gateway: the HTTP server."""

    host: Annotated[str, Meta(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 picks a free one")] = 30000
    listen_fd: (
        Annotated[
            int,
            Meta(
                ge=0,
                description="Inherited socket, shared by gateways, instead of host and port",
                extra={"internal": True},
            ),
        ]
        | None
    ) = None
    model_path: Annotated[str, Meta(description="A folder, a hub name, or `demo`", extra={"aliases": ["--model"]})] = (
        "demo"
    )
    served_model_name: Annotated[str | None, Meta(description="Name in the API; the model path if unset")] = None
    api_key: Annotated[
        str, Meta(description="Key that clients must send as a bearer token", extra={"secret": True})
    ] = ""
    api_key_file: Annotated[str, Meta(description="File of more keys, one per line; # begins a comment line")] = ""
    max_queued_requests: Annotated[
        int,
        Meta(ge=-1, description="Sequences (prompts times n) that may wait; beyond that is 429; -1 is unlimited"),
    ] = 4096
    max_request_bytes: Annotated[int, Meta(ge=1024, description="Largest HTTP body, in bytes")] = 32 * 2**20
    max_logprobs: Annotated[int, Meta(ge=0, description="Most alternatives per token that a client may ask for")] = 20
    client_timeout: Annotated[
        float, Meta(gt=0, description="Seconds after which a client that reads or sends no more is cut off")
    ] = 30.0
    drain_grace: Annotated[
        float, Meta(ge=0, description="Seconds after SIGTERM in which balancers and idle clients may notice")
    ] = 3.0
    resume_timeout: Annotated[
        float, Meta(ge=0, description="Seconds that an admitted request waits for a worker to come back")
    ] = 120.0
    disable_recovery: Annotated[
        bool,
        Meta(
            description="Fail a request when something is lost under it. For measuring: silent losses go unnoticed",
        ),
    ] = False
    incremental_streaming_output: Annotated[
        bool, Meta(description="/generate streams deltas instead of cumulative text")
    ] = False
    stream_interval: Annotated[int, Meta(ge=1, description="Tokens per event of a stream, at least")] = 1
    sampling_defaults: Annotated[
        Literal["model", "openai"],
        Meta(description="Source of what a chat leaves unset: generation_config.json, or OpenAI's defaults"),
    ] = "model"
    enable_metrics: Annotated[bool, Meta(description="Serve /metrics")] = True
    enable_cache_report: Annotated[bool, Meta(description="Report cached tokens in usage")] = True

    @property
    def model_name(self) -> str:
        """The served name."""
        return self.served_model_name or self.model_path
