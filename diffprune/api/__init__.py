"""The package as a library: models that one holds, without Hydra and without a run folder."""
