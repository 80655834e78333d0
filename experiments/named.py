"""What a command line names: the cells of tables."""

import argparse

from diffprune.runtime.errors import UserError
from experiments.planning import declarations
from experiments.planning.cells import Plan, plan


def planned(arguments: argparse.Namespace) -> Plan:
    """The plan of the tables that a parsed command line names, with its overrides and seeds."""
    if not arguments.tables:
        raise UserError(f"no table is named: give one of {', '.join(declarations.names())}")
    return plan(arguments.tables, arguments.overrides, getattr(arguments, "seeds", None))
