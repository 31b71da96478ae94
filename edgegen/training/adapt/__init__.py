"""Low-rank adapters on a frozen base. (this file without torch: the command line reads it)"""

from __future__ import annotations

from typing import Literal

# format to which the linear layers of a frozen base are rounded
Kind = Literal["fp32", "int8", "nf4"]
