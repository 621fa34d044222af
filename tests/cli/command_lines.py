"""A command line for every command."""

FEW = ("--prompts", "8", "--held-out", "6", "--random", "2")


TOP = (*FEW, "--algorithm", "eap", "--edges", "40")


COMMANDS = {
    "discover": ("discover", *TOP, "--out", "json-run"),
    "evaluate": ("evaluate", "{folder}", "--prompts", "4", "--random", "1"),
    "render": ("render", "{folder}", "picture.svg"),
    "export": ("export", "{folder}", "graph.json"),
    "compare": ("compare", "{folder}", "{folder}", "--edges", "30"),
    "compare-algorithms": (
        *(
            "compare-algorithms",
            "induction",
            "-m",
            "induction-2l",
            "--algorithms",
            "hisp,random-edges",
            "--edges",
            "20",
        ),
        *("--prompts", "4", "--held-out", "4", "--out", "compared"),
    ),
    "check-submission": ("check-submission", "{submission}"),
    "leaderboard": ("leaderboard", "{benchmark}"),
    "replay": ("replay", "{decided}", "--steps", "3"),
    "hypotheses": ("hypotheses", "{folder}", "--prompts", "4", "--random", "2", "--permutations", "9", "--edges", "3"),
    "stability": (
        "stability",
        "induction",
        "-m",
        "induction-2l",
        "--prompts",
        "4",
        "--edges",
        "20",
        "--resamples",
        "5",
    ),
    "certify": ("certify", "induction", "-m", "induction-2l", "--prompts", "4", "--edges", "20", "--samples", "50"),
    "path-patch": ("path-patch", "ioi", "a0.h6 -> m0 -> logits", "--prompts", "4"),
    "path-map": ("path-map", "ioi", "m3", "--prompts", "4"),
    "tree": ("tree", "{folder}", "--prompts", "4"),
    "roles": ("roles", "ioi", "--prompts", "4"),
    "activation-patch": ("activation-patch", "--what", "mlp", "--by", "position", "--prompts", "4"),
    "ablate": ("ablate", "ioi", "a0.h6", "m1", "--each", "--prompts", "4"),
    "tasks": ("tasks", "ioi", "--show", "1"),
    "models": ("models", "induction-2l"),
    "algorithms": ("algorithms",),
    "metrics": ("metrics",),
    "formats": ("formats",),
    "check-model": ("check-model", "induction-2l"),
    "check-pairs": ("check-pairs", "{pairs}"),
    "verify": ("verify", "tracr-hist", "--prompts", "8"),
    "bench": ("bench", "--show"),
}


CLEAN = "When Mary and John went to the store , John gave a drink to"


CORRUPTED = "When Mary and John went to the store , Mary gave a drink to"


def row(clean=CLEAN, corrupted=CORRUPTED, correct=" Mary", incorrect=" John"):
    return f'"{clean}","{corrupted}",{correct},{incorrect}\n'
