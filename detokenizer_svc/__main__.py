"""Starts one detokenizer: `python -m detokenizer_svc`."""

import logging
import sys

from detokenizer_svc.service import DetokenizerService
from detokenizer_svc.settings import DetokenizerSettings
from detokenizer_svc.tokenizer_file import find_tokenizer_file, load_vocabulary
from detokenizer_svc.vocabulary import Vocabulary
from wire.checkpoint import CheckpointError
from wire.lifecycle import run, serve
from wire.logs import configure_logging
from wire.messages import Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings

log = logging.getLogger(__name__)


def main() -> None:
    """Reads settings and tokenizer, then serves until told to stop."""
    common, settings = load_settings("millrace-detokenizer", CommonSettings, DetokenizerSettings)
    configure_logging(common.log_level)
    try:
        file = find_tokenizer_file(settings.model_path, settings.tokenizer_path, settings.revision)
        vocabulary = load_vocabulary(file)
    except CheckpointError as error:
        log.error("%s", error)  # the message says it all
        sys.exit(1)
    run(_serve(common, settings, vocabulary))


async def _serve(common: CommonSettings, settings: DetokenizerSettings, vocabulary: Vocabulary) -> None:
    node = await Node.connect(common, Stage.DETOKENIZER, settings.model_name)
    service = DetokenizerService(node, settings, vocabulary, common.drain_timeout)
    await serve(node.instance, service, exit_on_stdin_eof=common.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
