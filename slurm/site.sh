# The one file to edit for your cluster. Every job of this project reads it, or the file that DIFFPRUNE_SITE names.

# Long options of `sbatch` for every job (`sbatch --help`); options given at submission go before these.
sbatch_options=(
    # --partition=gpu
    # --account=my_project
    # --qos=normal
    # --constraint=a100
    # --gpus-per-node=1
    # --mem=32G
    # --mail-type=FAIL
)

# What every job does before its program starts, such as loading modules. Python is that of the submitting command.
prepare() {
    # module load cuda/12.8
    if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
}
