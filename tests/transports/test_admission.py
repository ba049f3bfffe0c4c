from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provserver.transports.admission import Admission

ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:3::1"]


def test_so_many_may_wait_and_no_more_of_one_address() -> None:
    admission = Admission(3, 2)

    assert [admission.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [admission.enter("192.0.2.2") for _ in range(2)] == [True, False]
    admission.leave("192.0.2.1")
    assert [admission.enter(address) for address in ("192.0.2.3", "192.0.2.1")] == [True, False]


class Coming(RuleBasedStateMachine):
    """They come and go; a /64 is one address."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(4, 2)
        self.inside: list[str] = []

    @rule(address=st.sampled_from(ADDRESSES))
    def come(self, address: str) -> None:
        same = [each for each in self.inside if each[:14] == address[:14]]
        room = len(self.inside) < 4 and len(same) < 2
        assert self.admission.enter(address) is room
        if room:
            self.inside.append(address)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(self.inside))
        self.inside.remove(address)
        self.admission.leave(address)

    @invariant()
    def they_are_counted(self) -> None:
        assert self.admission.waiting == len(self.inside)
        assert len(self.admission._of) <= len(self.inside)


TestComing = Coming.TestCase
