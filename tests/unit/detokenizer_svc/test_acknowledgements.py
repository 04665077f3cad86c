"""Which batches a worker has been told of."""

from detokenizer_svc.acknowledgements import MAX_UNACKNOWLEDGED, Acknowledgements
from wire.messages import Peer

FIRST, SECOND = Peer("worker-1", 1), Peer("worker-2", 1)


def test_a_worker_is_told_of_its_last_batch_once() -> None:
    acknowledgements = Acknowledgements()
    assert not acknowledgements.done(FIRST, 1)
    assert not acknowledgements.done(FIRST, 2)
    assert acknowledgements.pending() == [FIRST]
    assert acknowledgements.take(FIRST) == 2
    assert acknowledgements.pending() == []


def test_a_worker_that_has_been_told_while_others_were_is_passed_over() -> None:
    acknowledgements = Acknowledgements()
    acknowledgements.done(FIRST, 1)
    for batch_seq in range(1, MAX_UNACKNOWLEDGED):
        acknowledgements.done(SECOND, batch_seq)
    pending = acknowledgements.pending()
    assert acknowledgements.done(SECOND, MAX_UNACKNOWLEDGED)
    assert acknowledgements.take(SECOND) == MAX_UNACKNOWLEDGED
    assert [acknowledgements.take(worker) for worker in pending] == [1, None]
