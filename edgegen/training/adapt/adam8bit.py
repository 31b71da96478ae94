"""Adam with 8-bit moments (bitsandbytes), which skips steps and resumes like update.Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .library import importing

with importing("bitsandbytes"):
    import bitsandbytes as bnb

# Least number of weights of a tensor whose moments are rounded, which is one block. Adapters are
# small, so the library's 4096 would leave most in FP32.
SMALLEST = 256
# tables with the levels of the two moments, which are constants of the library
TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}


class Adam8bit(bnb.optim.Adam8bit):  # type: ignore[misc]
    """Adam whose state takes 2 bytes per weight and 8 bytes per 256 weights; tensors with fewer
    than SMALLEST weights keep FP32 moments.

    Tables are left out of a saved state, because they are the same for all parameters and their
    2 KB each are more than most adapters' moments. On a GPU the host waits for `found_inf` at each
    step, because the library counts steps on the host. On a CPU a step takes 20 times as long as
    the fused one in FP32 (32 ms against 1.5 ms for cas-dm's 96 tensors of rank 8), so this saves
    memory and not time.
    """

    def __init__(self, params: tuple[nn.Parameter, ...], betas: tuple[float, float]) -> None:
        # The first step would do this anyway, but a resumed run would start with another layout.
        for parameter in params:
            parameter.data = parameter.data.contiguous()
        super().__init__(params, lr=0.0, betas=betas, min_8bit_size=SMALLEST)
        self.found_inf = torch.zeros(())

    def step(self, closure: None = None) -> None:
        if not self.found_inf:
            super().step()

    def blank(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's state before its first step, without tables."""
        before = self.state.pop(parameter, None)
        # the indices matter only for overrides, which are never set
        self.init_state(self.param_groups[0], parameter, 0, 0)
        fresh = self.state.pop(parameter)
        if before is not None:
            self.state[parameter] = before
        return {key: torch.as_tensor(value) for key, value in fresh.items() if key not in TABLES}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does, without tables; the library would nest tensors one level
        deeper, for sharding.
        """
        state = torch.optim.Optimizer.state_dict(self)
        state["state"] = {
            index: {key: value for key, value in entry.items() if key not in TABLES}
            for index, entry in state["state"].items()
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        whole = {}
        for index, entry in state_dict["state"].items():
            tables = (
                {key: self.name2qmap[name] for key, name in TABLES.items()}
                if "absmax1" in entry
                else {}
            )
            whole[index] = {**entry, **tables, "step": int(entry["step"])}
        super().load_state_dict({**state_dict, "state": whole}, move_to_device)
