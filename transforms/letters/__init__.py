"""Dead letters read back from where they were written, and what became of them."""

from .letters import PAYLOADS as PAYLOADS
from .letters import Letters as Letters
from .letters import letters_of as letters_of
from .letters import open_letters as open_letters
from .letters import payloads as payloads
from .marks import Entry as Entry
from .marks import Mark as Mark
from .marks import Marks as Marks
from .marks import Outcome as Outcome
from .where import EVERY as EVERY
from .where import Where as Where
from .where import WhereError as WhereError
from .where import parse_where as parse_where
