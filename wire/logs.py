"""The format of every log line: SGLang's time stamp, so that its log parsers read ours."""

import logging

STATE_LOG = "millrace.state"
"""The logger of the lines that supervisors wait for; they are written at every level."""


def configure_logging(level: str) -> None:
    """Logs to standard error; `level` is debug, info, warning or error."""
    logging.basicConfig(
        level=level.upper(),
        format="[%(asctime)s] %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,
    )
    logging.getLogger(STATE_LOG).setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
