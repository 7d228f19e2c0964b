"""Secrets that services keep: AWS's by moto, Google's through its own client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from millstream.transforms import secrets
from millstream.transforms.secrets import SecretError

from tests.services import s3
from tests.services.serving import or_skip

pytestmark = [pytest.mark.cloud, pytest.mark.service]

VERSION = "projects/p/secrets/db/versions/3"


@pytest.fixture
def aws(monkeypatch) -> Iterator[Any]:
    """A client of a Secrets Manager of our own."""
    with or_skip("secrets", s3.why_not, lambda: s3.running("bucket")) as address:
        monkeypatch.setattr(os, "environ", {**os.environ, **s3.environment(address)})
        import boto3  # pyright: ignore[reportMissingImports]

        yield boto3.client("secretsmanager", region_name="us-east-1")


def test_a_secret_of_aws(aws):
    made = aws.create_secret(Name="db", SecretString="hunter2")
    secrets.install({"A": made["ARN"]})
    assert os.environ["A"] == "hunter2"
    aws.put_secret_value(SecretId="db", SecretBinary=b"hunter3")
    secrets.install({"A": made["ARN"]})
    assert os.environ["A"] == "hunter3"


def test_a_secret_that_aws_does_not_have(aws):
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:none-a1b2c3"
    with pytest.raises(SecretError, match=f"^A: {arn}: cannot be had: .*ResourceNotFound"):
        secrets.install({"A": arn})


def test_a_secret_of_google(monkeypatch):
    """There is no Secret Manager to start here: the answer is made of its client's own types."""
    from google.cloud import secretmanager  # pyright: ignore[reportAttributeAccessIssue]
    from google.cloud.secretmanager_v1.types import AccessSecretVersionResponse, SecretPayload  # pyright: ignore[reportMissingImports]

    class Client:
        def access_secret_version(self, *, name: str) -> AccessSecretVersionResponse:
            assert name == VERSION
            return AccessSecretVersionResponse(payload=SecretPayload(data=b"hunter2"))

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(secretmanager, "SecretManagerServiceClient", Client)
    secrets.install({"A": VERSION})
    assert os.environ["A"] == "hunter2"
