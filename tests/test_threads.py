"""Work spread over threads."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from faceparse_core import FaceParser
from faceparse_core.rendering import threads
from faceparse_core.rendering.threads import alone, led, paced, single_threads, spread


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


def test_what_is_led_steps_by_one_thread_and_spreads_over_all(count):
    def work():
        steps, used, together = torch.get_num_threads(), set(), threading.Barrier(count)

        def part(_):
            together.wait(10)  # nobody goes on before all are at it
            used.add(threading.get_ident())

        spread(part, range(count))
        return steps, len(used), led(torch.get_num_threads)

    assert led(work) == (1, count, 1)
    assert torch.get_num_threads() == count
    with pytest.raises(ValueError, match="wrong"):
        led(lambda: int("wrong"))


def test_what_is_led_makes_tensors_as_its_caller_does(count):
    assert not led(lambda: torch.zeros(1)).is_inference()
    with torch.inference_mode():
        assert led(lambda: torch.zeros(1)).is_inference()


def test_many_callers_are_led_at_once(count):
    sums = [0] * 12

    def call(index):
        def work():
            parts = []
            spread(parts.append, range(20))
            sums[index] = sum(parts)

        led(work)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(len(sums))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sums == [190] * 12


def test_single_threads_have_one_of_torchs_and_the_caller_as_many_as_before():
    before = torch.get_num_threads()
    pool = single_threads(3, "a test")
    assert {pool.submit(torch.get_num_threads).result() for _ in range(6)} == {1}
    assert torch.get_num_threads() == before
    pool.shutdown()


class Clocked(torch.nn.Module):
    """Takes a second with one thread and ``together`` seconds with all, by its own clock; keeps how many it had."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.together, self.now, self.used = 0.5, 0.0, []
        monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def forward(self, pixels):
        self.used.append(torch.get_num_threads())
        self.now += 1.0 if self.used[-1] == 1 else self.together
        return pixels + 1

    def looks(self, count):
        self.used.clear()
        for _ in range(count):
            assert torch.equal(paced(self, torch.zeros(4)), torch.ones(4))
        return self.used


@pytest.mark.parametrize("count", [2, 3], indirect=True)
def test_a_network_is_run_by_all_threads_unless_one_is_quicker(count, monkeypatch):
    network = Clocked(monkeypatch)
    assert network.looks(60) == [count, 1, *[count] * 58]
    network.together = 4.0  # another program keeps a processor busy
    assert network.looks(8) == [count, 1, count, *[1] * 5]
    assert set(network.looks(75)) == {1}
    assert network.looks(3) == [count, 1, 1]  # tried again after a while, and it is still busy
    network.together = 0.5
    network.now += 100
    assert network.looks(3) == [count] * 3


@pytest.mark.parametrize("count", [2], indirect=True)
def test_one_is_quicker_from_the_start(count, monkeypatch):
    network = Clocked(monkeypatch)
    network.together = 4.0
    assert network.looks(9) == [count, 1, count, count, *[1] * 5]


@pytest.mark.parametrize("count", [3], indirect=True)
def test_where_there_are_many_threads_one_is_tried_only_when_they_are_held_up(count, monkeypatch):
    monkeypatch.setattr(threads, "_FEW", 2)
    network = Clocked(monkeypatch)
    assert network.looks(5) == [count] * 5
    network.together = 4.0
    assert network.looks(6) == [count, 1, count, *[1] * 3]


@pytest.mark.parametrize("count", [2], indirect=True)
def test_one_slow_look_asks_but_changes_nothing_and_errors_come_through(count, monkeypatch):
    network = Clocked(monkeypatch)
    network.looks(60)
    network.together = 4.0
    network.looks(1)
    network.together = 0.5
    assert network.looks(4) == [1, *[count] * 3]
    with pytest.raises(TypeError, match="unsupported"):
        paced(network, SimpleNamespace(device=torch.device("cpu"), numel=lambda: 1))


def test_one_thread_sees_what_all_see(portrait):
    parser, before = FaceParser("lite", "cpu"), torch.get_num_threads()
    seen = []
    for count in (1, 2):
        torch.set_num_threads(count)
        seen += [parser.parse(portrait) for _ in range(3)]
    torch.set_num_threads(before)
    assert all(torch.equal(one.logits[0], seen[0].logits[0]) and one.faces == seen[0].faces for one in seen)
