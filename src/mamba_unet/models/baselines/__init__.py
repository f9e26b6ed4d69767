"""Networks that Mamba-UNet is compared with."""
