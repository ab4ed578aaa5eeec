"""Work spread over threads."""

from __future__ import annotations

import threading

import pytest
import torch

from faceparse_core.rendering.threads import alone, spread


@pytest.fixture(params=[1, 2, 3])
def count(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_part_is_done_once_and_torch_keeps_its_threads(count):
    done = []
    spread(done.append, range(50))
    assert sorted(done) == list(range(50))
    assert torch.get_num_threads() == count
    begun_later = []
    thread = threading.Thread(target=lambda: begun_later.append((torch.zeros(9) + 1, torch.get_num_threads())))
    thread.start()
    thread.join()
    assert begun_later[0][1] == count


def test_no_part_uses_the_threads_of_torch(count):
    used = []
    spread(lambda part: used.append(torch.get_num_threads()), range(8))
    assert set(used) == {1}


def test_an_exception_reaches_the_caller(count):
    def work(part):
        if part == 3:
            raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 3"):
        spread(work, range(8))


def test_what_is_written_to_may_have_been_made_in_inference_mode(count):
    with torch.inference_mode():
        made = torch.zeros(8)
        spread(lambda part: made[part].add_(part), range(8))
    assert made.tolist() == list(range(8))


def test_what_is_done_alone_gives_its_result_and_its_error(count):
    assert alone(torch.get_num_threads) == 1
    with pytest.raises(ValueError, match="wrong"):
        alone(lambda: int("wrong"))
