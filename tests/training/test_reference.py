from pathlib import Path

from mamba_unet.training.recipe import recipe_fields
from mamba_unet.training.reference import recipe_reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def test_the_page_of_keys_is_up_to_date():
    remedy = "python -m mamba_unet.training.reference > docs/recipes.md"
    assert PAGE.read_text(encoding="utf-8") == recipe_reference(), remedy


def test_every_key_has_its_row():
    page = recipe_reference()
    assert all(page.count(f"\n| `{key}` | ") == 1 for key, _ in recipe_fields())
    assert "| `optimizer.lr_pretrained_factor` | number | `1.0` | The learning rate of layers" in page
    assert "| `data` | text or null | `null` | Folder that `mamba-unet prepare` wrote. *place* |" in page
