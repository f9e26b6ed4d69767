# make demo             the whole way on a synthetic data set: prepare, train, evaluate, predict, report
# make demo DATA=DIR    the same on your own data, ACDC for example
# make test             the tests
# make test-nnunet      those that need nnU-Net, MONAI Label's client and OpenVINO, in an environment of their own
# make docs             the documentation as a site, in site/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo

ifdef DATA
SOURCE := $(DATA)
else
SOURCE := $(OUT)/phantom
endif

.PHONY: demo test test-nnunet docs install install-test

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# The pinned torch comes first and alone: asked for by another package, the newest one would be taken. Where the index
# gives a CUDA build and none is wanted: make TORCH_INDEX=https://download.pytorch.org/whl/cpu ...
$(VENV)/.installed: pyproject.toml setup.py constraints.txt src/mamba_unet/ops/scan_kernel.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,docs]"
	touch $@

demo: install
ifndef DATA
	$(BIN)/mamba-unet phantom "$(SOURCE)"
endif
	$(BIN)/mamba-unet prepare "$(SOURCE)" $(OUT)/prepared
	rm -rf $(OUT)/run
	$(BIN)/mamba-unet train demo --data $(OUT)/prepared --out $(OUT)/run
	$(BIN)/mamba-unet evaluate $(OUT)/run --data $(OUT)/prepared
	$(BIN)/mamba-unet predict $(OUT)/run --data $(OUT)/prepared --out $(OUT)/predictions --overwrite --preview --statistics
	$(BIN)/mamba-unet report $(OUT)/run
	@echo "pictures: $(OUT)/predictions/*_preview.png; to look at them: $(BIN)/mamba-unet serve --checkpoint $(OUT)/run"

test: install-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

# nnU-Net and torchvision, which it brings, have no place in the environment of everyday: some forty packages. Of MONAI
# Label only the client is used, without what its server needs.
OTHERS := .venv-others

$(OTHERS)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/python -m pip install --quiet --upgrade pip
	$(OTHERS)/bin/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(OTHERS)/bin/python -m pip install --quiet -c constraints.txt -e ".[test]" "nnunetv2>=2.8,<2.9" requests openvino
	$(OTHERS)/bin/python -m pip install --quiet --no-deps "monailabel>=0.8.5,<0.9"
	touch $@

test-nnunet: $(OTHERS)/.installed
	$(OTHERS)/bin/python -m pytest tests/nnunet tests/serve/test_monai_label.py tests/exporting/test_run.py

# The variable silences a notice of Material about the future of MkDocs.
docs: install-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html; with search: $(PYTHON) -m http.server --directory site"
