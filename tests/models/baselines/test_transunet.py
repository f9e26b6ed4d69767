import pytest
import torch

from mamba_unet import build_model
from mamba_unet.models.baselines.transunet import TransUNet


def test_it_has_the_public_names_and_logits(assert_conforms):
    model = TransUNet(in_channels=3)
    assert_conforms(model, "transunet")
    assert sum(p.numel() for p in model.parameters()) == 105_276_356


def test_one_channel_is_three_that_are_equal():
    torch.manual_seed(0)
    one, three = (build_model("transunet", in_channels=n, size="nano").eval() for n in (1, 3))
    three.load_state_dict(one.state_dict())
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(x), three(x.expand(-1, 3, -1, -1)))


def test_the_position_embedding_is_resized_to_the_image():
    torch.manual_seed(0)
    model = build_model("transunet", size="nano").eval()  # learned on a grid of 2 x 2
    embeddings = model.transformer.embeddings
    torch.nn.init.zeros_(embeddings.patch_embeddings.weight)
    torch.nn.init.zeros_(embeddings.patch_embeddings.bias)
    with torch.no_grad():
        embeddings.position_embeddings.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 4, 1).expand_as(
            embeddings.position_embeddings
        ))  # fmt: skip
        same, wider = (embeddings(torch.zeros(1, 3, 32, width))[0][0, ..., 0] for width in (32, 96))
    assert same.tolist() == [[0, 1], [2, 3]]
    assert wider.shape == (2, 6)
    torch.testing.assert_close(wider[1] - wider[0], torch.full((6,), 2.0))  # down: only along the rows
    assert (wider.diff(dim=1) > 0).all() and wider.mean() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 100}, "multiple of 16"),
        ({"num_heads": 7}, "of num_heads"),
        ({"resnet_units": (3, 4)}, "3 resnet_units"),
        ({"decoder_channels": (8, 8)}, "5 decoder_channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        TransUNet(**sizes)


def test_an_image_of_one_token_is_as_in_a_batch():
    torch.manual_seed(0)
    model = build_model("transunet", size="nano").eval()
    x = torch.randn(2, 1, 16, 13)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([model(one) for one in x.split(1)]), model(x))
