"""The ledger: what came into the station, what was answered, what was lost and why; hash-chained, in one SQLite file.

``writer`` takes records (the host's one thread), ``outbox`` knows what each subscriber is owed, ``retention`` and
``removal`` keep it within its size, ``evidence`` holds the files beside it, ``check`` proves it and ``reader`` shows it
from any process. Why it is built like this: docs/decisions/0014-ledger.md.
"""

from runtime.errors import LedgerError as LedgerError
from runtime.ledger.chain import Head as Head
from runtime.ledger.check import check as check
from runtime.ledger.errors import LedgerFull as LedgerFull
from runtime.ledger.outbox import Outbox as Outbox
from runtime.ledger.problem import Problem as Problem
from runtime.ledger.reader import Reader as Reader
from runtime.ledger.records import FrameKey as FrameKey
from runtime.ledger.removal import EvidencePolicy as EvidencePolicy
from runtime.ledger.removal import make_room as make_room
from runtime.ledger.removal import reconcile as reconcile
from runtime.ledger.removal import retire as retire
from runtime.ledger.retention import Retention as Retention
from runtime.ledger.retention import prune as prune
from runtime.ledger.totals import Event as Event
from runtime.ledger.writer import Ledger as Ledger
