"""Multi-head attention (Vaswani et al., 2017, arXiv:1706.03762, section 3.2) of projected queries, keys and values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, masked: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(c)) v for each of ``heads`` heads of c = C / heads channels, [B, T, C], of query [B, T, C],
    key and value [B, N, C]. ``masked``, bool [B, 1, T, N]: keys that a query does not see; each query sees one at
    least."""
    if query.device.type == "npu":
        import torch_npu

        # called directly, in the layout of the inputs: through torch's function each would be copied, heads first
        scale = (query.shape[-1] // heads) ** -0.5
        return torch_npu.npu_fusion_attention(query, key, value, heads, "BSH", atten_mask=masked, scale=scale)[0]
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    allowed = None if masked is None else ~masked
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2).flatten(2)
