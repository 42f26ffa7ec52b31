"""The same facts by other means, each a process in an environment of its own. Nothing here imports Kizashi."""
