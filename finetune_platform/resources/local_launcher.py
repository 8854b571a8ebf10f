"""Runs a training command on this machine as a process group of its own, and reads what it reports.

The group ends with the step, whatever ends the step: a cancelled run must free the GPU. What is trained is decided
by the command; other places to launch get files of their own.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from subprocess import PIPE, Popen
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource, Failure, PipesEnvContextInjector
from dagster import PipesTempFileMessageReader, open_pipes_session

from finetune_platform.resources.failures import failure
