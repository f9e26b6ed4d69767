"""The fused scan along every axis of a map, both ways. The public function is `mamba_unet.ops.cross_scan`."""
