import pytest

from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.training.loop import Training
from mamba_unet.training.recipe import ModelRecipe, OptimizerRecipe, Recipe, TrainerRecipe
from mamba_unet.training.signals import TrainingStopped
from mamba_unet.training.train import train
from mamba_unet.views.slices import Slices


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> PreparedDataset:
    """Eight synthetic cases, prepared."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "raw", cases=8, seed=0)
    return prepare(folder / "raw", folder / "prepared", progress=False)


@pytest.fixture
def recipe(phantom, tmp_path) -> Recipe:
    """A run of seconds."""
    return Recipe(
        data=str(phantom.folder),
        out=str(tmp_path / "run"),
        model=ModelRecipe(size="nano", arguments={"dims": [8, 16, 32], "drop_path_rate": 0.2}),
        view=Slices((32, 32)),
        batch_size=4,
        iterations=8,
        validate_every=4,
        optimizer=OptimizerRecipe(name="adamw", lr=1e-3),
        trainer=TrainerRecipe(accelerator="cpu", devices=1),
        workers=0,
    )


@pytest.fixture
def stopped_and_resumed(tmp_path, monkeypatch):
    """Trains a recipe into a folder of its own, stopped behind iteration `step` and resumed to its end; the folder."""

    def run(recipe, step, look=lambda batch: None):
        real = Training._iterate

        def once(self, batch):
            look(batch)
            real(self, batch)
            if self.step == step:
                self._stop("a test")

        recipe.out = str(tmp_path / "stopped")
        with monkeypatch.context() as patch, pytest.raises(TrainingStopped):
            patch.setattr(Training, "_iterate", once)
            train(recipe)
        return train(recipe, resume=True)

    return run
