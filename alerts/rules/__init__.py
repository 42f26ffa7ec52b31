"""Rules: conditions over signals, from YAML files to what is evaluated on columns. Pure but for reading files."""

from alerts.rules.check import check, check_book
from alerts.rules.document import RulebookError
from alerts.rules.expression import Compiled, Problem, compile_expression, evaluate_all
from alerts.rules.loader import load
from alerts.rules.model import Rule, RuleBook, Severity, render_reason
from alerts.rules.reload import RuleWatcher, reload
from alerts.rules.routes import Routes
from health.yamlfile import FileProblem

__all__ = [
    "Compiled",
    "FileProblem",
    "Problem",
    "Routes",
    "Rule",
    "RuleBook",
    "RuleWatcher",
    "RulebookError",
    "Severity",
    "check",
    "check_book",
    "compile_expression",
    "evaluate_all",
    "load",
    "reload",
    "render_reason",
]
