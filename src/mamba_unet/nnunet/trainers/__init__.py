"""A folder for nnU-Net's environment variable nnUNet_extTrainer. Importing the trainers needs nnU-Net."""
