"""Settings of the tests of training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders.cheap import trace_exports

_MODELS = "models"  # tests of the export itself; all others need only a graph that computes what the network does


@pytest.fixture(scope="module", autouse=True)
def _traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Export by tracing, in a tenth of the time of torch.export."""
    with pytest.MonkeyPatch.context() as patch:
        if _MODELS not in request.path.parts:
            trace_exports(patch.setattr)
        yield
