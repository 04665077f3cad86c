"""`python -m gateway`: builds the gateway from flags and environment, and runs it."""

from gateway.service import GatewayService
from gateway.settings import GatewaySettings
from wire.lifecycle import run, serve
from wire.messages import Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings


def main() -> None:
    """The whole life of the process."""
    common, settings = load_settings("millrace gateway", CommonSettings, GatewaySettings)
    run(_serve(common, settings))


async def _serve(common: CommonSettings, settings: GatewaySettings) -> None:
    node = await Node.connect(common, Stage.GATEWAY, settings.model_name)
    service = GatewayService(node, common, settings)
    await serve(node.instance, service, node.background, exit_on_stdin_eof=common.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
