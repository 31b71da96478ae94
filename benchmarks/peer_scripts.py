"""What other toolkits are asked to do, each as a program for its own environment: those of
`edgegen bench --peer`.
"""

from __future__ import annotations

from edgegen.workflows.bench_report.peer_scripts import MODELOPT as MODELOPT
from edgegen.workflows.bench_report.peer_scripts import NNCF as NNCF
from edgegen.workflows.bench_report.peer_scripts import OLIVE as OLIVE
from edgegen.workflows.bench_report.peer_scripts import ONNXRUNTIME as ONNXRUNTIME
