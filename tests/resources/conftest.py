"""A step that trains at each of Amazon's places."""

import pytest
from place_trainer import PlaceTrainer, make_trainer


@pytest.fixture(params=["sagemaker", "ecs"])
def trainer(request, aws, s3_url, task_file, tmp_path) -> PlaceTrainer:
    """Trains at each of Amazon's places; the run that the script reports is in the lake."""
    return make_trainer(request.param, s3_url, task_file, tmp_path)
