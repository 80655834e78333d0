# The one file to edit for your cluster. Every job of this project reads it; `DIFFPRUNE_SITE=FILE` takes another one.

# What `sbatch` is asked for every job, as long options (`sbatch --help`); options given at submission come after these.
sbatch_options=(
    # --partition=gpu
    # --account=my_project
    # --qos=normal
    # --constraint=a100
    # --gpus-per-node=1
    # --mem=32G
    # --mail-type=FAIL
)

# What every job does before its program starts: modules, the Python environment. The current folder is this repository.
prepare() {
    # module load cuda/12.8
    if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
}
