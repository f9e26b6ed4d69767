import pytest
import torch

from mamba_unet.models.baselines.swin_unet import SwinBlock, SwinUNet, allowed_pairs, windows


def test_it_has_the_public_names_and_logits(assert_conforms):
    model = SwinUNet(in_channels=3)
    assert_conforms(model, "swin_unet", "swin_unet.", left_out=("attn_mask", "relative_position_index"))
    assert sum(p.numel() for p in model.parameters()) == 27_168_420


def test_windows_cut_a_map_row_by_row():
    x = torch.arange(24).view(1, 4, 6, 1)
    assert windows(x, 2)[0, :, :, 0].tolist() == [
        [0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]
    ]  # fmt: skip


def test_every_pair_may_where_nothing_is_shifted_or_padded():
    assert allowed_pairs(4, 6, 2, (0, 0), torch.device("cpu")) is None


def test_tokens_brought_over_from_the_other_side_and_padding_are_strangers():
    """Rows 0, 1, 2 and a padded row 3, shifted by 1: windows of rows (1, 2) and (3, 0); one column of width 2."""
    allowed = allowed_pairs(3, 2, 2, (1, 0), torch.device("cpu"))
    assert allowed[0].all()
    row_3, row_0 = slice(0, 2), slice(2, 4)
    assert allowed[1, row_3, row_3].all() and allowed[1, row_0, row_0].all()
    assert not allowed[1, row_3, row_0].any() and not allowed[1, row_0, row_3].any()


@pytest.mark.parametrize("shifted", [False, True])
def test_a_token_sees_its_window_and_nothing_else(shifted):
    torch.manual_seed(0)
    block = SwinBlock(8, 2, window_size=3, shifted=shifted, drop_path_rate=0.0)
    x = torch.randn(1, 7, 5, 8, requires_grad=True)
    block(x)[0, 0, 0].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    reach = 1 if shifted else 3  # shifted by one, the first window on the map has one row and one column
    assert seen[:reach, :reach].all() and seen.sum() == reach * reach


@pytest.mark.parametrize("shifted", [False, True])
def test_padding_is_not_looked_at(shifted):
    """Where all tokens are equal, a mean over any of them is the same, unless padding enters it."""
    torch.manual_seed(0)
    block = SwinBlock(8, 2, window_size=3, shifted=shifted, drop_path_rate=0.0)
    token = torch.randn(8)
    with torch.no_grad():
        value = block.attn.proj(block.attn.qkv(token)[16:])
        torch.testing.assert_close(block.attend(token.expand(1, 7, 5, 8)), value.expand(1, 7, 5, 8))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must divide dims"):
        SwinUNet(dims=(8, 16), depths=(1, 1), num_heads=(3, 2))
