"""Log lines in SGLang's form, and those that supervisors wait for at every level."""

import logging
import re

import pytest

from wire.logs import STATE_LOG, configure_logging

pytestmark = pytest.mark.usefixtures("restored_logging")


def test_a_line_has_sglangs_time_stamp(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("anything").info("Decode batch")
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] Decode batch\n", capsys.readouterr().err)


def test_a_state_is_logged_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("error")
    logging.getLogger("anything").warning("not shown")
    logging.getLogger(STATE_LOG).info("worker-1 is ready")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("] worker-1 is ready")
