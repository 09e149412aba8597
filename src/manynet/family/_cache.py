"""`MemberCache`: the members that a family keeps for reuse, within a limit on their copies."""

from __future__ import annotations

from manynet.family.member import Member
from manynet.space import Arch

__all__ = ["MemberCache", "limit_of"]


class MemberCache(dict[Arch, Member]):
    """The members built so far, by arch.

    What counts against a limit is the weights that members hold a copy of. Look up as in any
    dictionary; `put` and `drop` keep the count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        """Of the copies that all members hold."""
        self.excess: Member | None = None
        """The member last asked for, where it goes beyond the limit: it goes with the next."""

    def put(self, arch: Arch, member: Member, limit: int) -> None:
        """Keep a member; others go where there is no room for all."""
        self[arch] = member
        self.bytes += member.bytes
        self.make_room(member, limit)

    def drop(self, arch: Arch) -> None:
        """Forget a member."""
        self.bytes -= self.pop(arch).bytes

    def clear(self) -> None:
        """Forget all members."""
        super().clear()
        self.bytes, self.excess = 0, None

    def make_room(self, asked: Member, limit: int) -> None:
        """Keep within `limit` bytes, but for the member that is asked for."""
        if self.bytes > limit:
            others = [(a, m) for a, m in self.items() if m.bytes and m is not asked]
            # first those that nobody asked for since the last time, and of each the largest
            for arch, member in sorted(others, key=lambda one: (one[1].recent, -one[1].bytes)):
                if self.bytes > limit:
                    self.drop(arch)
                member.recent = False
        self.excess = asked if self.bytes > limit else None


def limit_of(shared: int, training: bool) -> int:
    """Return how many bytes copies may take beside `shared` bytes of shared weights."""
    return max(shared // 10, 1 << 24) if training else max(2 * shared, 1 << 30)
