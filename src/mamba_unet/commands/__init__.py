"""The commands, a file each: `add` describes the words it takes, `run` imports what it needs and does it."""

from mamba_unet.commands import (
    check,
    compare,
    evaluate,
    export,
    info,
    measure,
    phantom,
    predict,
    prepare,
    recipe,
    recipes,
    report,
    serve,
    train,
)

COMMANDS = (
    phantom,
    check,
    prepare,
    export,
    recipes,
    recipe,
    train,
    compare,
    evaluate,
    predict,
    measure,
    report,
    serve,
    info,
)
