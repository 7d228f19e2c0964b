"""The object stores of our own, for a test: started, and known to this process and its children."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from millstream.transforms import object_stores

from tests.services import gcs, s3
from tests.services.serving import NoServer

_SERVICES = {"gs": gcs, "s3": s3}


@contextmanager
def object_store(scheme: str, bucket: str) -> Iterator[str]:
    """The address of a server for ``gs`` or ``s3``, with a bucket made; the environment points to
    it. Where it cannot be had, the test is skipped."""
    service = _SERVICES[scheme]
    if reason := service.why_not():
        pytest.skip(reason)
    try:
        with service.running(bucket) as address, pytest.MonkeyPatch.context() as patch:
            for name, value in service.environment(address).items():
                patch.setenv(name, value)
            patch.setattr(object_stores, "_open", {})
            yield address
    except NoServer as error:
        pytest.skip(str(error))
