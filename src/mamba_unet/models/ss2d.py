"""SS2D, the selective scan of a channels-last map along each of its axes; and what is left without it.

B batch, S the map's axes (H, W or D, H, W), D = d_inner = expand * d_model, K = 2 walks per axis, R = dt_rank,
N = d_state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.layers import CONV
from mamba_unet.ops import cross_scan


class WideLayerNorm(nn.LayerNorm):
    """LayerNorm that also takes an input of wider type than its own parameters, and then computes in that type."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps)


class GatedMixer(nn.Module):
    """SS2D without its scan: (B, *S, d_model) -> the same, for any S.

    A linear layer makes two branches; one passes a depth-wise convolution, SiLU, `scan` and LayerNorm, and is gated by
    SiLU of the other; a last linear layer brings it back to d_model. Here `scan` is the identity, which makes this the
    token mixer of the control `mamba_unet_no_scan`: the scan's parameters are absent, not idle, all others the same.

    Args:
        d_model: channels in and out.
        expand: d_inner / d_model.
        d_conv: kernel size of the depth-wise convolution (odd).
        spatial_dims: axes of the map, 2 or 3.
    """

    def __init__(self, d_model: int, expand: int = 2, d_conv: int = 3, spatial_dims: int = 2) -> None:
        super().__init__()
        d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        # the public checkpoints' name, also where it has three axes
        self.conv2d = CONV[spatial_dims](d_inner, d_inner, d_conv, padding=d_conv // 2, groups=d_inner)
        self.out_norm = WideLayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def scan(self, x: Tensor) -> Tensor:
        """(B, *S, D) -> the same."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (B, *S, D) each
        x = F.silu(self.conv2d(x.movedim(-1, 1))).movedim(1, -1)
        y = self.out_norm(self.scan(x)).to(z.dtype)
        return self.out_proj(y * F.silu(z))


class SS2D(GatedMixer):
    """The token mixer of a VSS block: (B, *S, d_model) -> the same, for any S.

    A `GatedMixer` whose scan is `cross_scan`: four walks over a map of two axes, six over one of three.

    The scan's state and its output stay in float32 under autocast: LayerNorm sees them before they are cast down, so
    large values cannot overflow half precision.

    Args:
        d_model: channels in and out.
        d_state: size of the hidden state N.
        expand: d_inner / d_model.
        d_conv: kernel size of the depth-wise convolution (odd).
        dt_rank: rank of delta's projection; by default ceil(d_model / 16).
        spatial_dims: axes of the map, 2 or 3.

    Parameter names are those of the public VMamba and Mamba-UNet checkpoints.
    Source: VMamba (arXiv 2401.10166), Mamba-UNet (arXiv 2402.05079) Figure 3.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 3,
        dt_rank: int | None = None,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(d_model, expand, d_conv, spatial_dims)
        d_inner = expand * d_model
        K = self.walks = 2 * spatial_dims
        self.d_state = d_state
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.x_proj_weight = nn.Parameter(torch.empty(K, self.dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(K, d_inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(K, d_inner))
        self.A_logs = nn.Parameter(torch.empty(K * d_inner, d_state))
        self.Ds = nn.Parameter(torch.empty(K * d_inner))
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1) -> None:
        """Mamba's initialisation: S4D-real A, D = 1, softplus(dt bias) log-uniform in [dt_min, dt_max]."""
        for walk in self.x_proj_weight:
            nn.init.kaiming_uniform_(walk, a=math.sqrt(5))
        nn.init.uniform_(self.dt_projs_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        dt = torch.empty_like(self.dt_projs_bias).uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=1e-4)
        self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_logs.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_logs))
        self.Ds.fill_(1)

    def scan(self, x: Tensor) -> Tensor:
        """Project x to delta, B and C and scan along every axis: (B, *S, D) -> (B, *S, D), at least float32."""
        K, D, R, N = self.walks, x.shape[-1], self.dt_rank, self.d_state
        projected = F.linear(x, self.x_proj_weight.flatten(0, 1))  # point-wise, hence in any order: one product
        projected = projected.unflatten(-1, (K, R + 2 * N))  # (B, *S, K, R + 2N)
        dt, B, C = projected.split([R, N, N], dim=-1)
        # read in float32 whatever the precision around it, as the public code does; conformance needs it
        A_logs = self.A_logs.float().to(torch.promote_types(x.dtype, torch.float32))
        A = -A_logs.exp().view(K, D, N)
        return cross_scan(x, dt, B, C, A, self.Ds.view(K, D).sum(0), self.dt_projs_bias, self.dt_projs_weight)
