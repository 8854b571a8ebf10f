"""Amazon's API: a client that waits and retries in bounds, and its refusals as the library's errors.

What is asked of a service belongs in the launcher of that service.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from finetune_platform.errors import FinetuneError, PermanentError, TransientError, Unreachable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

BUSY = {
    "CapacityProviderException",
    "InternalServerException",
    "InternalFailure",
    "LimitExceededException",
    "RequestLimitExceeded",
    "ResourceLimitExceeded",
    "ServerException",
    "ServiceQuotaExceededException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "ThrottlingException",
}
"""Refusals that the same request may escape later: quotas, capacity, trouble of the service's own."""


def aws_client(service: str) -> Any:
    """A client of `service` by the usual chain of credentials and the usual variables.

    Raises:
        Unreachable: There is no region or no readable configuration.
    """
    import boto3
    from botocore.config import Config

    with aws_failures(service):
        retries: dict[str, Any] = {"mode": "standard", "total_max_attempts": 4}
        return boto3.client(service, config=Config(connect_timeout=5, read_timeout=60, retries=retries))


@contextmanager
def aws_failures(what: str) -> Iterator[None]:
    """Turns boto3's errors inside the block into the library's.

    Raises:
        Unreachable: The service does not answer, or there are no credentials.
        TransientError: It is busy, or a quota is used up.
        PermanentError: It refuses the request.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refusal(what, error) from error
    except BotoCoreError as error:
        raise Unreachable(f"{what}: {error}", "look at AWS_REGION, the credentials and the network") from error


def error_code(error: "ClientError") -> str:
    """What the service calls its refusal."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _refusal(what: str, error: "ClientError") -> FinetuneError:
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message", error))
    if code in BUSY:
        return TransientError(f"{what}: {message} ({code})", "the same command may succeed later; look at the quotas")
    return PermanentError(f"{what}: {message} ({code})", "correct the task's launcher section, or the role's rights")
