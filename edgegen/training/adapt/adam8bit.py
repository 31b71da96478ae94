"""Adam with moments of 8 bits (bitsandbytes), which skips and resumes as the loop's own does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .library import importing

with importing("bitsandbytes"):
    import bitsandbytes as bnb

# weights of a tensor whose moments are rounded: a block. Adapters are small, 4096 would leave most
# in FP32
SMALLEST = 256
# levels of the two moments: constants of the library
TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}


class Adam8bit(bnb.optim.Adam8bit):  # type: ignore[misc]
    """Its state is 2 bytes a weight and 8 bytes a 256 of them; tensors under SMALLEST weights keep
    FP32 moments.

    Tables are left out of a saved state: 2 KB for each parameter that are the same in all, more
    than most adapters' moments. On a GPU the host waits for `found_inf` at each step: the library
    counts steps on the host. On a CPU a step takes 20 times as long as the fused one of FP32 (32 ms
    against 1.5 for cas-dm's 96 tensors of rank 8): it saves memory, not time.
    """

    def __init__(self, params: tuple[nn.Parameter, ...], betas: tuple[float, float]) -> None:
        # its first step would do it, and a resumed run would begin with another layout in memory
        for parameter in params:
            parameter.data = parameter.data.contiguous()
        super().__init__(params, lr=0.0, betas=betas, min_8bit_size=SMALLEST)
        self.found_inf = torch.zeros(())

    def step(self, closure: None = None) -> None:
        if not self.found_inf:
            super().step()

    def blank(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state that the library gives a parameter before its first step, without tables."""
        before = self.state.pop(parameter, None)
        # places matter to overrides only, which nobody sets
        self.init_state(self.param_groups[0], parameter, 0, 0)
        fresh = self.state.pop(parameter)
        if before is not None:
            self.state[parameter] = before
        return {key: torch.as_tensor(value) for key, value in fresh.items() if key not in TABLES}

    def state_dict(self) -> dict[str, Any]:
        """As torch's own, without tables; the library hides tensors one level deeper, for
        sharding.
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
