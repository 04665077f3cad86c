"""Starts one detokenizer: `python -m detokenizer_svc`."""

from detokenizer_svc.service import DetokenizerService
from detokenizer_svc.settings import DetokenizerSettings
from detokenizer_svc.tokenizer_file import find_tokenizer_file, load_vocabulary, num_ids_of
from wire.lifecycle import run, serve
from wire.logs import configure_logging
from wire.messages import Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings


def main() -> None:
    """Reads the settings and serves until told to stop."""
    common, settings = load_settings("millrace-detokenizer", CommonSettings, DetokenizerSettings)
    configure_logging(common.log_level)
    run(_serve(common, settings))


async def _serve(common: CommonSettings, settings: DetokenizerSettings) -> None:
    file = find_tokenizer_file(settings.model_path, settings.tokenizer_path, settings.revision)
    vocabulary = load_vocabulary(file)
    node = await Node.connect(common, Stage.DETOKENIZER, settings.model_name)
    service = DetokenizerService(node, settings, vocabulary, common.drain_timeout, num_ids_of(file, vocabulary))
    await serve(node.instance, service, node.background, exit_on_stdin_eof=common.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
