"""The fused four-direction scan of SS2D. The public function is `mamba_unet.ops.ss2d_scan`."""
