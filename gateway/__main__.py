"""`python -m gateway`: builds the gateway from flags and environment, and runs it."""

import sys

from gateway.http.api_keys import ApiKeyFileError, ApiKeys
from gateway.service import GatewayService
from gateway.settings import GatewaySettings
from wire.lifecycle import run, serve
from wire.messages import Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings


def main() -> None:
    """The whole life of the process."""
    common, settings = load_settings("millrace gateway", CommonSettings, GatewaySettings)
    try:
        api_keys = ApiKeys.read(settings.api_key, settings.api_key_file)
    except ApiKeyFileError as error:
        sys.exit(f"millrace gateway: error: {error}")
    run(_serve(common, settings, api_keys))


async def _serve(common: CommonSettings, settings: GatewaySettings, api_keys: ApiKeys) -> None:
    node = await Node.connect(common, Stage.GATEWAY, settings.model_name)
    service = GatewayService(node, common, settings, api_keys)
    await serve(node.instance, service, node.background, exit_on_stdin_eof=common.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
