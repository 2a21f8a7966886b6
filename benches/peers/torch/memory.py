"""What PyTorch's CPU run needs beside the parameters and the batch: prints one line of JSON per workload.

  memory.py W3 W5

How it is counted, over one training step in steady state (after three others, so that the optimiser's state
exists), with the same nets and `zero_grad(set_to_none=True)` at the start, as a plain script has it:

peak_bytes   torch.profiler with profile_memory=True reports every allocation and release of the CPU allocator.
             Their running sum, from zero at the start of the step, is what the step holds beyond what was there
             before (parameters, batch, optimiser state); its maximum is the most that activations, gradients
             and temporaries take at one time. Gradients of the step before are freed before the profile begins.
state_bytes  The tensors in `optimizer.state`: momentum, or both moments of Adam.
need_bytes   peak_bytes + state_bytes: activations + gradients + optimiser state.
all_bytes    need_bytes + parameters + buffers + batch: what the library's plan counts, too.
saved_bytes  For comparison: distinct storages that autograd keeps for the backward pass, without the
             parameters and the batch (torch.autograd.graph.saved_tensors_hooks), plus one gradient per
             parameter; a sum by kind, without temporaries.

Not counted, in PyTorch's favour: what oneDNN and MKL allocate by themselves (workspaces, reordered weights).
"""
import json
import os
import sys
import tempfile

import torch

import bench


def tensors_of(state):
    for entry in state.values():
        for value in entry.values():
            if torch.is_tensor(value):
                yield value


def size(tensors):
    """Bytes of the distinct storages behind tensors."""
    seen = {}
    for t in tensors:
        storage = t.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def events(profile):
    """(time, bytes) of the allocator's reports, in order; bytes are negative for releases."""
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "trace.json")
    profile.export_chrome_trace(path)
    with open(path) as f:
        trace = json.load(f)["traceEvents"]
    found = [e for e in trace if e.get("name") == "[memory]" and e["args"].get("Device Type") == 0]
    os.remove(path)
    os.rmdir(folder)
    # Equal times keep the order of the file, which is the order of the reports.
    return [e["args"]["Bytes"] for e in sorted(found, key=lambda e: e["ts"])]


def measure(workload):
    model, optimizer, x, y = bench.workload(workload, "eager")
    loss_of = lambda: torch.nn.functional.cross_entropy(model(x), y)

    def step():
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(3):
        step()
        optimizer.zero_grad(set_to_none=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
        optimizer.zero_grad(set_to_none=True)
    live = peak = 0
    for change in events(profile):
        live += change
        peak = max(peak, live)

    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers(), x, y]}
    saved = {}

    def keep(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = loss_of()
    del loss
    state = size(tensors_of(optimizer.state))
    parameters = size(model.parameters())
    need = peak + state
    return {
        "workload": workload,
        "peak_bytes": peak,
        "state_bytes": state,
        "need_bytes": need,
        "all_bytes": need + parameters + size([*model.buffers(), x, y]),
        "saved_bytes": sum(saved.values()) + parameters,
        "version": torch.__version__,
    }


def main():
    for workload in sys.argv[1:] or ["W3", "W5"]:
        print(json.dumps(measure(workload)), flush=True)


main()
