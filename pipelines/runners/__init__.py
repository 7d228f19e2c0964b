"""Runners: which one a job gets, what each needs of it, and what Beam says of them."""

from .choosing import DASK as DASK
from .choosing import LOCAL as LOCAL
from .choosing import TRACEBACK as TRACEBACK
from .choosing import bounded as bounded
from .choosing import cancelled as cancelled
from .choosing import chosen as chosen
from .choosing import for_streams as for_streams
from .choosing import is_prism as is_prism
from .choosing import is_single_process as is_single_process
from .choosing import is_streaming as is_streaming
from .choosing import keep_freed_memory as keep_freed_memory
from .choosing import quiet_beam as quiet_beam
from .choosing import ready as ready
from .choosing import refuse_unknown as refuse_unknown
from .choosing import root_message as root_message
from .choosing import stops_itself as stops_itself
from .choosing import warn as warn
from .choosing import works_here as works_here
from .flags import taken as taken
