"""Low-rank adapters on a frozen base. (this file without torch: the command line reads it)"""

from __future__ import annotations

from typing import Literal

# what the base's linear layers are rounded to while it is frozen
Kind = Literal["fp32", "int8", "nf4"]
