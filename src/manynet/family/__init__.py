"""Families: one set of weights and the networks that read them.

`Family` builds members; a `Blueprint` says how they read the shared weights. The other files of the
room bind, settle, mask and store families.
"""

from manynet.family._family import Family as Family
from manynet.family.blueprint import Blueprint as Blueprint
from manynet.family.blueprint import Depth as Depth
from manynet.family.blueprint import Follow as Follow
from manynet.family.blueprint import Note as Note
from manynet.family.blueprint import Report as Report

__all__ = ["Blueprint", "Depth", "Family", "Follow", "Note", "Report"]
