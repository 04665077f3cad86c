"""`python -m tokenizer_svc`: reads the settings, loads the tokenizer, serves until SIGTERM."""

import logging
import os
import sys

from tokenizer_svc.settings import TokenizerSettings
from wire.lifecycle import run, serve
from wire.logs import configure_logging
from wire.messages import Description, Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings, public_values

log = logging.getLogger(__name__)

_SWITCH_INTERVAL_S = 0.0005  # a template that renders in a thread must not keep the event loop waiting for 5 ms


def main() -> None:
    """The composition root of the tokenizer."""
    common, settings = load_settings("millrace-tokenizer", CommonSettings, TokenizerSettings)
    configure_logging(common.log_level)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads are ours; more of them would only fight for cores
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    run(_serve(common, settings))


async def _serve(common: CommonSettings, settings: TokenizerSettings) -> None:
    # transformers reads the environment when it is imported, and takes half a second: not for `--help`.
    from tokenizer_svc.lanes import EncodingLanes  # noqa: PLC0415
    from tokenizer_svc.served_model import ServedModel  # noqa: PLC0415
    from tokenizer_svc.service import TokenizerService  # noqa: PLC0415

    model = ServedModel.load(settings)
    log.info(
        "tokenizer of %s: %d tokens, vocabulary %d, context length %d, %s chat template",
        settings.model_name,
        len(model.tokenizer),
        model.vocab_size,
        model.window.length,
        "with" if model.tokenizer.has_chat_template else "without a",
    )
    description = Description(settings=public_values(settings), model=model.description(settings))
    node = await Node.connect(common, Stage.TOKENIZER, settings.model_name)
    service = TokenizerService(
        node,
        model,
        EncodingLanes(settings.tokenizer_threads),
        description,
        drain_timeout_s=common.drain_timeout,
    )
    await serve(node.instance, service, node.background, exit_on_stdin_eof=common.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
