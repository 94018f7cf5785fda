"""Runs the Triton kernels of deformable attention on a CPU: ``interpreted_triton.py INPUTS OUTPUTS``.

A process of its own, since Triton reads TRITON_INTERPRET=1 when it is imported. INPUTS holds a list of (value, sizes,
locations, weights, gradient), OUTPUTS gets one of (output, three gradients).
"""

import sys

import torch

from pivotnet.model.ops import deformable_attention_triton as kernels

results = []
for value, sizes, locations, weights, gradient in torch.load(sys.argv[1], weights_only=True):
    output = kernels.forward(value, sizes, locations, weights)
    results.append((output, *kernels.backward(gradient, value, locations, weights, sizes)))
torch.save(results, sys.argv[2])
