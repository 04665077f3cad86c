"""The rig that most of these tests begin with."""

import pytest

from tests.unit.gateway.recovery.rig import Rig


@pytest.fixture
def rig() -> Rig:
    """At its beginning: sent, not yet accepted."""
    return Rig()
