"""Reading back what an output holds; one module a kind of destination, named as in ``write``."""

from .filter import ALL as ALL
from .filter import AnyItem as AnyItem
from .filter import Compare as Compare
from .filter import Filter as Filter
from .filter import IsIn as IsIn
from .filter import Like as Like
from .filter import between as between
from .filter import is_in as is_in
from .filter import matching as matching
from .stored import Stored as Stored
from .stored import open_stored as open_stored
