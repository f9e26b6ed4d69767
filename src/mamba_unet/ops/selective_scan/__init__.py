"""Mamba's selective scan over one direction. The public function is `mamba_unet.ops.selective_scan`."""
