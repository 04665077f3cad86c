"""The Litestar app: which routes there are, and what happens around them."""

from functools import partial
from importlib.metadata import version

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from gateway.errors import RequestError
from gateway.http import docs_routes, native_routes, openai_routes, operations_routes
from gateway.http.api_keys import ApiKeys
from gateway.http.context import Gateway
from gateway.http.guards import ApiKeyGuard, HttpCounters, answer_bug, answer_http_error, answer_request_error

_HANDLERS = [
    openai_routes.chat_completions,
    openai_routes.completions,
    openai_routes.models,
    openai_routes.model,
    native_routes.generate,
    native_routes.abort_request,
    native_routes.flush_cache,
    native_routes.tokenize,
    native_routes.detokenize,
    operations_routes.root,
    operations_routes.health,
    operations_routes.ready,
    operations_routes.health_generate,
    operations_routes.model_info,
    operations_routes.server_info,
    operations_routes.metrics,
    docs_routes.openapi_json,
    docs_routes.docs,
]


def create_app(gateway: Gateway, api_keys: ApiKeys) -> Litestar:
    """Every route over one gateway, for clients that have one of the keys."""
    return Litestar(
        route_handlers=_HANDLERS,
        dependencies={"gateway": Provide(lambda: gateway, sync_to_thread=False, use_cache=True)},
        before_request=ApiKeyGuard(api_keys),
        middleware=[partial(HttpCounters, metrics=gateway.metrics)],
        exception_handlers={
            RequestError: answer_request_error,
            HTTPException: answer_http_error,
            Exception: answer_bug,
        },
        cors_config=CORSConfig(allow_origins=["*"]),
        request_max_body_size=None,
        openapi_config=OpenAPIConfig(
            title="Millrace",
            version=version("millrace"),
            use_handler_docstrings=True,
            render_plugins=[JsonRenderPlugin()],
        ),
        logging_config=None,
    )
