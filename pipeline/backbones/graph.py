"""A forward pass on CUDA that was recorded once: one launch replays its hundreds of kernels, with the same bits.

Launching SlowFast's kernels one by one takes the one Python thread 7 ms a batch (H200, docs/gpu.md), in which it hands out no
video and takes no frame; a replay takes a fraction of one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UPS = 3
"""Passes before the recording: libraries choose their kernels and take their workspace in the first ones."""

Capture = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]


class GraphedForward:
    """Callable like the pass it records, for batches of one shape: frames on the device to features there, memory of its own.

    forward: no step may depend on values. blank: frames of that shape on the device, which become the recording's own.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], blank: torch.Tensor) -> None:
        self._frames, self._recorded = blank, forward  # its memory is what the recording runs in
        self._replay, self._features = capture(lambda: forward(blank))

    @property
    def shape(self) -> torch.Size:
        """Of the batches that it takes."""
        return self._frames.shape

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Queued on the current stream."""
        self._frames.copy_(frames)
        self._replay()
        return self._features.clone()


class NotRecorded(Exception):
    """A pass asks for something that cannot be recorded, such as a value or memory of the host; the first thing, in words."""


def capture(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Record what `run` does on the current CUDA device: a function that does it again, and the tensor that holds its result.

    On a stream of its own: torch's own one is of the device that recorded first, and records nothing of another. With a cuBLAS
    workspace of its own: those are kept by stream, and two recordings with the same one would write it at the same time, or
    after one of them gave it back (pytorch/pytorch#193402). Raises NotRecorded.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    first: RuntimeError | None = None
    torch._C._cuda_clearCublasWorkspaces()
    try:
        # what other threads of the process allocate meanwhile is their own affair
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                features = run()
            except RuntimeError as error:
                first = error
                raise
    except RuntimeError as error:  # the end of a recording that has failed fails too, and says less
        first = first or error
        if isinstance(first, torch.cuda.OutOfMemoryError):
            raise first from None
        raise NotRecorded(str(first).partition("\n")[0]) from first
    finally:
        torch._C._cuda_clearCublasWorkspaces()
    return graph.replay, features
