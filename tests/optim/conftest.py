"""What several files of these tests share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Torch's threads do not speed up products of small matrices, and wait long for each other on a busy machine."""
    torch.set_num_threads(1)
